"""Telling an MCP client what is new beside its calls: other tools, prompts and resources.

Before 2026 a client hears all of it; since then it asks for what it wants to hear, by a request
that lasts as long as it wants to (`subscriptions/listen`).
"""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from exai.connections.mcp_session import McpSession
from exai.core.mcp_words import RESOURCE_UPDATED
from exai.core.replies import (
    PromptsChanged,
    Reply,
    ResourcesChanged,
    ResourceUpdated,
    ToolsChanged,
)
from exai.protocols.mcp_news import NEWS_OF_OP, News, Subscription

_MAX_NEWS = 1000

Notify = Callable[[str, dict[str, Any]], Awaitable[None]]
"""Sends a notification: its method, and its `params`."""

_METHODS: dict[type[Reply], str] = {
    ToolsChanged: NEWS_OF_OP["tools_changed"],
    ResourcesChanged: NEWS_OF_OP["resources_changed"],
    PromptsChanged: NEWS_OF_OP["prompts_changed"],
}


class NewsOfSession:
    """Hears the news of a session while it is open; `tell` tells them, each once however often.

    `subscription` is what the client asked for; None: all there is.
    """

    def __init__(
        self, session: McpSession, subscription: Subscription | None, notify: Notify
    ) -> None:
        self._session = session
        self._subscription = subscription
        self._notify = notify
        self._untold: dict[News, None] = {}
        self._has_news = asyncio.Event()
        self._is_over = False

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

    async def tell(self) -> None:
        """Tell the news until cancelled, or told to end."""
        id_ = None if self._subscription is None else self._subscription.id
        while not self._is_over:
            await self._has_news.wait()
            self._has_news.clear()
            while self._untold:
                news = next(iter(self._untold))
                del self._untold[news]
                await self._notify(news.method, news.params(id_))

    def end(self) -> None:
        """Let `tell` return once it has told what it has heard."""
        self._is_over = True
        self._has_news.set()

    def _hear(self, reply: Reply) -> None:
        news = _news_of(reply)
        if news is None or len(self._untold) >= _MAX_NEWS:
            return
        if self._subscription is None or self._subscription.wants(news):
            self._untold[news] = None
            self._has_news.set()


def _news_of(reply: Reply) -> News | None:
    if isinstance(reply, ResourceUpdated):
        return News(RESOURCE_UPDATED, reply.uri)
    method = _METHODS.get(type(reply))
    return None if method is None else News(method)
