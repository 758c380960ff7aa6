"""The ways in for MCP clients, each with the official SDK's client behind it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal, NamedTuple

import anyio
import httpx2
import msgspec
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from exai.testing.running_daemon import TOKEN, RunningDaemon

PATIENCE_S = 20.0


class Door(NamedTuple):
    """A transport and an era."""

    transport: Literal["http", "ws"]
    mode: Literal["auto", "legacy"]

    @property
    def is_modern(self) -> bool:
        """Whether it speaks MCP of 2026."""
        return self.mode == "auto"


DOORS = [Door(transport, mode) for transport in ("http", "ws") for mode in ("auto", "legacy")]


def door_name(door: Door) -> str:
    """Return how a test's name shows a door."""
    return f"{door.transport}-{'2026' if door.is_modern else '2025'}"


@asynccontextmanager
async def mcp_client(
    daemon: RunningDaemon,
    door: Door,
    *,
    token: str = TOKEN,
    says_goodbye: bool = True,
    **options: Any,
) -> AsyncIterator[Client]:
    """Return a client that has come in through a door."""
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(headers=headers, timeout=PATIENCE_S) as http:
        if door.transport == "http":
            transport: Any = streamable_http_client(
                mcp_url(daemon), http_client=http, terminate_on_close=says_goodbye
            )
        else:
            transport = websocket_transport(daemon.url, headers)
        async with Client(transport, mode=door.mode, **options) as client:
            yield client


def mcp_url(daemon: RunningDaemon) -> str:
    """Return where streamable HTTP is spoken."""
    return f"{daemon.address.http_url}mcp"


@asynccontextmanager
async def websocket_transport(url: str, headers: dict[str, str]) -> AsyncIterator[Any]:
    """Return the two streams that a client of the SDK wants, over a WebSocket."""
    to_client, from_daemon = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    to_daemon, from_client = anyio.create_memory_object_stream[SessionMessage](0)

    async def read() -> None:
        async with to_client:
            with suppress(ConnectionClosed):
                async for frame in websocket:
                    message = jsonrpc_message_adapter.validate_json(frame)
                    await to_client.send(SessionMessage(message))

    async def write() -> None:
        async with from_client:
            async for item in from_client:
                said = item.message.model_dump(by_alias=True, mode="json", exclude_unset=True)
                await websocket.send(msgspec.json.encode(said).decode())

    async with (
        connect(url, subprotocols=["mcp"], additional_headers=headers) as websocket,  # type: ignore[list-item]
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(read)
        tasks.start_soon(write)
        try:
            yield from_daemon, to_daemon
        finally:
            tasks.cancel_scope.cancel()
            for stream in (to_client, from_daemon, to_daemon, from_client):
                stream.close()
