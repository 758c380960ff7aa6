"""What was said on the streams of one HTTP session, so that a client can pick up a lost one.

A stream that breaks is asked for again by the last event that was read of it; this is how an
answer reaches a client whose connection dropped while its call ran. An event's name says, too,
whose answer its stream is to bring: a later process, which knows none of these events, finds
that answer in the ledger.
"""

import asyncio
import base64
import binascii
import secrets
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import msgspec
from mcp.server.streamable_http import (
    GET_STREAM_KEY,
    EventCallback,
    EventId,
    EventMessage,
    EventStore,
    StreamId,
)
from mcp_types import JSONRPCError, JSONRPCMessage, JSONRPCResponse

from exai.calls.arguments_digest import size_bytes_of
from exai.core.message_ids import Id

_MAX_EVENTS = 500
_MAX_BYTES = 1_048_576
_SMALL_BYTES = 1000


class Asked(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A request of a client: its JSON-RPC id, and under which request id it is known here.

    `tool` is the tool's name, where it calls one.
    """

    id: Id
    method: str
    tool: str | None
    request_id: str


Fetch = Callable[[Asked], object]
"""Has the answer to a request stored as an event, as soon as it is known; never waits."""


class _Event(NamedTuple):
    number: int
    name: EventId
    stream: Asked | StreamId
    message: JSONRPCMessage | None
    size_bytes: int


class McpEvents(EventStore):
    """The latest events of a session, bounded in number and bytes; the newest is always there.

    The transport names a stream by the id of its request alone, which may be that of an earlier
    request; what it is to bring is said before, by `open`. An answer that no stream of this process
    is to bring is fetched, once, for all who ask.
    """

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._birth = secrets.token_hex(4)
        self._last_number = 0
        self._events: deque[_Event] = deque()
        self._size_bytes = 0
        self._open: dict[StreamId, Asked] = {}
        self._next = asyncio.Event()
        self._is_over = False

    @property
    def open_streams(self) -> list[StreamId]:
        """The streams whose answer is still to come."""
        return list(self._open)

    def open(self, asked: Asked) -> bool:
        """Know what a stream is to bring, until it has; False where its id is in use."""
        return self._open.setdefault(str(asked.id), asked) is asked

    def is_open(self, asked: Asked) -> bool:
        """Tell whether the answer of a stream is still to come."""
        return self._open.get(str(asked.id)) == asked

    def drop(self, asked: Asked) -> None:
        """Forget a stream that is to bring nothing."""
        self._open.pop(str(asked.id), None)

    def let_go(self) -> None:
        """Let nobody wait for more: who did not get an answer is to ask another process."""
        self._is_over = True
        self._next.set()

    async def store_event(self, stream_id: StreamId, message: JSONRPCMessage | None) -> EventId:
        """Keep an event; return how it is named."""
        stream = self._open.get(stream_id, stream_id)
        if _is_answer(message):
            self._open.pop(stream_id, None)
        return self._keep(stream, message)

    async def replay_events_after(
        self, last_event_id: EventId, send_callback: EventCallback
    ) -> StreamId | None:
        """Send what came after an event on its stream, and what comes, up to its answer.

        The stream of no request has none: it is returned, for the transport to go on with.
        """
        birth, number, asked = _read_name(last_event_id)
        if birth != self._birth:
            number = 0
        if asked is not None:
            await self._bring_answer(asked, number, send_callback)
            return None
        for event in self._later(GET_STREAM_KEY, number):
            await send_callback(event)
        return GET_STREAM_KEY

    async def _bring_answer(self, asked: Asked, number: int, send: EventCallback) -> None:
        """Send what follows on the stream of a request; without a gap, whenever it comes."""
        while not self._is_over:
            is_open = self.is_open(asked)
            following, last_number = self._next, self._last_number
            for event in self._later(asked, number):
                await send(event)
                if _is_answer(event.message):
                    return
            if not is_open and not following.is_set() and not self._is_fetched(asked):
                return
            number = last_number
            await following.wait()

    def _is_fetched(self, asked: Asked) -> bool:
        """Have an answer fetched, if nobody has; False where another request has its id now."""
        known = self._open.setdefault(str(asked.id), asked)
        if known is asked:
            self._fetch(asked)
        return known == asked

    def _later(self, stream: Asked | StreamId, number: int) -> list[EventMessage]:
        return [
            EventMessage(event.message, event.name)
            for event in self._events
            if event.number > number and event.stream == stream and event.message is not None
        ]

    def _keep(self, stream: Asked | StreamId, message: JSONRPCMessage | None) -> EventId:
        self._last_number += 1
        name = _name(self._birth, self._last_number, stream)
        size_bytes = _SMALL_BYTES
        if message is not None and not isinstance(message, JSONRPCError):
            said = message.result if isinstance(message, JSONRPCResponse) else message.params
            size_bytes += size_bytes_of(said)
        self._events.append(_Event(self._last_number, name, stream, message, size_bytes))
        self._size_bytes += size_bytes
        while len(self._events) > 1 and self._is_full():
            self._size_bytes -= self._events.popleft().size_bytes
        self._next.set()
        self._next = asyncio.Event()
        return name

    def _is_full(self) -> bool:
        return len(self._events) > _MAX_EVENTS or self._size_bytes > _MAX_BYTES


def _is_answer(message: JSONRPCMessage | None) -> bool:
    return isinstance(message, JSONRPCResponse | JSONRPCError)


def _name(birth: str, number: int, stream: Asked | StreamId) -> EventId:
    """Return an event's name: whose process it is of, which event it was, and for what."""
    name = f"{birth}.{number}"
    if not isinstance(stream, Asked):
        return name
    return f"{name}.{base64.urlsafe_b64encode(msgspec.json.encode(stream)).decode()}"


def _read_name(name: EventId) -> tuple[str, int, Asked | None]:
    """Return what a name says; of one that is none of ours: nothing."""
    birth, _, rest = name.partition(".")
    number, _, stream = rest.partition(".")
    try:
        asked = base64.urlsafe_b64decode(stream)
        return birth, int(number), msgspec.json.decode(asked, type=Asked) if asked else None
    except (binascii.Error, msgspec.MsgspecError, ValueError, RecursionError):
        return "", 0, None
