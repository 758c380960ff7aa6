"""What a bridge's client wants to hear of, and that the daemon knows it.

The daemon is told again with each connection: a session may be another one.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from exai.cli.bridge_session import BridgeSession, CallFailed
from exai.core.mcp_words import INTERNAL_ERROR, RESOURCE_UPDATED, SET_LEVEL, SUBSCRIBE, UNSUBSCRIBE
from exai.core.message_ids import Id
from exai.core.requests import CallTool
from exai.protocols.mcp_messages import McpError
from exai.protocols.mcp_news import LISTS_CHANGED, News, Subscription

_MAX_LISTENERS = 64


class Subscriptions:
    """Resources that are subscribed to, requests that listen, and the level of logs."""

    def __init__(self, session: BridgeSession) -> None:
        self._session = session
        self._uris: set[str] = set()
        self._open: dict[Id, Subscription] = {}
        self._level: str | None = None
        self._was_told = False
        self._due: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {}
        self._is_due = asyncio.Event()

    def add(self, uri: str) -> None:
        """Take note of a resource that the daemon was told of."""
        self._uris.add(uri)

    def discard(self, uri: str) -> None:
        """Let a resource go."""
        self._uris.discard(uri)

    def may_hear(self, news: News) -> bool:
        """Tell whether a client that shook hands is told; what changed may be a part."""
        return news.uri is None or news.uri.startswith(tuple(self._uris))

    def wholes(self, news: News) -> list[News]:
        """Return the same news of what was asked for, which a part of it is news of, too."""
        if (part := news.uri) is None:
            return [news]
        watched = self._uris | self._listened()
        return [News(news.method, uri) for uri in sorted(watched) if part.startswith(uri)]

    def listeners(self, news: News) -> list[Id]:
        """Return the requests under which a client that listens is told."""
        return [id_ for id_, each in self._open.items() if each.wants(news)]

    def set_level(self, level: str) -> None:
        """Have the daemon know how serious a log has to be."""
        self._level = level
        self._tell(SET_LEVEL, "", {"level": level})

    @contextmanager
    def listening(self, subscription: Subscription) -> Iterator[None]:
        """Let a request hear what it asked for. Raises `McpError` where too many do."""
        if len(self._open) >= _MAX_LISTENERS:
            raise McpError(INTERNAL_ERROR, "Subscription limit reached")
        heard = self._listened()
        self._open[subscription.id] = subscription
        for uri in subscription.uris - heard:
            self._tell(SUBSCRIBE, uri, {"uri": uri})
        try:
            yield
        finally:
            del self._open[subscription.id]
            for uri in subscription.uris - self._listened():
                self._tell(UNSUBSCRIBE, uri, {"uri": uri})

    def tell_again(self) -> list[News]:
        """Have the daemon told of everything: the session may be another one.

        Returns what may have become news since the connection before, and was not heard.
        """
        if self._level is not None:
            self.set_level(self._level)
        uris = sorted(self._uris | self._listened())
        for uri in uris:
            self._tell(SUBSCRIBE, uri, {"uri": uri})
        is_first, self._was_told = not self._was_told, True
        if is_first:
            return []
        return [*LISTS_CHANGED, *(News(RESOURCE_UPDATED, uri) for uri in uris)]

    async def run(self) -> None:
        """Tell the daemon what is due. What it cannot do it is not asked again."""
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            while self._due:
                (what, uri), (method, params) = self._due.popitem()
                try:
                    await self._session.call(CallTool(name=method, arguments=params))
                except CallFailed:
                    self._due.setdefault((what, uri), (method, params))
                    break

    def _tell(self, method: str, uri: str, params: dict[str, Any]) -> None:
        what = "level" if method == SET_LEVEL else "resource"
        self._due[(what, uri)] = (method, params)
        self._is_due.set()

    def _listened(self) -> set[str]:
        return {uri for each in self._open.values() for uri in each.uris}
