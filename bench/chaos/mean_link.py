"""One connection of a client that means no good: it may end in the middle of anything."""

from contextlib import suppress
from typing import Any, Self

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

Frame = dict[str, Any]

_OPEN_TIMEOUT_S = 5.0
_encode = msgspec.json.Encoder().encode


class LinkLost(Exception):
    """The connection has ended, or never began."""


class MeanLink:
    """A connection whose hello was accepted; `ack` is the daemon's answer to that."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self.ack: Frame = {}

    @classmethod
    async def open(cls, url: str, hello: Frame) -> Self:
        """Connect and say hello. Raises `LinkLost`."""
        try:
            socket = await connect(
                url,
                open_timeout=_OPEN_TIMEOUT_S,
                close_timeout=1.0,
                ping_interval=None,
                compression=None,
                max_size=None,
                proxy=None,
            )
        except (OSError, EOFError, TimeoutError, WebSocketException) as error:
            raise LinkLost(str(error)) from error
        link = cls(socket)
        try:
            await link.say("hello", **hello)
            link.ack = await link.hear()
        except BaseException:
            link.cut()
            raise
        return link

    async def say(self, op: str, **fields: object) -> None:
        """Send one message. Raises `LinkLost`."""
        try:
            await self._socket.send(_encode({"op": op, **fields}), text=True)
        except ConnectionClosed as closed:
            raise LinkLost(str(closed)) from None

    async def hear(self) -> Frame:
        """Wait for the next message. Raises `LinkLost`."""
        try:
            frame: Frame = msgspec.json.decode(await self._socket.recv(decode=False))
        except ConnectionClosed as closed:
            raise LinkLost(str(closed)) from None
        return frame

    def say_half(self, op: str, **fields: object) -> None:
        """Send the first half of a message, and be gone."""
        payload = _encode({"op": op, **fields})
        assert 125 < len(payload) < 65_536, "what is sent by halves has a header of one form"
        header = bytes([0x81, 0x80 | 126]) + len(payload).to_bytes(2, "big") + bytes(4)
        with suppress(RuntimeError):  # as asyncio says that the other side has just ended it
            self._socket.transport.write(header + payload[: len(payload) // 2])
        self._socket.transport.close()

    def cut(self) -> None:
        """Be gone at once, without a word."""
        self._socket.transport.abort()
