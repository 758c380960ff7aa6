"""`exai bridge` as an IDE starts it: a process whose stdin and stdout speak MCP."""

import asyncio
import json
import random
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from tests.cli.exai_process import PATIENCE_S, Ended, Shell

Message = dict[str, Any]

_MAX_LINE_BYTES = 67_108_864
CLIENT = {"name": "ide", "version": "1"}
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": CLIENT,
    "io.modelcontextprotocol/clientCapabilities": {},
}


class BridgeProcess:
    """A bridge; messages are sent and heard one by one."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._unheard: list[Message] = []

    async def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        await self.process.stdin.drain()

    async def send(self, method: str, id_: Any = None, **params: Any) -> None:
        message: Message = {"jsonrpc": "2.0", "method": method, "params": params}
        if id_ is not None:
            message["id"] = id_
        await self.write(json.dumps(message).encode() + b"\n")

    async def hear(self) -> Message:
        """Return the next message."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            line = await self.process.stdout.readline()
        assert line, await self.end()
        message: Message = json.loads(line)
        return message

    async def hear_of(self, method: str) -> Message:
        """Return the params of the next notification of a method; others are dropped."""
        while True:
            message = await self.hear()
            if message.get("method") == method:
                params: Message = message.get("params", {})
                return params

    async def answer_to(self, id_: Any) -> Message:
        """Return the answer to a request; what comes before it is dropped, but other answers."""
        for index, message in enumerate(self._unheard):
            if message["id"] == id_:
                return self._unheard.pop(index)
        while True:
            message = await self.hear()
            if message.get("id") == id_ and "method" not in message:
                return message
            if "method" not in message:
                self._unheard.append(message)

    async def ask(self, method: str, id_: Any = 1, **params: Any) -> Message:
        await self.send(method, id_, **params)
        return await self.answer_to(id_)

    async def shake_hands(self, version: str = "2025-11-25") -> Message:
        answer = await self.ask(
            "initialize", "init", protocolVersion=version, capabilities={}, clientInfo=CLIENT
        )
        await self.send("notifications/initialized")
        return answer

    async def call(self, name: str, id_: Any = 1, **arguments: Any) -> Message:
        return await self.ask("tools/call", id_, name=name, arguments=arguments)

    def close_stdin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    async def end(self) -> Ended:
        """Wait for its end, and return how it was, with what was not heard."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            out, err = await self.process.stdout.read(), await self.process.stderr.read()
            status = await self.process.wait()
        return Ended(status, out.decode(), err.decode())


@asynccontextmanager
async def bridging(shell: Shell, *options: str) -> AsyncIterator[BridgeProcess]:
    """Run a bridge while the context is open."""
    process = await asyncio.create_subprocess_exec(
        *(shell.python, "-m", "exai", "bridge", *options),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env=shell.environ,
        cwd=shell.home,
        limit=_MAX_LINE_BYTES,
    )
    try:
        yield BridgeProcess(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def sdk_client(
    shell: Shell, *options: str, mode: str = "auto", **settings: Any
) -> AsyncIterator[Client]:
    """Connect the SDK's client through a bridge; what that says goes to a file."""
    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-m", "exai", "bridge", *options],
        env=shell.environ,
        cwd=shell.home,
    )
    with (shell.home / "bridge.err").open("a") as errors:
        transport = stdio_client(parameters, errlog=errors)
        async with Client(transport, mode=mode, **settings) as client:
            yield client


def free_port() -> int:
    """Return a port that is free, and that no outgoing connection is given by chance."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as attempt:
            try:
                attempt.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def fix_ports(shell: Shell) -> str:
    """Give the daemons of a shell the same ports; return the WebSocket's address."""
    port = free_port()
    shell.environ |= {"EXAI_WS_PORT": str(port), "EXAI_SERVER_HTTP_PORT": str(free_port())}
    return f"ws://127.0.0.1:{port}/"


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
