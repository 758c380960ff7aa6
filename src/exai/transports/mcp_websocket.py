"""MCP over a channel: each text message is one JSON-RPC message, of either era.

The first request that opens a connection decides its era, once; what comes before is refused.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self

from mcp.server.connection import Connection
from mcp.server.runner import serve_connection, serve_one
from mcp.shared.dispatcher import DispatchContext
from mcp.shared.transport_context import TransportContext

from exai.connections.mcp_session import McpSession
from exai.connections.outbox import Outbox
from exai.core.channel import Channel, ChannelClosed
from exai.core.errors import MalformedFrame
from exai.core.mcp_words import (
    CLIENT_CAPABILITIES_KEY,
    CLIENT_INFO_KEY,
    INITIALIZE,
    INITIALIZED,
    INVALID_REQUEST,
    PARSE_ERROR,
    PING,
    VERSION_KEY,
    Era,
)
from exai.core.message_ids import Id
from exai.core.replies import Reply
from exai.protocols import close_codes
from exai.protocols.close_codes import Close
from exai.protocols.mcp_eras import check_era, era_of_first, meta_of
from exai.protocols.mcp_messages import (
    McpError,
    McpNotification,
    McpRequest,
    NotAMessage,
    encode_error,
    encode_result,
)
from exai.transports.mcp_dispatcher import ChannelDispatcher
from exai.transports.mcp_reading import McpMessage, read_text
from exai.transports.mcp_server import McpServer

_MAX_EARLY = 8
_NOT_OPEN = (
    "the session is not initialized: send initialize first, or, with MCP of 2026-07-28, "
    "the version and the client in params._meta of each request"
)


class Frame(Reply, frozen=True):
    """One message, as it is written."""

    text: bytes


def frame_text(reply: Reply) -> bytes:
    """Return what is written of a frame: the `encode` of an `Outbox` of frames."""
    assert isinstance(reply, Frame)
    return reply.text


class Conversation:
    """What is said with one peer, over one channel."""

    def __init__(
        self,
        channel: Channel,
        outbox: Outbox,
        server: McpServer,
        session: McpSession,
        max_requests: int,
    ) -> None:
        self._max_requests = max_requests
        self._channel = channel
        self._outbox = outbox
        self._server = server
        self._session = session
        self._dispatcher: ChannelDispatcher | None = None
        self._farewell: Close | None = None

    async def run(self, slow_down: Callable[[], Awaitable[None]]) -> Close:
        """Speak MCP until either side ends it; return why the daemon does.

        `slow_down` is waited for at each message. Raises `ChannelClosed` where the peer, or the
        network, ended it.
        """
        gone: ExceptionGroup[ChannelClosed] | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                speaking = tasks.create_task(self._speak(slow_down))
                close = await self._outbox.run(self._channel)
                speaking.cancel()
        except* ChannelClosed as group:
            gone = group
        if gone is not None:
            raise gone.exceptions[0]
        return close

    def finish(self, close: Close) -> None:
        """Close once what was called is answered."""
        self._farewell = close
        self._close_if_done()

    async def _speak(self, slow_down: Callable[[], Awaitable[None]]) -> None:
        incoming = _Incoming(self._channel, self._say, slow_down)
        opening = await incoming.find_first_request()
        if opening is not None:
            era = era_of_first(opening)
            self._dispatcher = ChannelDispatcher(
                incoming,
                self._say,
                era,
                max_requests=self._max_requests,
                take_back=self._take_back,
                note_answered=self._close_if_done,
            )
            if era is Era.MODERN:
                await self._dispatcher.run(self._serve_alone, _ignore)
            else:
                await self._serve_session(self._dispatcher)
        self._outbox.finish(close_codes.NORMAL)

    async def _serve_session(self, dispatcher: ChannelDispatcher) -> None:
        session = self._session
        await serve_connection(
            self._server.sdk,
            dispatcher,
            connection=Connection.for_loop(dispatcher, session_id=session.session_id),
            lifespan_state=session,
            init_options=self._server.greeting,
        )

    async def _serve_alone(
        self,
        exchange: DispatchContext[TransportContext],
        method: str,
        params: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        """Serve a request that says by itself whose it is."""
        meta = meta_of(params or {})
        connection = Connection.from_envelope(
            meta[VERSION_KEY], meta.get(CLIENT_INFO_KEY), meta[CLIENT_CAPABILITIES_KEY]
        )
        return await serve_one(
            self._server.sdk,
            exchange,
            method,
            params,
            connection=connection,
            lifespan_state=self._session,
        )

    def _say(self, text: bytes) -> None:
        """Send a message. Never waits: the outbox bounds what piles up."""
        self._outbox.put(Frame(text))

    def _take_back(self, request_id: Id) -> None:
        self._server.take_back(self._session, request_id)

    def _close_if_done(self) -> None:
        if self._farewell is None or (self._dispatcher and self._dispatcher.owes_answers):
            return
        self._outbox.finish(self._farewell)


async def _ignore(
    exchange: DispatchContext[TransportContext], method: str, params: Mapping[str, Any] | None
) -> None:
    """A client of 2026 notifies of nothing but cancellations, which are heard already."""


class _Incoming:
    """The messages of the peer; unusable ones are answered here."""

    def __init__(
        self,
        channel: Channel,
        say: Callable[[bytes], None],
        slow_down: Callable[[], Awaitable[None]],
    ) -> None:
        self._channel = channel
        self._say = say
        self._slow_down = slow_down
        self._early: deque[McpMessage] = deque()

    async def find_first_request(self) -> McpRequest | None:
        """Return the first request, which will be read again, as will some of what came before.

        A ping opens nothing, and who asks before the handshake is told how to begin; it is enough
        to say that it is over.
        """
        early: deque[McpMessage] = deque(maxlen=_MAX_EARLY)
        is_open = False
        async for message in self:
            match message:
                case McpRequest(id_, method) if method == PING and not _opens(message):
                    self._say(encode_result(id_, {}))
                case McpRequest() if is_open or _opens(message):
                    self._early = early
                    early.append(message)
                    return message
                case McpRequest():
                    self._say(encode_error(message.id, _too_early(message)))
                case McpNotification(method) if method == INITIALIZED:
                    is_open = True
                    early.append(message)
                case _:
                    early.append(message)
        return None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> McpMessage:
        if self._early:
            return self._early.popleft()
        while True:
            try:
                frame = await self._channel.receive()
            except ChannelClosed:
                raise StopAsyncIteration from None
            await self._slow_down()
            try:
                return await read_text(frame)
            except NotAMessage as fault:
                self._say(encode_error(fault.id, fault))
            except MalformedFrame as malformed:
                self._say(encode_error(None, McpError(PARSE_ERROR, str(malformed))))


def _opens(request: McpRequest) -> bool:
    return request.method == INITIALIZE or era_of_first(request) is Era.MODERN


def _too_early(request: McpRequest) -> McpError:
    """Return what a request is told that came before the handshake."""
    try:
        check_era(request, Era.HANDSHAKE)
    except McpError as fault:
        return fault
    return McpError(INVALID_REQUEST, _NOT_OPEN)
