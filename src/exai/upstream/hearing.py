"""What one instance of a server says beside its answers, and who gets to hear of it.

Knows lists, updates and lines of the log; knows nothing of processes, nor of the clients behind
those who hear.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

from exai.core import mcp_words
from exai.core.clock import Clock
from exai.core.errors import ToolFailed
from exai.upstream.catalog_listener import CatalogListener
from exai.upstream.json_rpc import FAULTS, ErrorAnswer
from exai.upstream.listing import MAX_URI_LENGTH, Description, Kind
from exai.upstream.server_life import ServerLife
from exai.upstream.server_log import ServerLog
from exai.upstream.updates import Updates
from exai.upstream.wishes import Wishes

_LISTING_PATIENCE_S = 10.0


class Hearing:
    """Hears one instance, life after life. `wishes` are what it is to tell, `log` is whose."""

    def __init__(
        self, server: str, wishes: Wishes, listener: CatalogListener, clock: Clock
    ) -> None:
        self.wishes = wishes
        self.log = ServerLog(clock)
        self._server = server
        self._listener = listener
        self._updates = Updates(self._tell_updated)
        wishes.on_missed = self._updates.note

    async def take_lists(self, life: ServerLife, kinds: Iterable[Kind]) -> None:
        """Pass on what the server has beside tools; what it does not say in time stays."""
        lists: dict[Kind, list[Description] | None] = {}
        for kind in kinds:
            try:
                async with asyncio.timeout(_LISTING_PATIENCE_S):
                    lists[kind] = await life.list(kind)
            except TimeoutError:
                self._listener.note_unlisted(self._server, kind, "it does not answer")
            except FAULTS as fault:
                self._listener.note_unlisted(self._server, kind, str(fault))
        await self._listener.take_lists(self._server, lists)

    async def watch(self, life: ServerLife, uri: str, session_id: str, max_count: int) -> None:
        """Have a session told of a resource's updates, once the server has agreed.

        Raises `ToolFailed` where it does not, and `QueueFull` for too many.
        """
        if not life.terms.offers("resources", "subscribe"):
            raise ToolFailed(
                f"{self._server} does not tell of updates", jsonrpc_code=mcp_words.METHOD_NOT_FOUND
            )
        try:
            await self.wishes.watch(uri, session_id, max_count=max_count)
        except ErrorAnswer as error:
            raise ToolFailed(error.message, jsonrpc_code=error.code) from None

    def take_notification(self, method: str, params: dict[str, Any]) -> None:
        """Hear what the server tells by itself."""
        match method, params:
            case mcp_words.LOG_MESSAGE, _:
                self.log.take(params)
            case mcp_words.RESOURCE_UPDATED, {"uri": str() as uri}:
                if len(uri) <= MAX_URI_LENGTH and self.wishes.watchers_of(uri):
                    self._updates.note(uri)

    def _tell_updated(self, uri: str) -> None:
        self._listener.note_updated(self._server, uri, self.wishes.watchers_of(uri))
