"""The official MCP SDK's low-level server with an `echo` tool, and nothing else beside it.

    python bench/servers/mcp_lowlevel.py stateless|stateful|resumable|websocket picows|websockets

`stateless` and `stateful` are the SDK's HTTP application, in its default modes; `resumable` keeps
the latest events of all streams, too, as a server must whose clients can pick up a lost answer;
`websocket` has the SDK's loop over a WebSocket library: the least that serves MCP there. Says
where it listens.
"""

import asyncio
import itertools
import sys
from collections import deque
from types import TracebackType
from typing import Any, Self, cast

import uvicorn
import uvloop
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.runner import serve_dual_era_loop
from mcp.server.streamable_http import EventCallback, EventId, EventStore, StreamId
from mcp.shared.message import SessionMessage
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    JSONRPCMessage,
    TextContent,
    jsonrpc_message_adapter,
)

from bench.servers.announced_listener import announced_listener

SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


async def call_tool(
    ctx: ServerRequestContext[Any, Any], params: CallToolRequestParams
) -> CallToolResult:
    """Return the text."""
    assert params.arguments is not None
    return CallToolResult(content=[TextContent(text=params.arguments["text"])])


server: Server[Any] = Server(
    "bench", on_call_tool=call_tool, get_tool_input_schema={"echo": SCHEMA}.get
)


class Events(EventStore):
    """The latest events, of all sessions together."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._kept: deque[tuple[str, StreamId, JSONRPCMessage | None]] = deque(maxlen=500)

    async def store_event(self, stream_id: StreamId, message: JSONRPCMessage | None) -> EventId:
        """Keep an event; return how it is named."""
        event_id = str(next(self._numbers))
        self._kept.append((event_id, stream_id, message))
        return event_id

    async def replay_events_after(
        self, last_event_id: EventId, send_callback: EventCallback
    ) -> StreamId | None:
        """Nobody asks for that here."""
        raise NotImplementedError


class Frames:
    """Both directions of a connection, as the SDK wants them."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._frames = aiter(connection)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage:
        frame = await anext(self._frames)
        return SessionMessage(jsonrpc_message_adapter.validate_json(frame, by_name=False))

    async def send(self, item: SessionMessage) -> None:
        """Send a message."""
        frame = item.message.model_dump_json(by_alias=True, exclude_unset=True)
        await self._connection.send(frame)

    async def aclose(self) -> None:
        """Do nothing: the library closes its connection."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Do nothing."""


async def converse(connection: Any) -> None:
    """Speak MCP with one peer."""
    frames = Frames(connection)
    await serve_dual_era_loop(server, cast(Any, frames), frames, lifespan_state={})


async def serve_websockets(library: str) -> None:
    """Listen until the process is ended."""
    serve_with: Any
    if library == "picows":
        from picows.websockets.asyncio.server import serve as serve_with
    else:
        from websockets.asyncio.server import serve as serve_with
    listening = serve_with(converse, "127.0.0.1", 0, subprotocols=["mcp"], compression=None)
    async with listening as listener:
        port = next(iter(listener.sockets)).getsockname()[1]
        print(f"ready: ws://127.0.0.1:{port}/", flush=True)
        await asyncio.Event().wait()


def main(kind: str, library: str) -> None:
    """Serve until the process is ended."""
    if kind == "websocket":
        uvloop.run(serve_websockets(library))
        return
    app = server.streamable_http_app(
        stateless_http=kind == "stateless",
        event_store=Events() if kind == "resumable" else None,
        retry_interval=500,
    )
    with announced_listener() as listener:
        uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])


if __name__ == "__main__":
    main(*sys.argv[1:])
