"""The channel that a WebSocket connection is, whichever library carries it.

Knows the promises of `Channel` and what both libraries do alike; what they do
differently is behind `LibraryConnection`. Knows nothing of what the messages mean.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar, NoReturn, Protocol

from exai.core.addresses import canonical_address, origin_of
from exai.core.channel import MAX_FIRST_MESSAGE_BYTES, Channel, ChannelClosed
from exai.protocols import close_codes
from exai.transports.upgrade_rules import Upgrade

ENTRY_ALLOWANCE_BYTES = MAX_FIRST_MESSAGE_BYTES + 32_768
"""What a peer may send before it is let in: the upgrade, its first message, their framing."""

QUEUED_FRAMES = 4
"""Frames that a library reads ahead of `receive`; each may be as large as a message."""

POLITE_CODES = (1000, 1012)
"""Closes that wait for the peer's goodbye: it is to have read everything before."""

_MAX_REASON_BYTES = 123
_NO_STATUS = 1005
_ABNORMAL_CLOSURE = 1006
_MESSAGE_TOO_BIG = 1009


class LibraryConnection(Protocol):
    """What both libraries' connections can do, as `on_picows` and `on_websockets` shape them."""

    closed_exception: ClassVar[type[Exception]]
    upgrade: Upgrade

    @property
    def remote_address(self) -> Any:
        """Return the peer's socket address, or None where it was gone at once."""

    async def recv(self) -> str | bytes:
        """Wait for the next message: text as `str`, binary as `bytes`."""

    async def send_text(self, message: bytes) -> None:
        """Send UTF-8 bytes as a text message; wait while the peer reads too slowly."""

    @property
    def is_ready(self) -> bool:
        """Tell whether the peer is there and reads as fast as it is written to."""

    def send_at_once(self, messages: Sequence[bytes]) -> None:
        """Send UTF-8 bytes as text messages in one go, while `is_ready`."""

    async def finish(self, code: int, reason: str) -> None:
        """Send a close frame and wait for the end, however long it takes."""

    def abort(self) -> None:
        """Drop the connection at once."""

    def lift_entry_limit(self) -> None:
        """Read on: the peer was let in."""


class WebSocketChannel(Channel):
    """One WebSocket connection."""

    def __init__(
        self,
        connection: LibraryConnection,
        close_timeout_s: float,
        trusted_proxies: Sequence[str] = (),
    ) -> None:
        self._connection = connection
        self._closed_exception = connection.closed_exception
        self._close_timeout_s = close_timeout_s
        self._max_message_bytes: int | None = MAX_FIRST_MESSAGE_BYTES
        self.subprotocol, self.bearer_token, forwarded_for = connection.upgrade
        peer = _address_of(connection.remote_address)
        self.remote_address = origin_of(peer, forwarded_for, trusted_proxies)

    async def receive(self) -> bytes:
        """Wait for the next text message; raises `ChannelClosed`."""
        try:
            message = await self._connection.recv()
        except self._closed_exception as closed:
            raise _channel_closed(closed) from None
        # The libraries judge UTF-8 only where they decode, and tell text from binary only so.
        if isinstance(message, bytes):
            await self._refuse(*close_codes.UNSUPPORTED_DATA)
        encoded = message.encode()
        if self._max_message_bytes is not None and len(encoded) > self._max_message_bytes:
            await self._refuse(_MESSAGE_TOO_BIG, "first message too long")
        return encoded

    def allow_large_messages(self) -> None:
        """Lift the limit of the first message; the library's own limit goes on to hold."""
        self._max_message_bytes = None
        self._connection.lift_entry_limit()

    async def send(self, message: bytes) -> None:
        """Send UTF-8 bytes as one text message; raises `ChannelClosed`."""
        try:
            await self._connection.send_text(message)
        except self._closed_exception as closed:
            raise _channel_closed(closed) from None

    @property
    def is_ready(self) -> bool:
        """Tell whether nothing speaks against `send_at_once`."""
        return self._connection.is_ready

    def send_at_once(self, messages: Sequence[bytes]) -> None:
        """Send UTF-8 bytes, each as one text message, together."""
        self._connection.send_at_once(messages)

    async def close(self, code: int, reason: str) -> None:
        """Say why and close; whoever does not answer in time is dropped."""
        with suppress(TimeoutError, self._closed_exception):
            try:
                async with asyncio.timeout(self._close_timeout_s):
                    await self._connection.finish(code, _short(reason))
            finally:
                self.abort()

    def abort(self) -> None:
        """Drop the connection at once."""
        self._connection.abort()

    async def _refuse(self, code: int, reason: str) -> NoReturn:
        await self.close(code, reason)
        raise ChannelClosed(code, reason)


def _channel_closed(closed: Any) -> ChannelClosed:
    """Translate a library's exception; whoever said goodbye first is believed."""
    closed.__traceback__ = None  # the connection keeps it, and it would keep the connection
    said = closed.rcvd if closed.rcvd_then_sent else closed.sent or closed.rcvd
    if said is None:
        return ChannelClosed(_ABNORMAL_CLOSURE, "connection lost")
    return ChannelClosed(int(said.code) or _NO_STATUS, said.reason or "")


def _address_of(peer: Any) -> str:
    """Return the address in a socket address; a peer that was gone at once has none."""
    return canonical_address(peer[0]) if peer else "0.0.0.0"


def _short(reason: str) -> str:
    return reason.encode()[:_MAX_REASON_BYTES].decode(errors="ignore")
