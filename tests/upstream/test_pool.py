"""Several servers behind one daemon: real ones, of both eras, and those that fail."""

import asyncio
import json
import sys
import time
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from exai.core.config import UpstreamConfig
from exai.core.errors import ToolFailed, UpstreamFailed
from exai.core.outcomes import text_of
from exai.upstream.server import UpstreamServer
from exai.upstream.server_state import ServerState
from tests.processes.process_tree import descendants_of
from tests.upstream.running_server import Run, is_alive, running, scripted, until

TESTS = Path(__file__).parent.parent
TIME = UpstreamConfig(
    command=sys.executable, args=("-m", "mcp_server_time", "--local-timezone", "UTC")
)
GIT = UpstreamConfig(command=sys.executable, args=("-m", "mcp_server_git"))
EVERYTHING = UpstreamConfig(
    command="npx", args=("--no-install", "mcp-server-everything", "stdio"), cwd=TESTS
)
GROWING = Path(__file__).parent / "servers" / "growing.py"
DAEMON = Path(__file__).parent.parent / "processes" / "daemon_with_children.py"


@pytest.mark.slow
async def test_real_servers_of_both_eras_answer(tmp_path: Path) -> None:
    async with running({"time": TIME, "git": GIT, "everything": EVERYTHING}) as three:
        servers = three.pool.servers
        assert {s.upstream: (s.state, s.protocol_version) for s in three.pool.statistics()} == {
            "time": (ServerState.READY, "2026-07-28"),
            "git": (ServerState.READY, "2026-07-28"),
            "everything": (ServerState.READY, "2025-11-25"),
        }
        now = await servers["time"].call("get_current_time", {"timezone": "UTC"}, Run())
        assert now.structured is not None
        assert now.structured["timezone"] == "UTC"
        with pytest.raises(ToolFailed, match="No/Where"):
            await servers["time"].call("get_current_time", {"timezone": "No/Where"}, Run())

        await (await asyncio.create_subprocess_exec("git", "init", "-q", str(tmp_path))).wait()
        status = await servers["git"].call("git_status", {"repo_path": str(tmp_path)}, Run())
        assert "No commits yet" in text_of(status.outputs)

        image = await servers["everything"].call("get-tiny-image", {}, Run())
        assert [block["type"] for block in image.outputs] == ["text", "image", "text"]
        run = Run()
        await servers["everything"].call(
            "trigger-long-running-operation", {"duration": 0.2, "steps": 4}, run
        )
        assert [(done, total) for _, done, total in run.reports] == [(n, 4) for n in (1, 2, 3, 4)]


async def test_a_slow_and_a_dead_server_delay_no_other() -> None:
    servers = {
        "well": scripted(),
        "mute": scripted("--mute"),
        "dead": scripted("--crash", "1"),
        "gone": UpstreamConfig(command="no-such-program"),
    }
    async with running(servers, wait=False) as four:
        well = await four.pool.servers["well"].call("echo", {"text": "well"}, Run())
        assert text_of(well.outputs) == "well"
        started_s = time.monotonic()
        await four.pool.wait_first_starts(0.2)
        assert time.monotonic() - started_s < 2
        states = {s.upstream: s.state for s in four.pool.statistics()}
        assert states["mute"] is ServerState.STARTING
        assert states["well"] is ServerState.READY
        assert list(four.listings) == ["well"]


async def test_a_server_that_is_disabled_is_not_started() -> None:
    async with running({"off": scripted(disabled=True), "on": scripted()}) as one:
        assert list(one.pool.servers) == ["on"]


async def test_closing_stops_all_servers_at_the_same_time() -> None:
    servers = {f"s{n}": scripted("--deaf") for n in range(5)}
    async with running(servers) as five:
        pids = [s.pid for s in five.pool.statistics()]
        started_s = time.monotonic()
    assert time.monotonic() - started_s < 4
    assert not any(pid is None or is_alive(pid) for pid in pids)


async def test_a_server_of_2026_tells_of_new_tools_because_it_was_asked_to() -> None:
    growing = UpstreamConfig(command=sys.executable, args=(str(GROWING),))
    async with running(growing) as srv:
        assert srv.server.statistics().protocol_version == "2026-07-28"
        assert srv.listings["srv"] == [["grow"]]
        await srv.call("grow", name="second")
        await until(lambda: srv.listings["srv"][-1] == ["grow", "second"])


@pytest.mark.slow
async def test_kill_9_of_the_daemon_leaves_no_real_server_behind() -> None:
    commands = [[c.command, *c.args] for c in (TIME, EVERYTHING, GIT)]
    daemon = await asyncio.create_subprocess_exec(
        *(sys.executable, str(DAEMON), json.dumps(commands), str(TESTS), "silent"), stdout=PIPE
    )
    assert daemon.stdout is not None
    assert await daemon.stdout.readline() == b"started\n"
    # npx starts a shell, which starts the server.
    await until(lambda: len(descendants_of(daemon.pid)) >= 6)
    below = descendants_of(daemon.pid)
    daemon.kill()
    await until(lambda: not any(is_alive(pid) for pid in below))
    await daemon.wait()


async def test_nobody_waits_for_a_server_that_was_replaced_before_it_ran() -> None:
    async with running(scripted("--stubborn")) as srv:
        first = srv.server
        never_run = srv.pool.restart("srv")
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(_failure_of(never_run))
            await asyncio.sleep(0)
            last = srv.pool.restart("srv")
        assert waiting.result() == ("srv was stopped", True)
        assert srv.server is last is not first
        assert await srv.say("echo", text="hi") == "hi"
        assert srv.pool.statistics_of("srv").start_count == 2


async def test_a_server_that_was_just_replaced_ends_with_all_others() -> None:
    async with running(scripted("--stubborn")) as srv:
        pid = srv.server.statistics().pid
        srv.pool.restart("srv")
        srv.pool.restart("srv")
    assert pid is not None
    assert not is_alive(pid)


async def test_calls_under_way_at_a_restart_are_told_that_they_may_have_run() -> None:
    async with running(scripted()) as srv, asyncio.TaskGroup() as group:
        run = Run()
        waiting = group.create_task(_failure_of(srv.server, "wait", run))
        await until(lambda: srv.pool.statistics_of("srv").running_count == 1)
        await srv.say("what_waits")  # so the server has it
        srv.pool.restart("srv")
        said, is_retryable = await waiting
        assert (said.startswith("srv "), is_retryable) == (True, False)


async def _failure_of(
    server: UpstreamServer, tool: str = "echo", run: Run | None = None
) -> tuple[str, bool]:
    with pytest.raises(UpstreamFailed) as failed:
        await server.call(tool, {}, run or Run())
    return str(failed.value), failed.value.describe().retryable
