"""A channel without a network, and the peer at its other end.

Keeps every promise of `Channel` (the same contract tests run over it and over sockets);
knows no frames, pings or time-outs, since nothing here can be slow or lost by itself.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import NoReturn

from exai.core.channel import MAX_FIRST_MESSAGE_BYTES, Channel, ChannelClosed


def memory_channel_pair(
    *,
    remote_address: str = "127.0.0.1",
    subprotocol: str | None = None,
    bearer_token: str | None = None,
    max_message_bytes: int = 33_554_432,
    room: int = 16,
) -> tuple[Channel, "MemoryPeer"]:
    """Return a channel and its peer; each direction holds `room` messages that nobody has read."""
    to_daemon, to_peer = _Lane(room), _Lane(room)
    channel = _MemoryChannel(to_daemon, to_peer, max_message_bytes)
    channel.remote_address = remote_address
    channel.subprotocol = subprotocol
    channel.bearer_token = bearer_token
    return channel, MemoryPeer(to_peer, to_daemon)


class _Lane:
    """One direction: messages in order, then an end."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._messages: deque[str | bytes] = deque()
        self._end: ChannelClosed | None = None
        self._change = asyncio.Event()

    async def put(self, message: str | bytes) -> None:
        while len(self._messages) >= self._room and self._end is None:
            await self._change.wait()
        if self._end is not None:
            raise ChannelClosed(self._end.code, self._end.reason)
        self._messages.append(message)
        self._notify()

    async def get(self) -> str | bytes:
        while not self._messages:
            if self._end is not None:
                raise ChannelClosed(self._end.code, self._end.reason)
            await self._change.wait()
        self._notify()
        return self._messages.popleft()

    @property
    def has_room(self) -> bool:
        return len(self._messages) < self._room and self._end is None

    def put_at_once(self, messages: Sequence[str]) -> None:
        self._messages.extend(messages)
        self._notify()

    def end(self, code: int, reason: str) -> None:
        if self._end is None:
            self._end = ChannelClosed(code, reason)
            self._notify()

    def cut(self) -> None:
        self._messages.clear()
        self.end(1006, "connection lost")

    def _notify(self) -> None:
        self._change.set()
        self._change = asyncio.Event()


class _End:
    """What both ends of a connection have in common."""

    def __init__(self, inbox: _Lane, outbox: _Lane) -> None:
        self._inbox = inbox
        self._outbox = outbox

    async def close(self, code: int, reason: str) -> None:
        """Say why and close; what was sent before can still be read."""
        self._outbox.end(code, reason)
        self._inbox.end(code, reason)

    def abort(self) -> None:
        """Vanish: what was not read yet is lost."""
        self._outbox.cut()
        self._inbox.cut()


class _MemoryChannel(_End, Channel):
    def __init__(self, inbox: _Lane, outbox: _Lane, max_message_bytes: int) -> None:
        super().__init__(inbox, outbox)
        self._max_later_bytes = max_message_bytes
        self._max_bytes = min(MAX_FIRST_MESSAGE_BYTES, max_message_bytes)

    async def receive(self) -> bytes:
        message = await self._inbox.get()
        if isinstance(message, bytes):
            await self._refuse(1003, "text frames only")
        encoded = message.encode()
        if len(encoded) > self._max_bytes:
            await self._refuse(1009, "message too long")
        return encoded

    def allow_large_messages(self) -> None:
        self._max_bytes = self._max_later_bytes

    async def send(self, message: bytes) -> None:
        await self._outbox.put(message.decode())

    @property
    def is_ready(self) -> bool:
        return self._outbox.has_room

    def send_at_once(self, messages: Sequence[bytes]) -> None:
        self._outbox.put_at_once([message.decode() for message in messages])

    async def _refuse(self, code: int, reason: str) -> NoReturn:
        await self.close(code, reason)
        raise ChannelClosed(code, reason)


class MemoryPeer(_End):
    """The other end, as a test plays it."""

    async def send_text(self, message: str) -> None:
        """Send a text message; raises `ChannelClosed`."""
        await self._outbox.put(message)

    async def send_binary(self, message: bytes) -> None:
        """Send a binary message, which no daemon takes; raises `ChannelClosed`."""
        await self._outbox.put(message)

    async def receive(self) -> bytes:
        """Wait for the next message; raises `ChannelClosed` with the daemon's code and reason."""
        message = await self._inbox.get()
        assert isinstance(message, str)
        return message.encode()
