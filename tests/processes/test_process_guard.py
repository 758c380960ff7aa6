"""Children start through the guard, end when told, and never outlive the daemon."""

import asyncio
import json
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from exai.processes import process_guard
from exai.processes.process_guard import GuardedProcess, ProcessGuard
from tests.processes.process_tree import (
    BOUND_S,
    descendants_of,
    is_alive,
    open_file_count,
    session_of,
    until,
)

ENV = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]}
DAEMON = Path(__file__).with_name("daemon_with_children.py")
TESTS = Path(__file__).parent.parent
LEAVE_ORPHAN = "(setsid sleep 600 & echo $! ); sleep 600"


@pytest.fixture
async def guard() -> AsyncIterator[ProcessGuard]:
    async with asyncio.timeout(BOUND_S), ProcessGuard() as guard:
        yield guard


async def shell(guard: ProcessGuard, script: str, **variables: str) -> GuardedProcess:
    return await guard.spawn("sh", ["-c", script], env=ENV | variables)


def guard_pid() -> int:
    (pid,) = (p for p in descendants_of(os.getpid()) if b"guard_main" in _command_of(p))
    return pid


def _command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return b""


async def test_a_child_has_three_pipes_and_an_exit_status(guard: ProcessGuard) -> None:
    child = await shell(
        guard, "read line; echo got $line; echo $WORD >/dev/stderr; exit 3", WORD="w"
    )
    statuses = [child.returncode]
    child.stdin.write(b"this\n")
    assert await child.stdout.read() == b"got this\n"
    assert await child.stderr.read() == b"w\n"
    assert await child.wait() == 3
    assert [*statuses, child.returncode] == [None, 3]
    await child.stop()


async def test_a_child_sees_its_environment_and_directory_only(
    guard: ProcessGuard, tmp_path: Path
) -> None:
    child = await guard.spawn("env", env={"PATH": ENV["PATH"], "A": "ü\n="}, cwd=tmp_path)
    seen = (await child.stdout.read()).decode()
    await child.stop()
    assert sorted(line.partition("=")[0] for line in seen.splitlines()) == sorted(
        ["PATH", "A", "", "PROCESS_GUARD_MARK"]
    )
    where = await guard.spawn("pwd", env=ENV, cwd=tmp_path)
    assert (await where.stdout.read()).decode().strip() == str(tmp_path)
    await where.stop()


async def test_a_child_inherits_no_other_file(guard: ProcessGuard) -> None:
    first = await shell(guard, "sleep 600")
    child = await guard.spawn("ls", ["/proc/self/fd"], env=ENV)
    assert (await child.stdout.read()).split() == [b"0", b"1", b"2", b"3"]  # 3 is ls reading
    await child.stop()
    await first.stop(0.1)


async def test_a_child_starts_with_default_signals(guard: ProcessGuard) -> None:
    child = await guard.spawn("grep", ["SigIgn", "/proc/self/status"], env=ENV)
    ignored = int((await child.stdout.read()).split()[1], 16)
    await child.stop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD):
        assert not ignored & (1 << (number - 1))


async def test_a_program_that_is_not_there_is_refused_by_name(
    guard: ProcessGuard, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        await guard.spawn("no-such-program", env=ENV)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        await guard.spawn("cat", env=ENV, cwd=tmp_path / "nowhere")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(PermissionError):
        await guard.spawn(str(tmp_path / "text"), env=ENV)
    with pytest.raises(OSError, match="null"):
        await guard.spawn("cat", ["a\0b"], env=ENV)


async def test_refusals_leave_no_files_open(guard: ProcessGuard) -> None:
    await (await shell(guard, "true")).stop()
    pids = os.getpid(), guard_pid()
    before = [open_file_count(pid) for pid in pids]
    for _ in range(20):
        with pytest.raises(FileNotFoundError):
            await guard.spawn("no-such-program", env=ENV)
        await (await shell(guard, "exit 1")).stop()
    # The guard closes its ends in its own time: also those of the child before the first count.
    await until(lambda: all(open_file_count(pid) <= n for pid, n in zip(pids, before, strict=True)))


async def test_many_children_start_and_end_at_once(guard: ProcessGuard) -> None:
    children = await asyncio.gather(*(shell(guard, f"exit {n}") for n in range(30)))
    assert await asyncio.gather(*(child.wait() for child in children)) == list(range(30))
    await asyncio.gather(*(child.stop() for child in children))


async def test_a_large_environment_passes(guard: ProcessGuard) -> None:
    child = await shell(guard, "echo ${#LONG}", LONG="x" * 100_000)
    assert await child.stdout.read() == b"100000\n"
    await child.stop()


async def test_an_environment_too_large_is_an_error_and_others_go_on(guard: ProcessGuard) -> None:
    with pytest.raises(OSError, match="too long: 'cat'"):
        await guard.spawn("cat", env={f"V{n}": "x" * 100_000 for n in range(50)})
    child = await shell(guard, "echo on")
    assert await child.stdout.read() == b"on\n"
    await child.stop()


async def test_many_large_environments_at_once_are_no_trouble(guard: ProcessGuard) -> None:
    env = {f"V{n}": "x" * 10_000 for n in range(10)}
    children = await asyncio.gather(*(shell(guard, "exit 7", **env) for _ in range(10)))
    assert [await child.wait() for child in children] == [7] * 10
    await asyncio.gather(*(child.stop() for child in children))


async def test_stopping_asks_then_tells_then_kills(guard: ProcessGuard) -> None:
    polite = await guard.spawn("cat", env=ENV)
    await polite.stop(BOUND_S)
    assert polite.returncode == 0
    told = await guard.spawn("sleep", ["600"], env=ENV)
    await told.stop(0.1)
    assert told.returncode == -signal.SIGTERM
    stubborn = await shell(guard, "trap '' TERM; echo up; while :; do sleep 1; done")
    await stubborn.stdout.readline()
    await stubborn.stop(0.1)
    assert stubborn.returncode == -signal.SIGKILL


async def test_stopping_when_cancelled_kills_at_once(guard: ProcessGuard) -> None:
    child = await guard.spawn("sleep", ["600"], env=ENV)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await child.stop(BOUND_S)
    assert await child.wait() == -signal.SIGKILL


async def test_a_childs_end_is_the_end_of_all_it_started(guard: ProcessGuard) -> None:
    child = await shell(guard, f"sleep 600 & echo $!; {LEAVE_ORPHAN}")
    in_group, orphan = [int(await child.stdout.readline()) for _ in range(2)]
    other = await shell(guard, LEAVE_ORPHAN)
    others_orphan = int(await other.stdout.readline())
    child.send_signal(signal.SIGKILL)
    await child.wait()
    await until(lambda: not is_alive(in_group) and not is_alive(orphan))
    assert is_alive(others_orphan)
    await child.stop()
    await other.stop(0.1)
    await until(lambda: not is_alive(others_orphan))


async def test_closing_ends_every_child(guard: ProcessGuard) -> None:
    children = [await shell(guard, LEAVE_ORPHAN) for _ in range(3)]
    orphans = [int(await child.stdout.readline()) for child in children]
    below = descendants_of(guard_pid())
    assert below >= {*orphans, *(child.pid for child in children)}
    await guard.close()
    assert not any(is_alive(pid) for pid in below)
    assert [child.returncode for child in children] == [-signal.SIGKILL] * 3
    for child in children:
        child.close_pipes()


async def test_the_guard_shares_no_terminal_signal_with_the_daemon(guard: ProcessGuard) -> None:
    child = await guard.spawn("cat", env=ENV)
    pid = guard_pid()
    assert session_of(pid) == pid
    assert session_of(child.pid) == child.pid
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
    child.stdin.write(b"alive\n")
    assert await child.stdout.readline() == b"alive\n"
    await child.stop()


async def test_the_guards_death_ends_its_children_and_the_next_child_gets_a_new_one(
    guard: ProcessGuard,
) -> None:
    child = await guard.spawn("sleep", ["600"], env=ENV)
    os.kill(guard_pid(), signal.SIGKILL)
    assert await child.wait() == -signal.SIGKILL
    await until(lambda: not is_alive(child.pid))
    await child.stop()
    fresh = await shell(guard, "echo fresh")
    assert await fresh.stdout.read() == b"fresh\n"
    await fresh.stop()


async def test_a_child_that_nobody_waits_for_any_more_is_not_left_running(
    guard: ProcessGuard,
) -> None:
    await (await shell(guard, "true")).stop()
    pid = guard_pid()
    async with asyncio.TaskGroup() as tasks:
        starting = tasks.create_task(guard.spawn("sleep", ["600"], env=ENV))
        while not starting.done():
            await asyncio.sleep(0)
            if descendants_of(pid):
                starting.cancel()
                break
        await asyncio.wait([starting])
    if not starting.cancelled():  # it was quicker than the cancellation
        await starting.result().stop(0.1)
    await until(lambda: not descendants_of(pid))


async def test_a_start_that_is_cancelled_as_it_succeeds_leaves_nobody(
    guard: ProcessGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (await shell(guard, "true")).stop()
    take = ProcessGuard.__dict__["_take_spawned"]

    def take_and_cancel(*answer: Any) -> None:
        take(*answer)
        starting.cancel()

    monkeypatch.setattr(ProcessGuard, "_take_spawned", take_and_cancel)
    async with asyncio.TaskGroup() as tasks:
        starting = tasks.create_task(guard.spawn("sleep", ["600"], env=ENV))
    assert starting.cancelled()
    await until(lambda: not descendants_of(guard_pid()))


async def test_a_start_that_takes_too_long_is_given_up_and_leaves_nobody(
    guard: ProcessGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (await shell(guard, "true")).stop()
    monkeypatch.setattr(process_guard, "_STARTS_WITHIN_S", 0.05)
    pid = guard_pid()
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        await guard.spawn("sleep", ["600"], env=ENV)
    os.kill(pid, signal.SIGCONT)
    monkeypatch.undo()
    child = await shell(guard, "echo on")
    assert await child.stdout.read() == b"on\n"
    await child.stop()
    await until(lambda: not descendants_of(pid))


async def test_a_guard_that_stops_reading_is_left_and_its_children_end(
    guard: ProcessGuard,
) -> None:
    child = await guard.spawn("sleep", ["600"], env=ENV)
    pid = guard_pid()
    os.kill(pid, signal.SIGSTOP)
    while child.returncode is None:
        child.send_signal(signal.SIGCONT)
    assert child.returncode == -signal.SIGKILL
    os.kill(pid, signal.SIGCONT)
    await until(lambda: not is_alive(child.pid) and not is_alive(pid))
    await child.stop()


async def test_a_guard_that_does_not_end_is_ended(
    guard: ProcessGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = await guard.spawn("sleep", ["600"], env=ENV)
    monkeypatch.setattr(process_guard, "_GUARD_ENDS_WITHIN_S", 0.05)
    pid = guard_pid()
    os.kill(pid, signal.SIGSTOP)
    await guard.close()
    await until(lambda: not is_alive(child.pid) and not is_alive(pid))
    child.close_pipes()


async def test_starting_a_child_does_not_hold_the_loop(guard: ProcessGuard, tmp_path: Path) -> None:
    ballast = bytearray(200 * 2**20)  # a fork would have to copy the page tables of this
    await (await shell(guard, "true")).stop()
    started_s = time.thread_time()
    children = [await shell(guard, "true") for _ in range(10)]
    assert time.thread_time() - started_s < 0.1
    for child in children:
        await child.stop()
    assert ballast


@pytest.mark.parametrize(
    "commands",
    [
        [["sh", "-c", f"echo up >&2; {LEAVE_ORPHAN}"]],
        [["sh", "-c", "echo up >&2; trap '' TERM HUP INT; while :; do sleep 1; done"]],
        [["sh", "-c", "echo up >&2; sh -c 'sleep 600; :' & sleep 600"]] * 5,
        [["sh", "-c", "setsid sh -c 'setsid sh -c \"echo up >&2; sleep 600\"; :'; sleep 600"]],
    ],
    ids=["orphan", "stubborn", "many", "sessions"],
)
async def test_kill_9_of_the_daemon_leaves_nobody(
    commands: list[list[str]], tmp_path: Path
) -> None:
    await _kill_daemon_and_look(commands, tmp_path)


async def test_kill_9_in_the_moment_of_a_start_leaves_nobody(tmp_path: Path) -> None:
    await _kill_daemon_and_look([["sleep", "600"]], tmp_path, "silent")


async def _kill_daemon_and_look(commands: list[list[str]], cwd: Path, *mode: str) -> None:
    arguments = [str(DAEMON), json.dumps(commands), str(cwd), *mode]
    daemon = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=PIPE)
    assert daemon.stdout is not None
    assert await daemon.stdout.readline() == b"started\n"
    below = descendants_of(daemon.pid)
    assert len(below) >= 1 + len(commands)
    daemon.kill()
    await until(lambda: not any(is_alive(pid) for pid in below))
    await daemon.wait()
