"""A WebSocket peer made of bytes, for what no well-behaved client does."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
CONTINUATION = 0

UPGRADE = {
    "Host": "127.0.0.1",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def request(path: str = "/", **changes: str | None) -> bytes:
    """Return an upgrade request; `host="evil"` replaces a header, `upgrade=None` drops one."""
    headers = dict(UPGRADE)
    for name, value in changes.items():
        wire_name = name.replace("_", "-").title()
        headers = {key: old for key, old in headers.items() if key.lower() != wire_name.lower()}
        if value is not None:
            headers[wire_name] = value
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    announced_bytes: int | None = None,
) -> bytes:
    """Return a frame, masked with zeros; it may announce more bytes than it brings."""
    length = len(payload) if announced_bytes is None else announced_bytes
    mask_bit = 0x80 if masked else 0
    first = bytes([(0x80 if fin else 0) | (rsv << 4) | opcode])
    if length < 126:
        header = first + bytes([mask_bit | length])
    elif length < 65_536:
        header = first + bytes([mask_bit | 126]) + struct.pack(">H", length)
    else:
        header = first + bytes([mask_bit | 127]) + struct.pack(">Q", length)
    return header + (b"\0\0\0\0" if masked else b"") + payload


def said(op: str, **fields: object) -> bytes:
    """Return the frame of one message."""
    return frame(TEXT, json.dumps({"op": op, **fields}).encode())


class RawPeer:
    """One TCP connection to a WebSocket server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, upgrade_request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send a request and return status, headers (lower-case) and body."""
        self.writer.write(upgrade_request)
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {}
        for line in head[1:-2]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(head[0].split()[1]), headers, body

    async def upgrade(self) -> None:
        """Become a WebSocket."""
        status, _, body = await self.ask(request())
        assert status == 101, body

    async def hello(self, **fields: object) -> dict[str, Any]:
        """Become a WebSocket, open a session, and return what the answer says."""
        await self.upgrade()
        await self.send(said("hello", **fields))
        return await self.hear()

    async def hear(self) -> dict[str, Any]:
        """Return the next message."""
        opcode, payload = await self.receive()
        assert opcode == TEXT, (opcode, payload[:100])
        message = json.loads(payload)
        assert isinstance(message, dict)
        return message

    async def send(self, *frames: bytes) -> None:
        """Send frames, waiting as the server makes us wait."""
        self.writer.write(b"".join(frames))
        await self.writer.drain()

    async def receive(self) -> tuple[int, bytes]:
        """Return opcode and payload of the next frame."""
        first, second = await self.reader.readexactly(2)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", await self.reader.readexactly(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", await self.reader.readexactly(8))
        return first & 0x0F, await self.reader.readexactly(length)

    async def close_code(self) -> int:
        """Wait for the close frame, say that nothing more comes, and return the frame's code."""
        opcode, payload = await self.receive()
        assert opcode == CLOSE, (opcode, payload[:100])
        self.writer.write_eof()
        return int(struct.unpack(">H", payload[:2])[0])

    async def end(self) -> None:
        """Wait until the server has ended the connection."""
        try:
            while await self.reader.read(65_536):
                pass
        except ConnectionError:
            pass


@asynccontextmanager
async def raw_peer(port: int) -> AsyncIterator[RawPeer]:
    """Connect to a port of this machine."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield RawPeer(reader, writer)
    finally:
        writer.transport.abort()
