"""What a WebSocket library costs alone, and with the least that a daemon does for a call.

    python bench/servers/websocket_floor.py echo|handler picows|websockets

`echo` says every frame back. `handler` speaks `exai.v1` as far as the load generator needs:
it decodes each call, gives it a task, a deadline, an acknowledgement and an answer, and has
nothing else: no sessions, limits, results or metrics. Says where it listens.
"""

import asyncio
import itertools
import sys
from typing import Any

import msgspec
import uvloop

TIMEOUT_S = 180.0


class Arguments(msgspec.Struct, frozen=True):
    """The arguments of `echo`."""

    text: str


class Hello(msgspec.Struct, frozen=True, tag_field="op", tag="hello"):
    """The first frame."""

    token: str = ""


class Bye(msgspec.Struct, frozen=True, tag_field="op", tag="bye"):
    """The last frame."""


class CallTool(msgspec.Struct, frozen=True, tag_field="op", tag="call_tool"):
    """A call."""

    request_id: str
    name: str
    arguments: Arguments


class HelloAck(msgspec.Struct, frozen=True, tag_field="op", tag="hello_ack"):
    """The answer to `Hello`."""

    ok: bool = True


class CallToolAck(msgspec.Struct, frozen=True, tag_field="op", tag="call_tool_ack"):
    """The promise of an answer."""

    request_id: str
    accepted: bool
    name: str
    call_id: str
    timeout_s: float


class TextBlock(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """One block of output."""

    text: str


class CallToolRes(msgspec.Struct, frozen=True, tag_field="op", tag="call_tool_res"):
    """The answer."""

    request_id: str
    ok: bool
    outputs: list[TextBlock]
    text: str


decode = msgspec.json.Decoder(Hello | CallTool | Bye).decode
encode = msgspec.json.Encoder().encode
call_numbers = itertools.count()


async def echo(connection: Any) -> None:
    """Say back what comes."""
    async for frame in connection:
        await connection.send(frame)


async def handler(connection: Any) -> None:
    """Answer calls."""
    async with asyncio.TaskGroup() as tasks:
        async for frame in connection:
            message = decode(frame)
            if isinstance(message, CallTool):
                tasks.create_task(answer(connection, message))
            elif isinstance(message, Hello):
                await connection.send(encode(HelloAck()), text=True)


async def answer(connection: Any, call: CallTool) -> None:
    """Acknowledge a call and answer it."""
    async with asyncio.timeout(TIMEOUT_S):
        call_id = f"{next(call_numbers):032x}"
        ack = CallToolAck(call.request_id, True, call.name, call_id, TIMEOUT_S)
        await connection.send(encode(ack), text=True)
        text = call.arguments.text
        result = CallToolRes(call.request_id, True, [TextBlock(text)], text)
        await connection.send(encode(result), text=True)


async def serve(kind: str, library: str) -> None:
    """Listen until the process is ended."""
    serve_with: Any
    if library == "picows":
        from picows.websockets.asyncio.server import serve as serve_with
    else:
        from websockets.asyncio.server import serve as serve_with
    handle = {"echo": echo, "handler": handler}[kind]
    async with serve_with(handle, "127.0.0.1", 0, compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        print(f"ready: ws://127.0.0.1:{port}/", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(*sys.argv[1:]))
