"""Telling an MCP client what is new beside its calls: other tools, prompts and resources.

Before 2026 a client hears all of it; since then it asks for what it wants to hear, by a request
that lasts as long as it wants to (`subscriptions/listen`).
"""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from mcp_types import SubscriptionFilter

from exai.connections.mcp_session import McpSession
from exai.core.replies import Reply, ToolsChanged

_TOOLS = "notifications/tools/list_changed"
_MAX_NEWS = 1000

_AGREED = "notifications/subscriptions/acknowledged"

Send = Callable[[str, dict[str, Any]], Awaitable[None]]
"""Sends a notification: its method, and its `params`."""

Note = tuple[str, str | None]
"""A notification's method, and the resource that it is about."""


class Listening:
    """Hears the news of a session while it is open; `run` tells them, each once however often.

    `wanted` is what the client asked for; None: all there is.
    """

    def __init__(self, session: McpSession, wanted: SubscriptionFilter | None, send: Send) -> None:
        self._session = session
        self._wanted = wanted
        self._send = send
        self._untold: dict[Note, None] = {}
        self._has_news = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._session.listeners.add(self._hear)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._session.listeners.discard(self._hear)

    async def run(self) -> dict[str, Any]:
        """Tell the news until cancelled."""
        if self._wanted is not None:
            agreed = self._wanted.model_dump(by_alias=True, mode="json", exclude_none=True)
            await self._send(_AGREED, {"notifications": agreed})
        while True:
            await self._has_news.wait()
            self._has_news.clear()
            while self._untold:
                note = next(iter(self._untold))
                del self._untold[note]
                method, uri = note
                await self._send(method, {} if uri is None else {"uri": uri})

    def _hear(self, reply: Reply) -> None:
        note = _note_of(reply)
        if note is not None and self._wants(note) and len(self._untold) < _MAX_NEWS:
            self._untold[note] = None
            self._has_news.set()

    def _wants(self, note: Note) -> bool:
        if self._wanted is None:
            return True
        method, uri = note
        if uri is not None:
            return uri in (self._wanted.resource_subscriptions or ())
        return method == _TOOLS and self._wanted.tools_list_changed is True


def _note_of(reply: Reply) -> Note | None:
    if isinstance(reply, ToolsChanged):
        return _TOOLS, None
    return None
