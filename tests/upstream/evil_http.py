"""An endpoint of HTTP, by hand on a socket, that answers as a test wants it.

It shakes hands and lists one tool (`evil`) as a server of 2025 with a session does; what
`tools/call` and the others get is for the test to say.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from exai.core.config import UpstreamConfig

Headers = dict[str, str]


class Asked:
    """One request that came, and the way to answer it."""

    def __init__(
        self, method: str, path: str, headers: Headers, body: bytes, writer: asyncio.StreamWriter
    ) -> None:
        self.http_method = method
        self.path = path
        self.headers = headers
        self.message: dict[str, Any] = json.loads(body) if body else {}
        self.writer = writer

    @property
    def method(self) -> str:
        return str(self.message.get("method", self.http_method))

    async def say(self, status: int, body: bytes | str = b"", **headers: str) -> None:
        """Answer whole."""
        body = body.encode() if isinstance(body, str) else body
        await self.begin(status, content_length=str(len(body)), **headers)
        await self.write(body)

    async def begin(self, status: int, **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} X", *(f"{_name(k)}: {v}" for k, v in headers.items())]
        await self.write("\r\n".join([*lines, "", ""]).encode())

    async def stream(self, *events: str) -> None:
        """Begin a stream of events that ends with the connection."""
        await self.begin(200, content_type="text/event-stream", connection="close")
        for event in events:
            await self.write(event.encode())

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def result(self, result: dict[str, Any], **headers: str) -> None:
        body = json.dumps({"jsonrpc": "2.0", "id": self.message["id"], "result": result})
        await self.say(200, body, content_type="application/json", **headers)

    def event(self, result: dict[str, Any], **fields: str) -> str:
        body = json.dumps({"jsonrpc": "2.0", "id": self.message["id"], "result": result})
        return "".join([*(f"{k}: {v}\n" for k, v in fields.items()), f"data: {body}\n\n"])


Answer = Callable[[Asked], Awaitable[None]]
TEXT = {"content": [{"type": "text", "text": "fine"}]}


class EvilServer:
    """What it was asked, in order, and its answers by method."""

    def __init__(self, scheme: str) -> None:
        self._scheme = scheme
        self.asked: list[Asked] = []
        self.answers: dict[str, Answer] = {}
        self.serving: set[asyncio.Task[Any]] = set()
        self.session_count = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}/mcp"

    def config(self, **settings: Any) -> UpstreamConfig:
        return UpstreamConfig(url=self.url, **settings)

    def methods(self) -> list[str]:
        return [asked.method for asked in self.asked]

    def of(self, method: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.method == method]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.serving.add(task)
        try:
            while (asked := await _read(reader, writer)) is not None:
                self.asked.append(asked)
                answer = self.answers.get(asked.method, self._as_usual)
                await answer(asked)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.serving.discard(task)
            writer.close()

    async def _as_usual(self, asked: Asked) -> None:
        match asked.method:
            case "initialize":
                self.session_count += 1
                await asked.result(
                    {
                        "protocolVersion": "2025-11-25",
                        "serverInfo": {"name": "evil", "version": "6"},
                        "capabilities": {"tools": {"listChanged": True}},
                    },
                    mcp_session_id=f"session-{self.session_count}",
                )
            case "tools/list":
                tool = {"name": "evil", "inputSchema": {"type": "object"}}
                await asked.result({"tools": [tool]})
            case "tools/call":
                await asked.result(TEXT)
            case "server/discover":
                await asked.say(400, "Bad Request: no session")
            case "GET":
                await asked.say(405)
            case _:
                await asked.say(202)


@asynccontextmanager
async def evil(tls: ssl.SSLContext | None = None) -> AsyncIterator[EvilServer]:
    server = EvilServer("http" if tls is None else "https")
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for serving in server.serving:
            serving.cancel()


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Asked | None:
    head = await reader.readline()
    if not head:
        return None
    method, path, _ = head.decode().split(" ", 2)
    headers: Headers = {}
    while line := (await reader.readline()).decode().strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method, path, headers, body, writer)


def _name(keyword: str) -> str:
    return keyword.replace("_", "-")
