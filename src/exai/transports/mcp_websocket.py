"""MCP over a channel: each text message is one JSON-RPC message, of either era."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

import msgspec
from mcp.server.runner import serve_dual_era_loop
from mcp.shared.message import SessionMessage
from mcp_types import (
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
)
from pydantic import ValidationError

from exai.connections.mcp_session import McpSession
from exai.connections.outbox import Outbox
from exai.core.channel import Channel, ChannelClosed
from exai.core.errors import MalformedFrame
from exai.core.replies import Reply
from exai.protocols import close_codes
from exai.protocols.close_codes import Close
from exai.protocols.mcp_messages import (
    INVALID_REQUEST,
    PARSE_ERROR,
    Id,
    McpError,
    McpNotification,
    McpRequest,
    McpResponse,
    NotAMessage,
    encode_error,
    encode_result,
    read_message,
)
from exai.protocols.strict_json import check_limits, decode_object
from exai.transports.mcp_server import McpServer

_DECODED_AT_ONCE_BYTES = 65_536
_encode = msgspec.json.Encoder().encode


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
        self, channel: Channel, outbox: Outbox, server: McpServer, session: McpSession
    ) -> None:
        self._channel = channel
        self._outbox = outbox
        self._server = server
        self._session = session
        self._owed: set[Id] = set()
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

    def hear(self, message: JSONRPCMessage) -> None:
        """Take note of what the peer is owed, before the SDK sees its message."""
        self._server.note_cancellation(self._session, message)
        if isinstance(message, JSONRPCRequest) and message.method == "tools/call":
            self._owed.add(message.id)

    def say(self, message: JSONRPCMessage) -> None:
        """Send a message. Never waits: the outbox bounds what piles up."""
        self._outbox.put(Frame(encode_message(message)))
        if isinstance(message, JSONRPCResponse | JSONRPCError) and message.id is not None:
            self._owed.discard(message.id)
            self._close_if_done()

    async def _speak(self, slow_down: Callable[[], Awaitable[None]]) -> None:
        await serve_dual_era_loop(
            self._server.sdk,
            _Incoming(self._channel, self, self._outbox, slow_down),
            _Outgoing(self),
            lifespan_state=self._session,
            session_id=self._session.session_id,
            init_options=self._server.greeting,
        )
        self._outbox.finish(close_codes.NORMAL)

    def _close_if_done(self) -> None:
        if self._farewell is not None and not self._owed:
            self._outbox.finish(self._farewell)


class _Stream:
    """What the SDK wants of a stream beside its messages."""

    async def aclose(self) -> None:
        """Do nothing: the channel is closed by whoever opened it."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


class _Incoming(_Stream):
    """The messages of the peer, as the SDK reads them; unusable ones are answered here."""

    def __init__(
        self,
        channel: Channel,
        conversation: Conversation,
        outbox: Outbox,
        slow_down: Callable[[], Awaitable[None]],
    ) -> None:
        self._channel = channel
        self._conversation = conversation
        self._outbox = outbox
        self._slow_down = slow_down

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage:
        try:
            return await self.receive()
        except ChannelClosed:
            raise StopAsyncIteration from None

    async def receive(self) -> SessionMessage:
        """Wait for the next usable message; raises `ChannelClosed`."""
        while True:
            frame = await self._channel.receive()
            await self._slow_down()
            message = await self._read(frame)
            if isinstance(message, Frame):
                self._outbox.put(message)
            else:
                self._conversation.hear(message)
                return SessionMessage(message)

    async def _read(self, frame: bytes) -> JSONRPCMessage | Frame:
        """Return the message in a frame, or what answers one that has none."""
        if len(frame) > _DECODED_AT_ONCE_BYTES:
            return await asyncio.to_thread(_decode, frame)
        return _decode(frame)


def _decode(frame: bytes) -> JSONRPCMessage | Frame:
    try:
        check_limits(frame)
        message = decode_object(frame)
    except MalformedFrame as malformed:
        return Frame(encode_error(None, McpError(PARSE_ERROR, str(malformed))))
    try:
        return _as_sdk_message(read_message(message))
    except NotAMessage as fault:
        return Frame(encode_error(fault.id, fault))


def _as_sdk_message(message: McpRequest | McpNotification | McpResponse) -> JSONRPCMessage:
    """Return a message as the SDK has it; what is in it was read already."""
    match message:
        case McpRequest(id_, method, params):
            return JSONRPCRequest.model_construct(
                jsonrpc="2.0", id=id_, method=method, params=params
            )
        case McpNotification(method, params):
            return JSONRPCNotification.model_construct(jsonrpc="2.0", method=method, params=params)
        case McpResponse(id_, None, error):
            return JSONRPCError(jsonrpc="2.0", id=id_, error=_error_data(error))
        case McpResponse(id_, result, _):
            return JSONRPCResponse.model_construct(jsonrpc="2.0", id=id_, result=result)


def _error_data(error: dict[str, Any] | None) -> ErrorData:
    """Return what a client answered; one that answered nothing usable has failed, too."""
    try:
        return ErrorData.model_validate(error)
    except ValidationError:
        return ErrorData(code=INVALID_REQUEST, message="the client's answer has no result")


class _Outgoing(_Stream):
    """What the SDK says, on its way to the peer."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    async def send(self, item: SessionMessage, /) -> None:
        """Send a message."""
        self._conversation.say(item.message)


def encode_message(message: JSONRPCMessage) -> bytes:
    """Return a message as JSON; results, which are plain already, are not looked at again."""
    if isinstance(message, JSONRPCResponse):
        return encode_result(message.id, message.result)
    return _encode(_plain(message))


def _plain(message: Any) -> Any:
    return message.model_dump(by_alias=True, mode="json", exclude_unset=True)
