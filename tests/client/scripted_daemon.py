"""A daemon of few words: it speaks `exai.v1` over a real socket, and does what a test says."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

Frame = dict[str, Any]
PATIENCE_S = 20.0
TOKEN = "a-token-of-some-length"

ECHO_SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


class Peer:
    """One client's connection, as a script sees it."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket

    async def say(self, op: str, **fields: object) -> None:
        await self.socket.send(json.dumps({"op": op, **fields}))

    async def ack(self, call: Frame) -> None:
        await self.say(
            "call_tool_ack", request_id=call["request_id"], name=call["name"], accepted=True
        )

    async def progress(self, call: Frame, **fields: object) -> None:
        await self.say(
            "progress", request_id=call["request_id"], name=call["name"], t=1.0, **fields
        )

    async def answer(self, call: Frame, text: str, **fields: object) -> None:
        outputs = [{"type": "text", "text": text}]
        await self.say(
            "call_tool_res",
            request_id=call["request_id"],
            ok=True,
            outputs=outputs,
            text=text,
            **fields,
        )

    async def fail(self, call: Frame, code: str, message: str, **fields: object) -> None:
        error = {"code": code, "message": message, "retryable": False, **fields}
        await self.say(
            "call_tool_res",
            request_id=call["request_id"],
            ok=False,
            outputs=[],
            text="",
            error=error,
        )


Script = Callable[[Peer, Frame], Awaitable[None]]


async def echo(peer: Peer, call: Frame) -> None:
    await peer.ack(call)
    await peer.answer(call, json.dumps(call["arguments"], sort_keys=True))


async def hang(peer: Peer, call: Frame) -> None:
    """Accept, and wait for ever; `cancel_tool` settles it."""
    await peer.ack(call)


class ScriptedDaemon:
    """What it heard is in `heard`; what it answers to a call is in `tools`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.token: str | None = TOKEN
        self.tools: dict[str, Script] = {"echo": echo, "hang": hang}
        self.schemas: dict[str, Frame] = {"echo": ECHO_SCHEMA}
        self.ops: dict[str, Script] = {}
        self.heard: list[Frame] = []
        self._news = asyncio.Condition()

    async def heard_op(self, op: str, count: int = 1) -> Frame:
        """Wait until a client has said `op` so many times; return the last of them."""
        async with asyncio.timeout(PATIENCE_S), self._news:
            await self._news.wait_for(lambda: len(self._of(op)) >= count)
        return self._of(op)[-1]

    async def hear(self, frame: Frame) -> None:
        """Take note of a frame; a test may slip in one of its own as a signal to a script."""
        async with self._news:
            self.heard.append(frame)
            self._news.notify_all()

    def _of(self, op: str) -> list[Frame]:
        return [frame for frame in self.heard if frame["op"] == op]

    async def serve(self, socket: ServerConnection) -> None:
        peer = Peer(socket)
        try:
            async with asyncio.TaskGroup() as tasks:
                async for message in socket:
                    frame = json.loads(message)
                    await self.hear(frame)
                    tasks.create_task(self._follow(peer, frame))
        except* ConnectionClosed:
            pass

    async def _follow(self, peer: Peer, frame: Frame) -> None:
        op = frame["op"]
        if script := self.ops.get(op):
            await script(peer, frame)
        elif op == "hello":
            await self._greet(peer, frame)
        elif op == "list_tools":
            tools = [
                {
                    "name": name,
                    "description": f"Tests {name}.\nMore.",
                    "inputSchema": self.schemas.get(name, {"type": "object"}),
                }
                for name in self.tools
            ]
            await peer.say("list_tools_res", request_id=frame["request_id"], tools=tools)
        elif op == "health":
            health = {"status": "ok"}
            await peer.say("health_res", request_id=frame["request_id"], ok=True, health=health)
        elif op == "cancel_tool":
            await peer.fail(frame, "CANCELLED", "by the caller")
        elif op == "call_tool":
            await self.tools[frame["name"]](peer, frame)

    async def _greet(self, peer: Peer, hello: Frame) -> None:
        if hello.get("token") == self.token:
            await peer.say("hello_ack", ok=True, protocol="exai.v1", session_id="s1")
        else:
            await peer.say("hello_ack", ok=False, error="unauthorized")
            await peer.socket.close(4003, "unauthorized")


@asynccontextmanager
async def scripted_daemon() -> AsyncIterator[ScriptedDaemon]:
    """Run a scripted daemon on a port of its own."""
    daemon = ScriptedDaemon("")
    async with serve(daemon.serve, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        daemon.url = f"ws://127.0.0.1:{port}/"
        yield daemon
