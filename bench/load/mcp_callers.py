"""Connections that speak MCP: kept-alive HTTP, one call at a time, and a server's pipes."""

import asyncio
import os
from urllib.parse import urlsplit

from bench.load.caller import Call, Caller
from bench.load.mcp_messages import (
    INITIALIZED,
    MODERN_VERSION,
    SESSION_VERSION,
    call_request,
    discover,
    initialize,
    read_answer,
)

_READ_BYTES = 262_144


class HttpCaller(Caller, asyncio.Protocol):
    """One connection to an MCP server over HTTP, with a session where the older era has one."""

    def __init__(self, url: str, token: str, *, is_modern: bool) -> None:
        super().__init__()
        self._where = urlsplit(url)
        self._authorization = f"authorization: Bearer {token}\r\n" if token else ""
        self._is_modern = is_modern
        self._unread = b""
        self._opening: asyncio.Future[bytes] | None = None
        self._head = b""

    async def open(self) -> None:
        """Connect, have the server ready, and open a session where there are any."""
        loop = asyncio.get_running_loop()
        host, _, port = self._where.netloc.partition(":")
        self._transport, _ = await loop.create_connection(lambda: self, host, int(port))
        if self._is_modern:
            version = f"mcp-protocol-version: {MODERN_VERSION}\r\n"
            self._head = self._head_with(f"{version}mcp-method: server/discover\r\n")
            await self._ask(discover())
            self._head = self._head_with(f"{version}mcp-method: tools/call\r\nmcp-name: echo\r\n")
            return
        self._head = self._head_with("")
        response = await self._ask(initialize())
        session_id = _header(response, b"mcp-session-id")
        session = f"mcp-session-id: {session_id}\r\n" if session_id else ""
        self._head = self._head_with(f"mcp-protocol-version: {SESSION_VERSION}\r\n{session}")
        await self._ask(INITIALIZED)

    def call(self, call: Call) -> None:
        """Post a call."""
        self._post(call_request(call, is_modern=self._is_modern))

    async def close(self) -> None:
        """Disconnect."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Take what came, and the answer in it once it is whole."""
        self._unread += data
        end = _end_of_response(self._unread)
        if end is None:
            return
        response, self._unread = self._unread[:end], self._unread[end:]
        if self._opening is not None:
            opening, self._opening = self._opening, None
            opening.set_result(response)
        else:
            self.on_answer(read_answer(_message_in(response)))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that the connection has ended."""
        self.on_lost()

    async def _ask(self, body: bytes) -> bytes:
        self._opening = asyncio.get_running_loop().create_future()
        opening = self._opening
        self._post(body)
        response = await opening
        if not response.startswith(b"HTTP/1.1 2"):
            raise ConnectionError(response.decode())
        return response

    def _post(self, body: bytes) -> None:
        self._transport.write(self._head + b"content-length: %d\r\n\r\n" % len(body) + body)

    def _head_with(self, headers: str) -> bytes:
        return (
            f"POST {self._where.path} HTTP/1.1\r\nhost: {self._where.netloc}\r\n"
            "content-type: application/json\r\naccept: application/json, text/event-stream\r\n"
            f"{self._authorization}{headers}"
        ).encode()


def _header(response: bytes, name: bytes) -> str:
    head = response.partition(b"\r\n\r\n")[0]
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip().decode()
    return ""


def _end_of_response(unread: bytes) -> int | None:
    """Return where the first response ends, or None while it is not whole."""
    head_end = unread.find(b"\r\n\r\n")
    if head_end < 0:
        return None
    if length := _header(unread, b"content-length"):
        end = head_end + 4 + int(length)
        return end if len(unread) >= end else None
    if _header(unread, b"transfer-encoding") != "chunked":
        return head_end + 4
    last_chunk = unread.find(b"0\r\n\r\n", head_end)
    while last_chunk > 0 and unread[last_chunk - 2 : last_chunk] != b"\r\n":
        last_chunk = unread.find(b"0\r\n\r\n", last_chunk + 1)
    return last_chunk + 5 if last_chunk > 0 else None


def _message_in(response: bytes) -> bytes:
    """Return the JSON of a response, which an event stream has behind `data: `."""
    begin = response.find(b"data: {")
    if begin >= 0:
        begin += len(b"data: ")
        return response[begin : response.index(b"\r\n", begin)]
    return response.partition(b"\r\n\r\n")[2]


class StdioCaller(Caller):
    """The pipes of an MCP server; few enough calls are under way that a write never waits."""

    def __init__(self, fds: tuple[int, int]) -> None:
        super().__init__()
        self._output, self._input = fds
        self._unread = b""

    async def open(self) -> None:
        """Open the session."""
        os.write(self._input, initialize() + b"\n")
        while b"\n" not in self._unread:
            self._unread += os.read(self._output, _READ_BYTES)
        self._unread = b""
        os.write(self._input, INITIALIZED + b"\n")
        asyncio.get_running_loop().add_reader(self._output, self._read)

    def call(self, call: Call) -> None:
        """Write a call."""
        os.write(self._input, call_request(call) + b"\n")

    async def close(self) -> None:
        """Read no more; whoever started the server ends it."""
        asyncio.get_running_loop().remove_reader(self._output)

    def _read(self) -> None:
        *lines, self._unread = (self._unread + os.read(self._output, _READ_BYTES)).split(b"\n")
        for line in lines:
            self.on_answer(read_answer(line))
