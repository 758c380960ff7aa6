"""How far a call is, as MCP counts it: numbers that grow with every notification.

A daemon also says that a call still waits or runs; until the tool itself counts, that becomes
the seconds since the call began. Pure: time is handed in.
"""

import math
from collections.abc import Mapping
from typing import Any

from exai.core.mcp_words import PROGRESS_TOKEN

_STREAMED_EVERY_S = 1.0


class ProgressCount:
    """The progress of one call, told under the token that its caller chose."""

    def __init__(self, token: int | str, begun_at: float) -> None:
        self._token = token
        self._begun_at = begun_at
        self._told_at = begun_at
        self._last: float | None = None
        self._offset: float | None = None
        self._total: float | None = None

    def streamed(self, now: float) -> dict[str, Any] | None:
        """Return what is told of streamed text: that there is some, once in a while."""
        if now - self._told_at < _STREAMED_EVERY_S:
            return None
        return self.told(now)

    def told(
        self,
        now: float,
        *,
        progress: float | None = None,
        total: float | None = None,
        message: str | None = None,
    ) -> dict[str, Any]:
        """Return the params of the next notification."""
        value = self._value(now, progress)
        if self._last is not None and value <= self._last:
            value = math.nextafter(self._last, math.inf)
        self._last, self._told_at = value, now
        if progress is not None:
            self._total = total
        params: dict[str, Any] = {PROGRESS_TOKEN: self._token, "progress": value}
        if self._total is not None:
            params["total"] = self._total + (self._offset or 0.0)
        if message is not None:
            params["message"] = message
        return params

    def _value(self, now: float, progress: float | None) -> float:
        if progress is None:
            return now - self._begun_at if self._offset is None else self._last or 0.0
        if self._offset is None:
            self._offset = self._last or 0.0
        return self._offset + progress


def progress_token(meta: Mapping[str, Any]) -> int | str | None:
    """Return the token under which a request wants to hear of its progress."""
    token = meta.get(PROGRESS_TOKEN)
    is_token = isinstance(token, (int, str)) and not isinstance(token, bool)
    return token if is_token else None
