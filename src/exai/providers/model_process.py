"""One run of the local model's process: its start, its address, its end.

Knows how a child process lives and dies; knows nothing of chats. The child ends when its
stdin does, so it cannot outlive the daemon, whatever kills that.
"""

import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, cast

import msgspec

_SCRIPT = Path(__file__).with_name("model_server.py")
_KEPT_BYTES = 4096
_STOP_TIMEOUT_S = 5.0
_STDIN, _STDOUT = 0, 1


class ProcessEnded(Exception):
    """The process ended, or had to be stopped, before it said its address."""


class ModelProcess(asyncio.SubprocessProtocol):
    """A child process that says its address once, then serves until it is stopped.

    `on_death` is told the reason when the process ends by itself.
    """

    def __init__(self, start_timeout_s: float, on_death: Callable[[str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()
        self._start_timeout_s = start_timeout_s
        self._on_death = on_death
        self._transport: asyncio.SubprocessTransport | None = None
        self._is_stopping = False
        self._address: str | None = None
        self._said = bytearray()
        self._complained = bytearray()
        self._is_settled = asyncio.Event()
        self._has_ended = asyncio.Event()

    @classmethod
    async def start(
        cls, settings: dict[str, Any], *, start_timeout_s: float, on_death: Callable[[str], None]
    ) -> Self:
        """Spawn the process, in a session of its own and with an empty environment."""
        transport, process = await asyncio.get_running_loop().subprocess_exec(
            lambda: cls(start_timeout_s, on_death),
            *(sys.executable, "-I", str(_SCRIPT)),
            env={},
            start_new_session=True,
        )
        stdin = cast(asyncio.WriteTransport, transport.get_pipe_transport(_STDIN))
        stdin.write(msgspec.json.encode(settings) + b"\n")
        return process

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._transport is not None
        return self._transport.get_pid()

    @property
    def age_s(self) -> float:
        """How long ago it was started."""
        return self._loop.time() - self._started_at

    @property
    def is_alive(self) -> bool:
        """Does it run, and may it go on?"""
        return not (self._is_stopping or self._has_ended.is_set())

    async def wait_address(self) -> str:
        """Wait until the process serves, and return where.

        The time allowed counts from the start, not from this call: a caller with little
        time leaves the start to the next one. Raises `ProcessEnded`.
        """
        try:
            async with asyncio.timeout_at(self._started_at + self._start_timeout_s):
                await self._is_settled.wait()
        except TimeoutError:
            self.kill()
            raise ProcessEnded(f"it was not ready after {self._start_timeout_s:g} s") from None
        if self._address is None:
            raise ProcessEnded(self._reason())
        return self._address

    def kill(self) -> None:
        """End the process now; it has nothing to save."""
        self._is_stopping = True
        if self._transport is not None and not self._has_ended.is_set():
            self._transport.close()

    async def stop(self) -> None:
        """Kill the process and wait until it is gone."""
        self.kill()
        async with asyncio.timeout(_STOP_TIMEOUT_S):
            await self._has_ended.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the process (called by the loop)."""
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Read the address from stdout, keep the end of stderr (called by the loop)."""
        if fd != _STDOUT:
            self._complained = (self._complained + data)[-_KEPT_BYTES:]
        elif self._address is None:
            self._said = (self._said + data)[:_KEPT_BYTES]
            line, newline, _ = self._said.partition(b"\n")
            if newline:
                self._address = msgspec.json.decode(line, type=dict[str, str])["address"]
                self._is_settled.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """The process has ended and its pipes are read to the end (called by the loop)."""
        self._has_ended.set()
        self._is_settled.set()
        if self._transport is not None:
            self._transport.close()
        if not self._is_stopping:
            self._on_death(self._reason())

    def _reason(self) -> str:
        """Say how the process ended, with the last line of its stderr."""
        code = self._transport.get_returncode() if self._transport is not None else None
        if code is None or self._is_stopping:
            how = "it was stopped"
        elif code < 0:
            how = f"it was killed by {signal.Signals(-code).name}"
        else:
            how = f"it ended with status {code}"
        lines = self._complained.decode(errors="replace").split("\n")
        last_words = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{how}: {last_words}" if last_words else how
