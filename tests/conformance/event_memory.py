"""What a stream has sent, kept in memory, for a client that comes back to it."""

from itertools import count

from mcp.server.streamable_http import EventCallback, EventId, EventMessage, EventStore, StreamId
from mcp_types import JSONRPCMessage


class EventMemory(EventStore):
    """Keeps every event of every stream, in order; its ids count them."""

    def __init__(self) -> None:
        self._events: dict[EventId, tuple[StreamId, JSONRPCMessage | None]] = {}
        self._ids = count(1)

    async def store_event(self, stream_id: StreamId, message: JSONRPCMessage | None) -> EventId:
        """Keep one event."""
        event_id = str(next(self._ids))
        self._events[event_id] = (stream_id, message)
        return event_id

    async def replay_events_after(
        self, last_event_id: EventId, send_callback: EventCallback
    ) -> StreamId | None:
        """Send what its stream has sent after this event."""
        if last_event_id not in self._events:
            return None
        stream_id, _ = self._events[last_event_id]
        for event_id, (its_stream_id, message) in list(self._events.items()):
            is_later = int(event_id) > int(last_event_id)
            if is_later and its_stream_id == stream_id and message is not None:
                await send_callback(EventMessage(message, event_id))
        return stream_id
