"""Telling an MCP client how a call of its fares: progress, and what servers write to its log."""

import asyncio
from typing import Any, cast, get_args

from mcp.server.context import ServerRequestContext
from mcp_types import LOG_LEVEL_META_KEY, LoggingLevel, ServerNotification
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from exai.core.replies import CallProgressed
from exai.transports.mcp_raw import RawMessage

_LEVELS: tuple[str, ...] = get_args(LoggingLevel)


class Telling:
    """What is said of one call, in the words of MCP, sent before its answer.

    MCP wants the numbers of progress to grow: where a tool gives none they are the seconds so far.
    """

    def __init__(self, ctx: ServerRequestContext[Any, Any], log_level: str | None) -> None:
        self._ctx = ctx
        self._levels = _levels_of(ctx, log_level)
        self._last = -1.0
        self._is_measured = False
        self._begun_at: float | None = None

    async def tell(self, said: CallProgressed) -> None:
        """Tell the client, if it wants to hear it."""
        if said.log is None:
            await self._tell_progress(said)
        elif said.log.get("level") in self._levels:
            await self._ctx.session.send_notification(
                cast(
                    ServerNotification,
                    RawMessage(method="notifications/message", params=said.log),
                ),
                related_request_id=self._ctx.request_id,
            )

    async def _tell_progress(self, said: CallProgressed) -> None:
        progress = said.progress
        if progress is None:
            if self._is_measured:
                return
            progress = self._seconds()
        else:
            self._is_measured = True
        if progress > self._last:
            self._last = progress
            await self._ctx.session.report_progress(progress, said.total, said.message)

    def _seconds(self) -> float:
        now = asyncio.get_running_loop().time()
        if self._begun_at is None:
            self._begun_at = now
        return round(now - self._begun_at, 3)


def _levels_of(ctx: ServerRequestContext[Any, Any], log_level: str | None) -> tuple[str, ...]:
    """Return the levels of the log that the client of a request wants: of 2026, none unasked."""
    if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
        asked = ((ctx.params or {}).get("_meta") or {}).get(LOG_LEVEL_META_KEY)
        return _LEVELS[_LEVELS.index(asked) :] if asked in _LEVELS else ()
    return _LEVELS[_LEVELS.index(log_level) :] if log_level in _LEVELS else _LEVELS
