"""Telling an MCP client how a call of its fares: progress, and what servers write to its log."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from exai.core.replies import CallProgressed
from exai.protocols.mcp_eras import LOG_LEVEL_KEY, Era
from exai.protocols.mcp_logging import LEVELS, is_wanted
from exai.protocols.mcp_progress import ProgressCount, progress_token

Notify = Callable[[str, dict[str, Any]], Awaitable[None]]
"""Sends a notification: its method, and its `params`."""


class Telling:
    """What is said of one request, whose `_meta` says what its client wants to hear."""

    def __init__(
        self, meta: dict[str, Any], era: Era, log_level: str | None, notify: Notify
    ) -> None:
        self._notify = notify
        self._clock = asyncio.get_running_loop().time
        token = progress_token(meta)
        self._count = None if token is None else ProgressCount(token, self._clock())
        asked = meta.get(LOG_LEVEL_KEY)
        self._log_level = asked if era is Era.MODERN else log_level or LEVELS[0]

    async def tell(self, said: CallProgressed) -> None:
        """Tell the client, if it wants to hear it."""
        if said.log is not None:
            if is_wanted(said.log, self._log_level):
                await self._notify("notifications/message", said.log)
        elif self._count is not None:
            params = self._params(self._count, said)
            if params is not None:
                await self._notify("notifications/progress", params)

    def _params(self, count: ProgressCount, said: CallProgressed) -> dict[str, Any] | None:
        now = self._clock()
        if said.delta is not None and said.message is None:
            return count.streamed(now)
        return count.told(now, progress=said.progress, total=said.total, message=said.message)
