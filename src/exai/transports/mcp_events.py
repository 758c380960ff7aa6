"""What was said on the streams of one HTTP session, so that a client can pick up a lost one.

A stream that breaks is asked for again by the last event that was read of it; this is how an
answer reaches a client whose connection dropped while its call ran.
"""

from collections import deque
from typing import NamedTuple

from mcp.server.streamable_http import EventCallback, EventId, EventMessage, EventStore, StreamId
from mcp_types import JSONRPCMessage, JSONRPCResponse

from exai.calls.arguments_digest import size_bytes_of

_MAX_EVENTS = 500
_MAX_BYTES = 4_194_304
_SMALL_BYTES = 1000


class _Kept(NamedTuple):
    number: int
    stream_id: StreamId
    message: JSONRPCMessage | None
    size_bytes: int


class McpEvents(EventStore):
    """The latest events of a session, bounded in number and bytes; the newest is always there."""

    def __init__(self) -> None:
        self._kept: deque[_Kept] = deque()
        self._size_bytes = 0
        self._last_number = 0

    async def store_event(self, stream_id: StreamId, message: JSONRPCMessage | None) -> EventId:
        """Keep an event; return how it is named."""
        self._last_number += 1
        size_bytes = _SMALL_BYTES
        if isinstance(message, JSONRPCResponse):
            size_bytes += size_bytes_of(message.result)
        self._kept.append(_Kept(self._last_number, stream_id, message, size_bytes))
        self._size_bytes += size_bytes
        while len(self._kept) > 1 and self._is_full():
            self._size_bytes -= self._kept.popleft().size_bytes
        return str(self._last_number)

    async def replay_events_after(
        self, last_event_id: EventId, send_callback: EventCallback
    ) -> StreamId | None:
        """Send what came after an event on its stream; None where the event is not known."""
        last = next((each for each in self._kept if str(each.number) == last_event_id), None)
        if last is None:
            return None
        for each in list(self._kept):
            is_later = each.number > last.number and each.stream_id == last.stream_id
            if is_later and each.message is not None:
                await send_callback(EventMessage(each.message, str(each.number)))
        return last.stream_id

    def _is_full(self) -> bool:
        return len(self._kept) > _MAX_EVENTS or self._size_bytes > _MAX_BYTES
