"""The SDK's server behind HTTP as a process, for one test, or for those that leave it unharmed."""

import asyncio
import signal
import subprocess
import sys
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
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def config(self, **settings: Any) -> UpstreamConfig:
        return UpstreamConfig(url=self.url, **settings)

    def start_now(self) -> None:
        command = [sys.executable, str(OVER_HTTP), "--port", str(self.port), *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            self.port = int(stdout.readline())

    def stop_now(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()

    async def start(self) -> None:
        await asyncio.to_thread(self.start_now)

    async def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        await asyncio.to_thread(self.stop_now, number)


class SharedServers:
    """Servers that are started once, by their options."""

    def __init__(self) -> None:
        self._servers: dict[tuple[str, ...], ServedOverHttp] = {}

    async def __call__(self, *options: str) -> ServedOverHttp:
        if options not in self._servers:
            self._servers[options] = ServedOverHttp(*options)
            await self._servers[options].start()
        return self._servers[options]

    def stop(self) -> None:
        for served in self._servers.values():
            served.stop_now()


@asynccontextmanager
async def serving(*options: str) -> AsyncIterator[ServedOverHttp]:
    """Run a server of the test's own; it listens."""
    served = ServedOverHttp(*options)
    await served.start()
    try:
        yield served
    finally:
        await served.stop()
