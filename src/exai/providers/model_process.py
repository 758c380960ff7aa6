"""One run of the local model's process: its start, its address, its end.

Knows what the process says and when it has to say it; knows nothing of chats, nor of how
a child is kept from outliving the daemon.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self

import msgspec

from exai.processes.process_guard import GuardedProcess, ProcessGuard

_SCRIPT = Path(__file__).with_name("model_server.py")
_CHUNK_BYTES = 65_536
_KEPT_BYTES = 4096
_LAST_WORDS_WAIT_S = 0.25


class ProcessEnded(Exception):
    """The process could not be started, ended, or was stopped, before it said its address."""


class ModelProcess:
    """A child process that says its address once, then serves until it is stopped."""

    _life: asyncio.Task[None]

    def __init__(self, start_timeout_s: float, on_death: Callable[[str], None]) -> None:
        self._started_at = asyncio.get_running_loop().time()
        self._start_timeout_s = start_timeout_s
        self._on_death = on_death
        self._pid: int | None = None
        self._address = ""
        self._end = "it was stopped"
        self._complained = b""
        self._is_settled = asyncio.Event()

    @classmethod
    def start(
        cls,
        settings: dict[str, Any],
        *,
        guard: ProcessGuard,
        tasks: asyncio.TaskGroup,
        start_timeout_s: float,
        on_death: Callable[[str], None],
    ) -> Self:
        """Let `guard` start the process, with an empty environment, and a task look after it.

        `on_death` is told the reason when a process that has started ends by itself.
        """
        process = cls(start_timeout_s, on_death)
        process._life = tasks.create_task(process._live(guard, settings))
        process._life.add_done_callback(lambda _: process._is_settled.set())
        return process

    @property
    def pid(self) -> int:
        """The process's id, once it has said its address."""
        assert self._pid is not None
        return self._pid

    @property
    def age_s(self) -> float:
        """How long ago it was started."""
        return asyncio.get_running_loop().time() - self._started_at

    @property
    def is_alive(self) -> bool:
        """Does it run, and may it go on?"""
        return not (self._life.done() or self._life.cancelling())

    async def wait_address(self) -> str:
        """Wait until the process serves, and return where.

        The time allowed counts from the start, not from this call: a caller with little
        time leaves the start to the next one. Raises `ProcessEnded`.
        """
        await self._is_settled.wait()
        if not self._address:
            raise ProcessEnded(self._end)
        return self._address

    async def stop(self) -> None:
        """Kill the process, which has nothing to save, and wait until it is gone."""
        if self.is_alive:
            self._life.cancel()
        await asyncio.wait([self._life])

    async def _live(self, guard: ProcessGuard, settings: dict[str, Any]) -> None:
        try:
            status = await self._run(guard, msgspec.json.encode(settings) + b"\n")
        except TimeoutError:
            self._end = self._with_last_words(f"it was not ready after {self._start_timeout_s:g} s")
        except OSError as error:
            self._end = str(error)
        else:
            self._end = self._with_last_words(_describe(status))
            self._on_death(self._end)

    async def _run(self, guard: ProcessGuard, settings: bytes) -> int:
        """Start the process, see it to its end, and return its exit status.

        Raises `OSError`, and `TimeoutError` where it does not say its address in time.
        """
        async with (
            asyncio.timeout(self._start_timeout_s) as starting,
            _spawned(guard) as process,
            asyncio.TaskGroup() as readers,
        ):
            self._pid = process.pid
            complaints = readers.create_task(self._read_complaints(process.stderr))
            process.stdin.write(settings)
            self._address = await _read_line(process.stdout)
            if self._address:
                starting.reschedule(None)
                self._is_settled.set()
            status = await process.wait()
            await asyncio.wait([complaints], timeout=_LAST_WORDS_WAIT_S)
            process.close_pipes()
        return status

    async def _read_complaints(self, stderr: asyncio.StreamReader) -> None:
        while chunk := await stderr.read(_CHUNK_BYTES):
            self._complained = (self._complained + chunk)[-_KEPT_BYTES:]

    def _with_last_words(self, how: str) -> str:
        lines = self._complained.decode(errors="replace").split("\n")
        last_words = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{how}: {last_words}" if last_words else how


@asynccontextmanager
async def _spawned(guard: ProcessGuard) -> AsyncIterator[GuardedProcess]:
    process = await guard.spawn(sys.executable, ["-I", str(_SCRIPT)], env={})
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)  # `stop` alone would first wait for it to end by itself
        await process.stop()


async def _read_line(stdout: asyncio.StreamReader) -> str:
    """Return one line without its end; nothing where stdout ends first, or goes on and on."""
    with suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return (await stdout.readuntil(b"\n")).decode(errors="replace").strip()
    return ""


def _describe(status: int) -> str:
    if status >= 0:
        return f"it ended with status {status}"
    name = next((known.name for known in signal.Signals if known == -status), f"signal {-status}")
    return f"it was killed by {name}"
