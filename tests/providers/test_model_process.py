"""The life of a child process, whatever it serves."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from exai.processes.process_guard import ProcessGuard
from exai.providers import model_process
from exai.providers.model_process import ModelProcess, ProcessEnded
from tests.processes.process_tree import command_of, descendants_of, until

READY = "import sys; sys.stdin.readline(); print('http://here', flush=True);"
SERVE = READY + "sys.stdin.read()\n"


Play = Callable[[str], None]
Start = Callable[..., ModelProcess]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Let the process run this code instead of a model."""
    script = tmp_path / "script.py"
    monkeypatch.setattr(model_process, "_SCRIPT", script)

    def play(code: str) -> None:
        script.write_text(code)

    return play


@pytest.fixture
def start(guard: ProcessGuard, tasks: asyncio.TaskGroup) -> Start:
    def start(
        on_death: Callable[[str], None] = lambda _: None, start_timeout_s: float = 10
    ) -> ModelProcess:
        return ModelProcess.start(
            {}, guard=guard, tasks=tasks, start_timeout_s=start_timeout_s, on_death=on_death
        )

    return start


def scripts_running() -> list[int]:
    """Return our descendants that run a script of `play`."""
    return [pid for pid in descendants_of(os.getpid()) if b"script.py" in command_of(pid)]


async def test_it_says_its_address_to_everybody_who_waits(play: Play, start: Start) -> None:
    play(SERVE)
    process = start()
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(process.wait_address()) for _ in range(3)]
        hurried = tasks.create_task(process.wait_address())
        hurried.cancel()
    assert [task.result() for task in waiting] == ["http://here"] * 3
    assert process.is_alive
    await process.stop()


async def test_a_stopped_process_is_gone_and_not_dead(play: Play, start: Start) -> None:
    deaths: list[str] = []
    play(SERVE)
    process = start(deaths.append)
    await process.wait_address()
    await process.stop()
    await process.stop()
    assert not process.is_alive
    assert not deaths
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


async def test_one_that_ends_before_it_serves_says_why(play: Play, start: Start) -> None:
    deaths: list[str] = []
    play("raise SystemExit('no model here')\n")
    process = start(deaths.append)
    with pytest.raises(ProcessEnded, match="it ended with status 1: no model here"):
        await process.wait_address()
    assert deaths == ["it ended with status 1: no model here"]
    assert not process.is_alive


async def test_one_that_is_killed_says_by_what(play: Play, start: Start) -> None:
    play("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)\n")
    process = start()
    with pytest.raises(ProcessEnded, match="it was killed by SIGSEGV"):
        await process.wait_address()


async def test_one_that_is_not_ready_in_time_is_killed(play: Play, start: Start) -> None:
    deaths: list[str] = []
    play("import sys; sys.stdin.read(9)\n")
    process = start(deaths.append, start_timeout_s=0.1)
    with pytest.raises(ProcessEnded, match=r"it was not ready after 0\.1 s"):
        await process.wait_address()
    await process.stop()
    assert not deaths
    # Where the time ran out before the guard had answered, the guard ends what it started.
    await until(lambda: not scripts_running())


async def test_stopping_one_that_starts_ends_the_wait_for_it(play: Play, start: Start) -> None:
    play("import sys; sys.stdin.read()\n")
    process = start()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(process.stop())
        with pytest.raises(ProcessEnded, match="it was stopped"):
            await process.wait_address()


async def test_it_may_complain_without_end(play: Play, start: Start) -> None:
    flood = "sys.stderr.write('x' * 1_000_000 + '\\nlast words\\n'); os.kill(os.getpid(), 15)\n"
    deaths: asyncio.Queue[str] = asyncio.Queue()
    play("import os;" + READY + flood)
    process = start(deaths.put_nowait)
    await process.wait_address()
    async with asyncio.timeout(5):
        assert await deaths.get() == "it was killed by SIGTERM: last words"
