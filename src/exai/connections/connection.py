"""One connection's life: hello, session, a reader that never waits for a call, the end."""

import asyncio
import itertools
from collections.abc import Callable
from contextlib import suppress

from exai.connections.auth_token_manager import AuthTokenManager
from exai.connections.connection_manager import ConnectionManager
from exai.connections.rate_limiter import RateLimiter, Refusal
from exai.connections.session_handler import Attachment, SessionHandler
from exai.connections.token_rotation import TokenRotation
from exai.core import events
from exai.core.channel import Channel, ChannelClosed
from exai.core.errors import RateExceeded
from exai.core.events import EventSink
from exai.core.identity import Principal
from exai.core.lifecycle import running
from exai.core.outcomes import Failed
from exai.core.peer import Peer
from exai.core.replies import CallAnswered, Reply, RequestRefused
from exai.core.requests import Bye, CallTool, ListTools, Request, RotateToken
from exai.protocols import close_codes, exai_v1
from exai.protocols.close_codes import Close
from exai.protocols.hello import Hello, Refused, decode_hello, encode_refusal

_FRAMES_PER_TURN = 16
_DECODED_AT_ONCE_BYTES = 65_536

_REFUSABLE = (CallTool, ListTools, RotateToken)

MessageHandler = Callable[[Peer, Request], None]


async def serve_connection(
    channel: Channel,
    *,
    connection_manager: ConnectionManager,
    session_manager: SessionHandler,
    auth_token_manager: AuthTokenManager,
    message_handler: MessageHandler,
    rate_limiter: RateLimiter,
    token_rotation: TokenRotation,
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
                attachment = await session_manager.open(hello, principal, channel.remote_address)
                reader = _Reader(
                    channel,
                    attachment,
                    session_manager,
                    rate_limiter,
                    token_rotation,
                    message_handler,
                )
                close = await _serve_attached(channel, attachment, session_manager, reader)
    except Refused as refused:
        close = await _turn_away(channel, refused, rate_limiter, event_sink)
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


async def _turn_away(
    channel: Channel, refused: Refused, rate_limiter: RateLimiter, event_sink: EventSink
) -> Close:
    """Say why a peer is not let in, unless that was said there too often already."""
    close, address = refused.close, channel.remote_address
    is_failed_hello = refused.error is not None
    verdict = rate_limiter.note_refused(address, is_failed_hello=is_failed_hello)
    if refused.error is not None and verdict is Refusal.SAY_WHY:
        with suppress(ChannelClosed):  # whoever is gone needs no reason
            await channel.send(encode_refusal(refused.error))
    elif is_failed_hello:
        close = close_codes.TOO_MANY_FAILED_HELLOS
    if verdict is not Refusal.REFUSE_SILENTLY:
        event_sink.emit(events.ConnectionRefused(address, close.reason))
    return close


async def _serve_attached(
    channel: Channel, attachment: Attachment, sessions: SessionHandler, reader: "_Reader"
) -> Close:
    """Read, write and tell again side by side; returns why the daemon ends the connection.

    Raises `ChannelClosed` where the peer or the network ended it.
    """
    reason = "connection closed"
    gone: ExceptionGroup[ChannelClosed] | None = None
    try:
        async with running(reader.run(), sessions.tell_again(attachment)):
            close = await attachment.outbox.run(channel)
            reason = close.reason
    except* ChannelClosed as group:
        gone = group
    finally:
        sessions.detach(attachment.session, attachment.outbox, reason)
    if gone is not None:
        raise gone.exceptions[0]
    return close


class _Reader:
    """Reads a connection's frames, one after the other, and never waits for a call."""

    def __init__(
        self,
        channel: Channel,
        attachment: Attachment,
        sessions: SessionHandler,
        rates: RateLimiter,
        token_rotation: TokenRotation,
        handle: MessageHandler,
    ) -> None:
        self._channel = channel
        self._attachment = attachment
        self._sessions = sessions
        self._rates = rates
        self._token_rotation = token_rotation
        self._handle = handle

    async def run(self) -> None:
        """Read until the peer has gone, or another connection speaks for the session."""
        session = self._attachment.session
        for turn in itertools.count(1):
            message = await self._receive()
            if turn % _FRAMES_PER_TURN == 0:
                await asyncio.sleep(0)  # what has arrived already is received without waiting
            wait_s = self._rates.take(session.principal.name, self._channel.remote_address)
            refusal = await self._slow_down(message, wait_s) if wait_s else None
            if session.outbox is not self._attachment.outbox:
                return
            self._take(message if refusal is None else refusal)

    async def _receive(self) -> Request | Reply:
        """Receive and decode a frame; a large one in a thread, while only its connection waits."""
        frame = await self._channel.receive()
        if len(frame) > _DECODED_AT_ONCE_BYTES:
            return await asyncio.to_thread(exai_v1.decode, frame)
        return exai_v1.decode(frame)

    async def _slow_down(self, message: Request | Reply, wait_s: float) -> Reply | None:
        """Refuse what may be refused where too much comes; of the rest read more slowly."""
        principal = self._attachment.session.principal.name
        while wait_s:
            if isinstance(message, _REFUSABLE) and not await self._is_known(message):
                refusal_wait_s = self._rates.take_refusal(principal)
                if not refusal_wait_s:
                    return _too_fast(message, wait_s)
                wait_s = refusal_wait_s
            await asyncio.sleep(wait_s)
            wait_s = self._rates.take(principal, self._channel.remote_address)
        return None

    async def _is_known(self, message: CallTool | ListTools | RotateToken) -> bool:
        """Tell whether a request was sent before: it may run already, or have run."""
        if not isinstance(message, CallTool) or message.request_id is None:
            return False
        return await self._sessions.knows(self._attachment.session, message.request_id)

    def _take(self, message: Request | Reply) -> None:
        session = self._attachment.session
        if isinstance(message, Reply):
            session.send(message)
        elif isinstance(message, Bye):
            self._sessions.end(session, close_codes.NORMAL.reason)
        elif isinstance(message, RotateToken):
            self._token_rotation.begin(session, message)
        else:
            self._handle(session, message)


def _too_fast(message: CallTool | ListTools | RotateToken, wait_s: float) -> Reply:
    error = RateExceeded(
        f"too many messages; the next is taken in {wait_s:.3g} s",
        retry_after_s=round(wait_s, 3),
    ).describe()
    if isinstance(message, CallTool) and message.request_id is not None:
        return CallAnswered(message.request_id, Failed(error))
    return RequestRefused(message.request_id, error)
