"""One connection's life: hello, session, a reader that never waits for a call, the end."""

import asyncio
import itertools
from collections.abc import Callable
from contextlib import suppress

from exai.connections.auth_token_manager import AuthTokenManager
from exai.connections.connection_manager import ConnectionManager
from exai.connections.outbox import SlowConsumer
from exai.connections.session_handler import Link, SessionHandler
from exai.core import events
from exai.core.channel import Channel, ChannelClosed
from exai.core.events import EventSink
from exai.core.identity import Principal
from exai.core.peer import Peer
from exai.core.replies import Reply, TokenRotated
from exai.core.requests import Bye, Request, RotateToken
from exai.protocols import close_codes, exai_v1
from exai.protocols.close_codes import Close
from exai.protocols.hello import Hello, Refused, decode_hello, encode_refusal

_FRAMES_PER_TURN = 16
_DECODED_AT_ONCE_BYTES = 65_536

MessageHandler = Callable[[Peer, Request], None]


async def serve_connection(
    channel: Channel,
    *,
    connection_manager: ConnectionManager,
    session_manager: SessionHandler,
    auth_token_manager: AuthTokenManager,
    message_handler: MessageHandler,
    event_sink: EventSink,
    hello_timeout_s: float,
) -> None:
    """Serve one channel until either side ends it; the channel is closed afterwards."""
    try:
        with connection_manager.admit(channel):
            hello = await _receive_hello(channel, hello_timeout_s)
            principal = _authenticate(channel, hello, auth_token_manager)
            channel.allow_large_messages()
            takes_over = session_manager.takes_over(hello, principal)
            with connection_manager.admit_principal(principal, takes_over=takes_over):
                link = await session_manager.open(hello, principal, channel.remote_address)
                close = await _serve_link(channel, link, session_manager, message_handler)
    except Refused as refused:
        close = refused.close
        event_sink.emit(events.ConnectionRefused(channel.remote_address, close.reason))
        if refused.error is not None:
            await _say_why(channel, refused.error)
    except ChannelClosed:
        return
    await channel.close(close.code, close.reason)


async def _receive_hello(channel: Channel, hello_timeout_s: float) -> Hello:
    try:
        async with asyncio.timeout(hello_timeout_s):
            return decode_hello(await channel.receive())
    except TimeoutError:
        raise Refused(close_codes.HELLO_TIMEOUT) from None


def _authenticate(channel: Channel, hello: Hello, tokens: AuthTokenManager) -> Principal:
    """Return who says hello; a token in the frame and one in the header must be the same."""
    given = {token for token in (hello.token, channel.bearer_token) if token is not None}
    principal = tokens.authenticate(given.pop() if len(given) == 1 else None)
    if principal is None or given:
        raise Refused(close_codes.UNAUTHORIZED, "unauthorized")
    return principal


async def _serve_link(
    channel: Channel, link: Link, sessions: SessionHandler, handle: MessageHandler
) -> Close:
    """Read, write and tell again side by side; returns why the daemon ends the connection.

    Raises `ChannelClosed` where the peer or the network ended it.
    """
    close, reason = close_codes.SLOW_CONSUMER, "connection closed"
    gone: ExceptionGroup[ChannelClosed] | None = None
    try:
        async with asyncio.TaskGroup() as tasks:
            others = [
                tasks.create_task(_read(channel, link, sessions, handle)),
                tasks.create_task(sessions.tell_again(link)),
            ]
            close = await link.outbox.run(channel)
            reason = close.reason
            for task in others:
                task.cancel()
    except* SlowConsumer:
        reason = close.reason
    except* ChannelClosed as group:
        gone = group
    finally:
        sessions.detach(link.session, link.outbox, reason)
    if gone is not None:
        raise gone.exceptions[0]
    return close


async def _read(
    channel: Channel, link: Link, sessions: SessionHandler, handle: MessageHandler
) -> None:
    session = link.session
    for turn in itertools.count(1):
        message = await _decode(await channel.receive())
        if turn % _FRAMES_PER_TURN == 0:
            await asyncio.sleep(0)  # what has arrived already is received without waiting
        if session.outbox is not link.outbox:
            return  # another connection speaks for the session now
        if isinstance(message, Reply):
            session.send(message)
        elif isinstance(message, Bye):
            sessions.end(session, close_codes.NORMAL.reason)
        elif isinstance(message, RotateToken):
            session.send(_refuse_rotation(message))
        else:
            handle(session, message)


async def _decode(frame: bytes) -> Request | Reply:
    """Decode a frame; a large one in a thread, while only its own connection waits."""
    if len(frame) > _DECODED_AT_ONCE_BYTES:
        return await asyncio.to_thread(exai_v1.decode, frame)
    return exai_v1.decode(frame)


def _refuse_rotation(request: RotateToken) -> TokenRotated:
    """Answer in the protocol's words: no identity may rotate its token at run time yet."""
    is_complete = bool(request.old and request.new)
    return TokenRotated(error="unauthorized" if is_complete else "missing_params")


async def _say_why(channel: Channel, error: str) -> None:
    with suppress(ChannelClosed):  # whoever is gone needs no reason
        await channel.send(encode_refusal(error))
