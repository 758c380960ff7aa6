"""`exai` as a user runs it: a process of its own, with an empty home."""

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

PATIENCE_S = 30.0
READY = re.compile(r"exai \S+ is ready: (wss?://\S+), (https?://\S+); (.*)\n")
ANY_PORTS = ("--port", "0", "--http-port", "0")


class Ended(NamedTuple):
    """How a process ended, and what it wrote."""

    status: int | None
    out: str
    err: str


class Shell:
    """Starts `exai` with nothing of this machine's environment."""

    python = sys.executable

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environ = {
            "HOME": str(home),
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
        }

    async def start(self, *arguments: str) -> Process:
        return await asyncio.create_subprocess_exec(
            *(self.python, "-m", "exai", *arguments),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env=self.environ,
            cwd=self.home,
        )

    async def run(self, *arguments: str, stdin: str = "") -> Ended:
        return await ended(await self.start(*arguments), stdin)


async def ended(process: Process, stdin: str = "") -> Ended:
    """Wait for the end, and return it."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            out, err = await process.communicate(stdin.encode() if process.stdin else None)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Ended(process.returncode, (out or b"").decode(), (err or b"").decode())


@asynccontextmanager
async def serving(shell: Shell, *arguments: str) -> AsyncIterator[tuple[Process, re.Match[str]]]:
    """Run a daemon on free ports; yield its process and the line that says it is ready."""
    process = await shell.start("serve", *ANY_PORTS, *arguments)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            line = (await process.stdout.readline()).decode()
        ready = READY.fullmatch(line)
        if ready is None:
            raise AssertionError(line + str(await ended(process)))
        yield process, ready
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
