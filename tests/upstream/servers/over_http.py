"""An MCP server on the official SDK, reached over streamable HTTP, in every way it offers.

Writes its port when it listens. --legacy (knows nothing of 2026), --stateless, --json (answers
without streams), --resumable (keeps what it streamed), --port N, --token TOKEN (lets in nobody
without it), --slash (redirects /mcp to /mcp/), --slow-end (ends when all is answered).
"""

import argparse
import asyncio
import os
import socket
import sys
from typing import Annotated, Any

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.streamable_http import EventCallback, EventId, EventMessage, EventStore, StreamId
from mcp_types import (
    ElicitRequest,
    ElicitRequestFormParams,
    InputRequiredResult,
    JSONRPCMessage,
    TextContent,
)
from pydantic import BaseModel, Field
from starlette.responses import PlainTextResponse, RedirectResponse

options = argparse.ArgumentParser()
options.add_argument("--legacy", action="store_true")
options.add_argument("--stateless", action="store_true")
options.add_argument("--json", action="store_true")
options.add_argument("--resumable", action="store_true")
options.add_argument("--slash", action="store_true")
options.add_argument("--slow-end", action="store_true")
options.add_argument("--port", type=int, default=0)
options.add_argument("--token")
args = options.parse_args()

server = MCPServer("over-http", version="9")
waiting: list[str] = []
counts = {"runs": 0, "cancelled": 0, "deleted": 0}
seen_headers: list[dict[str, str]] = []


class Events(EventStore):
    """Keeps all that was streamed."""

    def __init__(self) -> None:
        self._events: list[tuple[StreamId, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: StreamId, message: JSONRPCMessage | None) -> EventId:
        self._events.append((stream_id, message))
        return str(len(self._events))

    async def replay_events_after(
        self, last_event_id: EventId, send_callback: EventCallback
    ) -> StreamId | None:
        stream_id, _ = self._events[int(last_event_id) - 1]
        for number, (stream, message) in enumerate(self._events, 1):
            if stream == stream_id and number > int(last_event_id) and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream_id


@server.tool()
def echo(text: str) -> str:
    """Say it again."""
    counts["runs"] += 1
    return text


@server.tool()
async def wait(name: str, ctx: Context) -> str:
    """Wait until cancelled."""
    waiting.append(name)
    counts["runs"] += 1
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        counts["cancelled"] += 1
        raise
    finally:
        waiting.remove(name)
    return "never"


@server.tool()
async def nap(name: str, time_s: float) -> str:
    """Wait for so long."""
    waiting.append(name)
    await asyncio.sleep(time_s)
    waiting.remove(name)
    return "rested"


@server.tool()
async def progress(steps: int, ctx: Context) -> str:
    """Report how far it is."""
    for done in range(1, steps + 1):
        await ctx.report_progress(done, steps, f"step {done}")
    return "done"


@server.tool()
async def log(text: str, ctx: Context) -> str:
    """Write to the client's log."""
    await ctx.info(text)
    return "logged"


@server.tool()
async def hang_up(ctx: Context) -> str:
    """Close the stream, and answer when it is asked for again."""
    await ctx.report_progress(1, 2, "before")
    await ctx.close_sse_stream()
    await asyncio.sleep(0.1)
    await ctx.report_progress(2, 2, "after")
    return "resumed"


@server.tool()
async def grow(name: str, ctx: Context) -> str:
    """Add a tool and tell whoever listens."""
    server.add_tool(lambda: "grown", name=name)
    await ctx.notify_tools_changed()
    await ctx.session.send_tool_list_changed()
    return "done"


@server.tool()
def much(size_bytes: int) -> str:
    """Answer much."""
    return "x" * size_bytes


@server.tool()
def count() -> dict[str, Any]:
    """Tell what happened so far."""
    return {**counts, "waiting": waiting}


@server.tool()
def headers_of_call(
    ctx: Context, region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]
) -> dict[str, str]:
    """Return the headers that came with the call."""
    return dict(ctx.headers or {})


@server.tool()
def meta_of_call(ctx: Context) -> dict[str, Any]:
    """Return the `_meta` that came with the call."""
    return dict(ctx.request_context.meta or {})


@server.tool()
def ask_first(ctx: Context) -> str | InputRequiredResult:
    """Answer with what was answered, or ask for it (2026)."""
    if ctx.input_responses is None:
        params = ElicitRequestFormParams(
            message="your name?",
            requested_schema={"type": "object", "properties": {"name": {"type": "string"}}},
        )
        return InputRequiredResult(
            input_requests={"name": ElicitRequest(params=params)}, request_state="s1"
        )
    return f"{ctx.request_state}: {ctx.input_responses['name']}"


class Name(BaseModel):
    """What is asked for."""

    name: str


@server.tool()
async def elicit(ctx: Context) -> str:
    """Ask the client in mid-call (before 2026)."""
    answer = await ctx.elicit("your name?", Name)
    return answer.model_dump_json()


@server.tool()
def end(status: int) -> TextContent:
    """End at once."""
    os._exit(status)


app = server.streamable_http_app(
    json_response=args.json,
    stateless_http=args.stateless,
    event_store=Events() if args.resumable else None,
    retry_interval=50 if args.resumable else None,
    streamable_http_path="/mcp/" if args.slash else "/mcp",
)


async def guarded(scope: Any, receive: Any, send: Any) -> None:
    headers = {k.decode(): v.decode() for k, v in scope.get("headers", ())}
    if (
        scope["type"] == "http"
        and args.token
        and headers.get("authorization") != (f"Bearer {args.token}")
    ):
        said = f"invalid token {headers.get('authorization')}"
        await PlainTextResponse(said, 401)(scope, receive, send)
    elif scope["type"] == "http" and args.slash and scope["path"] == "/mcp":
        await RedirectResponse("/mcp/", 307)(scope, receive, send)
    elif args.legacy and headers.get("mcp-protocol-version", "2025") > "2026":
        await PlainTextResponse("Bad Request: Unsupported protocol version", 400)(
            scope, receive, send
        )
    else:
        counts["deleted"] += scope.get("method") == "DELETE"
        await app(scope, receive, send)


async def main() -> None:
    listening = socket.create_server(("127.0.0.1", args.port))
    patience_s = 2 if args.slow_end else 0
    config = uvicorn.Config(guarded, log_level="error", timeout_graceful_shutdown=patience_s)
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    await uvicorn.Server(config).serve(sockets=[listening])


sys.exit(asyncio.run(main()))
