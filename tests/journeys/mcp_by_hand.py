"""A client of streamable HTTP of before 2026 that speaks it by hand."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import msgspec

from exai.testing.running_daemon import TOKEN, RunningDaemon
from tests.journeys.mcp_doors import PATIENCE_S, mcp_url

INITIALIZE: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "tester", "version": "1"},
    },
}
LIST: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


def call(gate: str, request_id: int | str = 2) -> dict[str, Any]:
    params = {"name": "gate", "arguments": {"gate": gate}}
    return {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}


class Http:
    """A client that speaks streamable HTTP by hand."""

    def __init__(self, http: httpx2.AsyncClient, url: str, token: str | None) -> None:
        self.http = http
        self.url = url
        self.headers = {"Accept": "application/json, text/event-stream"}
        if token is not None:
            self.headers["Authorization"] = f"Bearer {token}"

    async def post(self, message: Any, **headers: str) -> httpx2.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(self.url, json=message, headers=self.headers | named)

    async def initialize(self, version: str = "2025-06-18") -> str:
        params = INITIALIZE["params"] | {"protocolVersion": version}
        answer = await self.post(INITIALIZE | {"params": params})
        assert answer.status_code == 200, answer.text
        session_id = answer.headers["mcp-session-id"]
        self.headers |= {"Mcp-Session-Id": session_id, "MCP-Protocol-Version": version}
        done = await self.post({"jsonrpc": "2.0", "method": "notifications/initialized"})
        assert done.status_code == 202
        return str(session_id)

    @asynccontextmanager
    async def posting(self, message: Any) -> AsyncIterator["Stream"]:
        """Send a message, and yield the stream that answers it."""
        async with self.http.stream("POST", self.url, json=message, headers=self.headers) as got:
            yield Stream(got)

    @asynccontextmanager
    async def listening(self, last_event_id: str | None = None) -> AsyncIterator["Stream"]:
        """Yield the stream of what is told unasked, or that of an event."""
        headers = self.headers | ({"Last-Event-ID": last_event_id} if last_event_id else {})
        async with self.http.stream("GET", self.url, headers=headers) as got:
            yield Stream(got)

    async def resume(self, last_event_id: str) -> Any:
        """Return the answer that the stream of an event brings."""
        async with self.listening(last_event_id) as stream:
            return await stream.message()

    async def delete(self) -> httpx2.Response:
        return await self.http.delete(self.url, headers=self.headers)


class Stream:
    """The events of one answer; `last_event_id` is the last one's that was read."""

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response
        self.last_event_id = ""
        self._lines = response.aiter_lines()

    async def event_id(self) -> str:
        """Return the id of the first event, which says nothing else."""
        assert await self._field() is not None
        return self.last_event_id

    async def message(self) -> Any:
        """Return what the next message is; None where the stream ends before."""
        while (data := await self._field("data")) is not None:
            if data:
                return msgspec.json.decode(data)
        return None

    async def _field(self, wanted: str = "id") -> str | None:
        async with asyncio.timeout(PATIENCE_S):
            async for line in self._lines:
                name, _, value = line.partition(":")
                if name == "id":
                    self.last_event_id = value.strip()
                if name == wanted:
                    return value.strip()
        return None


@asynccontextmanager
async def http_client(daemon: RunningDaemon, token: str | None = TOKEN) -> AsyncIterator[Http]:
    async with httpx2.AsyncClient(timeout=PATIENCE_S) as http:
        yield Http(http, mcp_url(daemon), token)


def events_of(answer: httpx2.Response) -> list[Any]:
    lines = answer.text.splitlines()
    return [msgspec.json.decode(line[5:]) for line in lines if line[5:].strip().startswith("{")]
