"""Who shares a process of a server, how many there are, and when each of them ends."""

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from exai.core.errors import ExaiError, QueueFull, ToolFailed, UpstreamFailed
from exai.core.events import UpstreamDied, UpstreamGaveUp, UpstreamStarted, UpstreamStopped
from exai.core.identity import Principal
from exai.upstream.server_state import ServerState
from tests.upstream.running_server import (
    EAGER,
    Run,
    Running,
    is_alive,
    personal,
    running,
    scripted,
    until,
)

both_eras = pytest.mark.parametrize("options", [[], ["--legacy"]], ids=["2026", "2025"])


async def pid_of(srv: Running, session_id: str = "s1") -> int:
    return int(await srv.say("pid", Run(session_id)))


@pytest.mark.slow
@both_eras
async def test_a_session_has_a_server_of_its_own(options: list[str]) -> None:
    async with running(personal(*options)) as srv:
        assert [await srv.say("count", Run("s1")) for _ in range(3)] == ["1", "2", "3"]
        assert await srv.say("count", Run("s2")) == "1"
        assert await srv.say("count", Run("s1")) == "4"
        assert srv.server.statistics().start_count == 3


async def test_the_sessions_of_a_principal_share_its_server_and_nobody_elses() -> None:
    async with running(scripted(instance="principal")) as srv:
        assert await srv.say("count", Run("s1", principal="ann")) == "1"
        assert await srv.say("count", Run("s2", principal="ann")) == "2"
        assert await srv.say("count", Run("s3", principal="bob")) == "1"
        srv.server.end_session("s1")
        assert await srv.say("count", Run("s2", principal="ann")) == "3"


async def test_the_one_that_lists_the_tools_serves_nobody() -> None:
    async with running(scripted(instance="session")) as srv:
        before = srv.server.statistics()
        assert (before.state, before.instance_count) == (ServerState.READY, 1)
        assert await pid_of(srv) != before.pid


async def test_calls_that_come_while_an_instance_starts_wait_for_it() -> None:
    async with (
        running(scripted(instance="session"), wait=False) as srv,
        asyncio.TaskGroup() as tasks,
    ):
        calls = [tasks.create_task(srv.say("count", Run("s1"))) for _ in range(5)]
        others = [tasks.create_task(srv.say("count", Run("s2"))) for _ in range(3)]
    assert sorted(call.result() for call in calls) == ["1", "2", "3", "4", "5"]
    assert sorted(call.result() for call in others) == ["1", "2", "3"]


async def test_an_instance_that_nobody_uses_stops_and_its_tools_stay() -> None:
    async with running(scripted(instance="session", idle_stop_s=0.05)) as srv:
        pid = await pid_of(srv)
        assert await srv.say("count", Run("s1")) == "1"
        await srv.events.wait_for(UpstreamStopped, 2)
        await until(lambda: not is_alive(pid))
        assert {stopped.reason for stopped in srv.events.of(UpstreamStopped)} == {"is idle"}
        idle = srv.server.statistics()
        assert (idle.state, idle.instance_count) == (ServerState.READY, 0)
        assert await srv.say("count", Run("s1")) == "1"
        assert not srv.events.of(UpstreamDied)


async def test_an_instance_at_work_is_not_idle() -> None:
    async with running(scripted(instance="session", idle_stop_s=0.1)) as srv:
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(srv.call("wait"))
            await until(lambda: srv.server.statistics().running_count == 1)
            await srv.events.wait_for(UpstreamStopped, 1)  # the one that lists the tools
            await asyncio.sleep(0.3)
            assert await srv.say("what_waits") != "[]"
            waiting.cancel()
        await srv.events.wait_for(UpstreamStopped, 2)


async def test_an_instance_that_is_to_be_kept_stays() -> None:
    async with running(scripted(instance="session", idle_stop_s=0)) as srv:
        pid = await pid_of(srv)
        await asyncio.sleep(0.3)
        assert is_alive(pid)
        assert not srv.events.of(UpstreamStopped)
    assert not is_alive(pid)


async def test_a_sessions_end_ends_its_server_and_no_other() -> None:
    async with running(scripted(instance="session")) as srv:
        first, second = await pid_of(srv, "s1"), await pid_of(srv, "s2")
        srv.server.end_session("s1")
        srv.server.end_session("unheard of")
        await until(lambda: not is_alive(first))
        assert is_alive(second)
        assert await srv.say("count", Run("s1")) == "1"


async def test_who_still_waits_for_an_instance_that_is_stopped_is_told_so() -> None:
    async with running(scripted(instance="session")) as srv:
        with pytest.raises(UpstreamFailed, match="was stopped"):
            async with asyncio.timeout(5):
                async with asyncio.TaskGroup() as tasks:
                    call = tasks.create_task(_outcome_of(srv.call("count")))
                    await until(lambda: bool(list(srv.server.instances_of(Principal("test")))))
                    srv.server.end_session("s1")
                raise call.result() or AssertionError


async def test_who_is_served_by_an_instance_that_is_stopped_is_told_so() -> None:
    async with running(scripted(instance="session")) as srv:
        async with asyncio.TaskGroup() as tasks:
            call = tasks.create_task(_outcome_of(srv.call("wait")))
            await until(lambda: srv.server.statistics().running_count == 1)
            srv.server.end_session("s1")
        error = call.result()
        assert isinstance(error, UpstreamFailed)
        assert error.describe().details == {"may_have_run": True}


async def test_kill_9_in_mid_call_fails_its_calls_and_the_next_call_starts_another() -> None:
    async with running(scripted(instance="session")) as srv:
        pid, other = await pid_of(srv, "s1"), await pid_of(srv, "s2")
        async with asyncio.TaskGroup() as tasks:
            call = tasks.create_task(_outcome_of(srv.call("wait", Run("s1"))))
            await until(lambda: srv.server.statistics().running_count == 1)
            os.kill(pid, signal.SIGKILL)
        error = call.result()
        assert isinstance(error, UpstreamFailed)
        assert error.describe().details == {"may_have_run": True}
        await srv.events.wait_for(UpstreamDied, 1)
        starts = srv.server.statistics().start_count
        await asyncio.sleep(0.1)  # longer than it is held back
        assert srv.server.statistics().start_count == starts
        assert await srv.say("count", Run("s1")) == "1"
        assert await pid_of(srv, "s2") == other


async def test_an_instance_that_keeps_crashing_is_started_rarely_and_others_are_not() -> None:
    async with running(scripted(instance="session", idle_stop_s=0.01)) as srv:
        for _ in range(EAGER.give_up_after):
            await _outcome_of(srv.call("exit", Run("s1")))
        await srv.events.wait_for(UpstreamGaveUp, 1)
        with pytest.raises(UpstreamFailed, match="exited with status 1") as failed:
            await srv.call("count", Run("s1"))
        assert failed.value.describe().retryable
        assert 0 < float(failed.value.describe().retry_after_s) <= 72  # type: ignore[arg-type]
        assert await srv.say("count", Run("s2")) == "1"


async def test_a_server_whose_tools_cannot_be_listed_is_tried_again_until_they_are() -> None:
    crashing = scripted("--crash", "3", instance="session", idle_stop_s=0.01)
    async with running(crashing) as srv:
        await srv.events.wait_for(UpstreamGaveUp, 1)
        assert srv.server.statistics().state is ServerState.GAVE_UP
        with pytest.raises(UpstreamFailed, match="exited with status 3"):
            await srv.call("echo")


@pytest.mark.slow
async def test_forty_sessions_have_at_most_four_servers_at_once() -> None:
    async with running(scripted(instance="session", max_instances=4)) as srv:
        most = 0
        for number in range(40):
            assert await srv.say("count", Run(f"s{number}")) == "1"
            most = max(most, srv.server.statistics().instance_count)
            if number % 10 == 9:  # those used last are still there
                assert await srv.say("count", Run(f"s{number - 1}")) == "2"
        assert most <= 4
        made_room = [e for e in srv.events.of(UpstreamStopped) if e.reason.startswith("makes room")]
        assert len(made_room) == 40 - 4 + 1


async def test_where_all_instances_are_in_use_a_call_is_refused() -> None:
    async with (
        running(scripted(instance="session", max_instances=2)) as srv,
        asyncio.TaskGroup() as tasks,
    ):
        busy = [tasks.create_task(srv.call("wait", Run(f"s{n}"))) for n in range(2)]
        await until(lambda: srv.server.statistics().running_count == 2)
        run = Run("s3")
        with pytest.raises(QueueFull, match="all 2 instances of srv are in use") as refused:
            await srv.call("count", run)
        info = refused.value.describe()
        assert (info.details, info.retryable) == ({"scope": "upstream:srv"}, True)
        assert not run.may_have_begun
        assert await srv.say("count", Run("s0")) == "1"
        busy[0].cancel()
        await asyncio.wait(busy[:1])
        assert await srv.say("count", run) == "1"
        busy[1].cancel()


async def test_a_change_in_any_instance_has_the_tools_listed_anew(tmp_path: Path) -> None:
    listed = tmp_path / "tools.json"
    listed.write_text("[]")
    config = scripted("--tools", str(listed), instance="session", idle_stop_s=0.1, max_instances=1)
    async with running(config) as srv:
        await srv.events.wait_for(UpstreamStopped, 1)
        listed.write_text(json.dumps([{"name": "fresh", "inputSchema": {"type": "object"}}]))
        await srv.call("tell", method="notifications/tools/list_changed")
        await until(lambda: "fresh" in srv.listings["srv"][-1])
        await until(lambda: srv.server.statistics().instance_count == 0)
        assert await srv.say("count") == "1"


async def test_what_an_instance_has_for_its_owner_is_not_shown_to_others() -> None:
    async with running(scripted(instance="session")) as srv:
        await srv.call("add_tool", tool={"name": "grown", "inputSchema": {"type": "object"}})
        await until(lambda: len(srv.listings["srv"]) > 1)
        assert "grown" not in srv.listings["srv"][-1]


async def test_a_principal_sees_its_own_instances() -> None:
    async with running(scripted(instance="session")) as srv:
        await srv.say("pid", Run("s1", principal="ann"))
        await srv.say("pid", Run("s2", principal="bob"))
        (own,) = srv.server.instances_of(Principal("ann"))
        assert (own.upstream, own.session_id, own.state) == ("srv", "s1", ServerState.READY)
        assert not list(srv.server.instances_of(Principal("eve")))


async def test_closing_ends_every_process_whatever_it_is_at() -> None:
    pids: list[int] = []
    async with running(scripted(instance="session", max_instances=6)) as srv:
        async with asyncio.TaskGroup() as tasks:
            for number in range(4):
                tasks.create_task(_outcome_of(srv.call("count", Run(f"s{number}"))))
        pids += [own.pid for own in srv.server.instances_of(Principal("test")) if own.pid]
        async with asyncio.TaskGroup() as tasks:
            calls = [tasks.create_task(_outcome_of(srv.call("wait", Run("s1"))))]
            await until(lambda: srv.server.statistics().running_count == 1)
            srv.server.end_session("s0")
            calls.append(tasks.create_task(_outcome_of(srv.call("count", Run("s9")))))
            await asyncio.sleep(0)
            calls[0].cancel()
    assert len(pids) == 4
    await until(lambda: not any(map(is_alive, pids)))


@pytest.mark.slow
async def test_starts_stops_idle_times_crashes_and_ends_race_and_leave_nothing_behind() -> None:
    chance, pids = random.Random(7), set[int]()

    def session_ids() -> Iterator[str]:
        while True:
            yield f"s{chance.randrange(6)}"

    config = scripted(instance="session", idle_stop_s=0.02, max_instances=3)
    async with running(config) as srv:

        async def use(names: Iterator[str]) -> None:
            for session_id in (next(names) for _ in range(25)):
                what = chance.random()
                if what < 0.15:
                    srv.server.end_session(session_id)
                elif what < 0.3:
                    await _outcome_of(srv.call("exit", Run(session_id)))
                elif what < 0.45:
                    async with asyncio.TaskGroup() as tasks:
                        call = tasks.create_task(_outcome_of(srv.call("wait", Run(session_id))))
                        await asyncio.sleep(chance.random() / 20)
                        call.cancel()
                else:
                    error = await _outcome_of(srv.call("echo", Run(session_id)))
                    assert error is None or isinstance(error, UpstreamFailed | QueueFull), error
                pids.update(o.pid for o in srv.server.instances_of(Principal("test")) if o.pid)
                assert srv.server.statistics().instance_count <= 3
                await asyncio.sleep(chance.random() / 30)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(8):
                tasks.create_task(use(session_ids()))
        await until(lambda: srv.server.statistics().instance_count == 0)
        assert srv.server.statistics().running_count == 0
    assert len(pids) > 10
    assert not any(map(is_alive, pids))
    assert srv.events.of(UpstreamStarted)


async def test_nothing_of_sessions_that_have_ended_is_handed_on_at_restarts() -> None:
    async with running(scripted(instance="session")) as srv:
        before = set(srv.server.wishes)
        for number in range(5):
            assert await srv.say("count", Run(f"s{number}")) == "1"
            srv.pool.restart("srv")
            srv.pool.end_session(f"s{number}")
        assert set(srv.server.wishes) == before


async def test_another_idle_time_holds_for_instances_that_are_idle_already() -> None:
    async with running(scripted(instance="session", idle_stop_s=0)) as srv:
        pid = await pid_of(srv)
        changes = srv.pool.apply({"srv": scripted(instance="session", idle_stop_s=0.05)})
        assert (changes.adjusted, changes.restarted) == (["srv"], [])
        await srv.events.wait_for(UpstreamStopped, 2)
        await until(lambda: not is_alive(pid))
        srv.pool.apply({"srv": scripted(instance="session", idle_stop_s=0)})
        pid = await pid_of(srv)
        assert is_alive(pid)
    assert {stopped.reason for stopped in srv.events.of(UpstreamStopped)} == {"is idle"}


async def test_fewer_instances_stop_those_used_least_lately_and_none_that_work() -> None:
    async with (
        running(scripted(instance="session", max_instances=5)) as srv,
        asyncio.TaskGroup() as tasks,
    ):
        busy = tasks.create_task(_outcome_of(srv.call("wait", Run("busy"))))
        await until(lambda: srv.server.statistics().running_count == 1)
        pids = [await pid_of(srv, f"s{number}") for number in range(3)]
        srv.pool.apply({"srv": scripted(instance="session", max_instances=2)})
        await until(lambda: not is_alive(pids[0]) and not is_alive(pids[1]))
        assert srv.server.statistics().running_count == 1
        assert await pid_of(srv, "s2") == pids[2]
        srv.pool.apply({"srv": scripted(instance="session", max_instances=1)})
        await until(lambda: not is_alive(pids[2]))
        with pytest.raises(QueueFull, match="all 1 instances"):
            await srv.call("count", Run("s9"))
        busy.cancel()
        await asyncio.wait([busy])
        assert await srv.say("count", Run("s9")) == "1"


async def test_more_instances_start_at_once_those_that_wait_for_room() -> None:
    one, two = (scripted("--stubborn", instance="session", max_instances=n) for n in (1, 2))
    async with running(one) as srv, asyncio.TaskGroup() as tasks:
        first = await pid_of(srv, "s1")
        second = tasks.create_task(pid_of(srv, "s2"))
        await until(lambda: bool(srv.events.of(UpstreamStopped)))
        srv.pool.apply({"srv": two})
        assert await second != first


async def test_another_time_to_start_holds_for_the_next_start() -> None:
    quick = scripted()
    command = [sys.executable, *quick.args]
    late = f"import os, time; time.sleep(0.5); os.execv({sys.executable!r}, {command})"
    config = msgspec.structs.replace(quick, args=("-I", "-S", "-c", late), start_timeout_s=0.1)
    async with running(config, wait=False) as srv:
        await srv.events.wait_for(UpstreamDied)
        changes = srv.pool.apply({"srv": msgspec.structs.replace(config, start_timeout_s=15.0)})
        assert changes.adjusted == ["srv"]
        await srv.events.wait_for(UpstreamStarted)
        assert await srv.say("echo", text="hi") == "hi"


async def _outcome_of(call: Awaitable[Any]) -> ExaiError | None:
    try:
        await call
    except (UpstreamFailed, QueueFull, ToolFailed) as error:
        return error
    return None
