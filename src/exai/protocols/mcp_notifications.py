"""What an MCP client is told of a call of its before the answer: progress, and servers' logs.

Pure: time is handed in.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from exai.core.mcp_words import LOG_LEVEL_KEY, LOG_MESSAGE, PROGRESS, Era
from exai.core.tool import LOG_LEVELS
from exai.protocols.mcp_logging import is_wanted
from exai.protocols.mcp_progress import ProgressCount, progress_token


class Said(Protocol):
    """How far a call is, as the daemon says it, and as its client hears it."""

    @property
    def message(self) -> str | None:
        """What the tool says in words."""

    @property
    def progress(self) -> float | None:
        """How far it has counted."""

    @property
    def total(self) -> float | None:
        """How far it will."""

    @property
    def delta(self) -> str | None:
        """The next piece of streamed text."""

    @property
    def log(self) -> dict[str, Any] | None:
        """What an MCP server wrote to its client's log."""


class CallNotifications:
    """One request, whose `_meta` says what its client wants to hear."""

    def __init__(self, meta: Mapping[str, Any], era: Era, begun_at: float) -> None:
        token = progress_token(meta)
        self._count = None if token is None else ProgressCount(token, begun_at)
        self._era = era
        self._asked_level = meta.get(LOG_LEVEL_KEY)

    def told(
        self, said: Said, now: float, log_level: str | None
    ) -> tuple[str, dict[str, Any]] | None:
        """Return the method and the params of the notification, if there is one.

        `log_level` is what a client of before 2026 has set for all of its requests.
        """
        if said.log is not None:
            handshake_level = log_level or LOG_LEVELS[0]
            least = self._asked_level if self._era is Era.MODERN else handshake_level
            return (LOG_MESSAGE, said.log) if is_wanted(said.log, least) else None
        params = None if self._count is None else _counted(self._count, said, now)
        return None if params is None else (PROGRESS, params)


def _counted(count: ProgressCount, said: Said, now: float) -> dict[str, Any] | None:
    if said.delta is not None and said.message is None and said.progress is None:
        return count.streamed(now)
    return count.told(now, progress=said.progress, total=said.total, message=said.message)
