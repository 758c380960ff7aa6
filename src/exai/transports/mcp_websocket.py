"""MCP over a channel: each text message is one JSON-RPC message, of either era."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

import msgspec
from mcp.server.runner import serve_dual_era_loop
from mcp.shared.message import SessionMessage
from mcp_types import (
    INVALID_REQUEST,
    PARSE_ERROR,
    JSONRPCMessage,
    JSONRPCResponse,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError

from exai.connections.mcp_session import McpSession
from exai.connections.outbox import Outbox
from exai.core.channel import Channel, ChannelClosed
from exai.core.errors import MalformedFrame
from exai.core.replies import Reply
from exai.protocols import close_codes
from exai.protocols.close_codes import Close
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


async def serve_mcp(
    channel: Channel,
    outbox: Outbox,
    server: McpServer,
    session: McpSession,
    slow_down: Callable[[], Awaitable[None]],
) -> Close:
    """Speak MCP with a peer until either side ends it; return why the daemon does.

    `slow_down` is waited for at each message. Raises `ChannelClosed` where the peer, or the
    network, ended it.
    """
    gone: ExceptionGroup[ChannelClosed] | None = None
    try:
        async with asyncio.TaskGroup() as tasks:
            incoming = _Incoming(channel, outbox, server, session, slow_down)
            speaking = tasks.create_task(_speak(server, session, incoming, outbox))
            close = await outbox.run(channel)
            speaking.cancel()
    except* ChannelClosed as group:
        gone = group
    if gone is not None:
        raise gone.exceptions[0]
    return close


async def _speak(
    server: McpServer, session: McpSession, incoming: "_Incoming", outbox: Outbox
) -> None:
    await serve_dual_era_loop(
        server.sdk,
        incoming,
        _Outgoing(outbox),
        lifespan_state=session,
        session_id=session.session_id,
        init_options=server.greeting,
    )
    outbox.finish(close_codes.NORMAL)


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
        outbox: Outbox,
        server: McpServer,
        session: McpSession,
        slow_down: Callable[[], Awaitable[None]],
    ) -> None:
        self._channel = channel
        self._outbox = outbox
        self._server = server
        self._session = session
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
                self._server.note_cancellation(self._session, message)
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
        return _refusal(PARSE_ERROR, str(malformed), None)
    try:
        return jsonrpc_message_adapter.validate_python(message, by_name=False)
    except ValidationError:
        given = message.get("id")
        usable = given if isinstance(given, str | int) and given is not True else None
        return _refusal(INVALID_REQUEST, "this is no message of JSON-RPC 2.0", usable)


def _refusal(code: int, message: str, request_id: str | int | None) -> Frame:
    error = {"code": code, "message": message}
    return Frame(_encode({"jsonrpc": "2.0", "id": request_id, "error": error}))


class _Outgoing(_Stream):
    """What the SDK says, on its way to the peer."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    async def send(self, item: SessionMessage, /) -> None:
        """Send a message. Never waits: the outbox bounds what piles up."""
        self._outbox.put(Frame(encode_message(item.message)))


def encode_message(message: JSONRPCMessage) -> bytes:
    """Return a message as JSON; results, which are plain already, are not looked at again."""
    if isinstance(message, JSONRPCResponse):
        return _encode({"jsonrpc": "2.0", "id": message.id, "result": message.result})
    return _encode(_plain(message))


def _plain(message: Any) -> Any:
    return message.model_dump(by_alias=True, mode="json", exclude_unset=True)
