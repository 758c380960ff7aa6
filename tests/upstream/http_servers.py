"""MCP servers behind HTTP, for one test: real processes, and hand-written misdeeds."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from exai.core.config import UpstreamConfig

OVER_HTTP = Path(__file__).parent / "servers" / "over_http.py"


class ServedOverHttp:
    """A server process that listens on a port, and on the same one when it is started again."""

    def __init__(self, *options: str) -> None:
        self.port = 0
        self._options = options
        self._process: Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def config(self, **settings: Any) -> UpstreamConfig:
        return UpstreamConfig(url=self.url, **settings)

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(OVER_HTTP), "--port", str(self.port), *self._options),
            stdout=PIPE,
        )
        assert self._process.stdout is not None
        self.port = int(await self._process.stdout.readline())

    async def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
        await self._process.wait()


@asynccontextmanager
async def serving(*options: str) -> AsyncIterator[ServedOverHttp]:
    """Run the SDK's server; it listens."""
    served = ServedOverHttp(*options)
    await served.start()
    try:
        yield served
    finally:
        await served.stop()
