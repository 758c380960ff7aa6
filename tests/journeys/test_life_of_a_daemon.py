"""Opening, draining and closing; two daemons side by side; peers that do not read."""

import asyncio
import json
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from exai.core.config import LimitsConfig, ServerConfig, StoreConfig
from exai.core.errors import ToolFailed
from exai.core.events import CallSettled, Event, SessionDetached
from exai.core.outcomes import Completed, text_block
from exai.core.tool import SharingPolicy, ToolRun
from exai.stores.instance_lock import AlreadyRunning
from exai.testing.running_daemon import TOKEN, RecordedEvents, daemon_config, running_daemon
from exai.testing.scripted_tool import Gates, ScriptedTool
from exai.transports.doors import DaemonAddress
from exai.ws_server import build_daemon
from tests.journeys.wire import open_wire


async def test_two_daemons_with_different_limits_live_in_one_process(tmp_path: Path) -> None:
    small = daemon_config(tmp_path / "small", limits=LimitsConfig(session_max_inflight=1))
    large = daemon_config(tmp_path / "large", limits=LimitsConfig(session_max_inflight=2))
    gates = Gates()
    tools = [ScriptedTool("gate", gates)]
    async with (
        running_daemon(small, tools) as one,
        running_daemon(large, tools) as other,
        open_wire(one.url, token=TOKEN) as narrow,
        open_wire(other.url, token=TOKEN) as wide,
    ):
        for wire, name in ((narrow, "n"), (wide, "w")):
            for n in range(2):
                await wire.say(
                    "call_tool", name="gate", request_id=f"r{n}", arguments={"gate": f"{name}{n}"}
                )
        await gates.until_inside("n0", "w0", "w1")
        health = (await narrow.ask("health", "health_res"))["health"]
        assert health["global_inflight"] == 1
        health = (await wide.ask("health", "health_res"))["health"]
        assert health["global_inflight"] == 2
        for name in ("n0", "n1", "w0", "w1"):
            gates.open(name)
        assert (await narrow.result("r1"))["ok"]
        assert (await wide.result("r1"))["ok"]


async def test_a_second_daemon_on_the_same_state_directory_is_refused(tmp_path: Path) -> None:
    async with running_daemon(daemon_config(tmp_path)):
        with pytest.raises(ExceptionGroup) as refused:
            async with running_daemon(daemon_config(tmp_path)):
                pass
    assert refused.group_contains(AlreadyRunning)


async def test_a_stopping_daemon_finishes_what_runs_and_says_goodbye(tmp_path: Path) -> None:
    gates = Gates()
    limits, store = LimitsConfig(session_max_inflight=1), StoreConfig(kind="memory")
    config = daemon_config(tmp_path, limits=limits, store=store)
    async with (
        running_daemon(config, [ScriptedTool("gate", gates)]) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        await wire.say("call_tool", name="gate", request_id="runs")
        await gates.until_inside("g")
        await wire.say("call_tool", name="gate", request_id="waits", arguments={"gate": "w"})
        await wire.hear_op("call_tool_ack", request_id="waits")
        daemon.stop.set()
        leaving = await wire.hear_op("going_away")
        assert leaving["reason"] == "restart"
        assert leaving["reconnect_after_s"] > 0
        waiting = await wire.result("waits")
        assert waiting["error"]["code"] == "SERVICE_UNAVAILABLE"
        assert waiting["error"]["retryable"] is True
        refused = await wire.call("gate", "new")
        assert refused["error"]["code"] == "SERVICE_UNAVAILABLE"
        replayed = await wire.ask("get_result", "call_tool_res", request_id="waits")
        assert replayed["meta"]["replayed"] is True
        async with open_wire(daemon.url, greet=False) as late:
            await late.say("hello", token=TOKEN)
            assert await late.closed() == (1012, "service restart")
        gates.open()
        assert (await wire.result("runs"))["ok"]
        assert await wire.closed() == (1012, "service restart")


@pytest.mark.parametrize("idempotent", [False, True])
async def test_what_the_drain_time_cuts_off_is_settled_as_interrupted(
    tmp_path: Path, idempotent: bool
) -> None:
    gates = Gates()
    server, store = ServerConfig(drain_s=0.05), StoreConfig(kind="memory")
    config = daemon_config(tmp_path, server=server, store=store)
    tool = ScriptedTool("gate", gates, policy=SharingPolicy(idempotent=idempotent))
    async with (
        running_daemon(config, [tool]) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        await wire.say("call_tool", name="gate", request_id="r1")
        await gates.until_inside("g")
        daemon.stop.set()
        answer = await wire.result()
        assert answer["error"]["code"] == "INTERRUPTED"
        assert answer["error"]["retryable"] is idempotent
        assert answer["error"].get("details", {}).get("may_have_run", False) is not idempotent
        assert await wire.closed() == (1012, "service restart")
    assert gates.cancelled == ["g"]


async def test_a_daemon_without_work_stops_at_once_though_peers_are_connected(
    tmp_path: Path,
) -> None:
    async with (
        asyncio.timeout(5),
        running_daemon(daemon_config(tmp_path)) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        daemon.stop.set()
        assert (await wire.closed())[0] == 1012


@pytest.mark.parametrize("library", ["picows", "websockets"])
@pytest.mark.parametrize("cancellations", [1, 8, 20])
async def test_a_daemon_that_is_cancelled_ends_without_complaint(
    tmp_path: Path, library: str, cancellations: int, caplog: pytest.LogCaptureFixture
) -> None:
    gates = Gates()
    server = ServerConfig(websocket_library=library)  # type: ignore[arg-type]
    config = daemon_config(tmp_path, server=server)
    daemon = build_daemon(config, environment={}, events=RecordedEvents())
    daemon.tools.replace("test", [ScriptedTool("gate", gates)])
    ready: asyncio.Future[DaemonAddress] = asyncio.get_running_loop().create_future()
    life = asyncio.get_running_loop().create_task(daemon.run(asyncio.Event(), ready.set_result))
    async with open_wire((await ready).websocket_url, token=TOKEN, says_bye=False) as wire:
        await wire.say("call_tool", name="gate", request_id="r1")
        await gates.until_inside("g")
        for _ in range(cancellations):
            life.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await life
    assert gates.cancelled == ["g"]
    assert not caplog.records


@pytest.mark.parametrize("library", ["picows", "websockets"])
async def test_a_defect_that_ends_the_daemon_is_the_only_complaint(
    tmp_path: Path, library: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(RecordedEvents):
        def emit(self, event: Event) -> None:
            if isinstance(event, CallSettled):
                raise ZeroDivisionError
            super().emit(event)

    server = ServerConfig(websocket_library=library)  # type: ignore[arg-type]
    config = daemon_config(tmp_path, server=server)
    daemon = build_daemon(config, environment={}, events=Broken())
    gates = Gates()
    daemon.tools.replace("test", [ScriptedTool("gate", gates)])
    ready: asyncio.Future[DaemonAddress] = asyncio.get_running_loop().create_future()
    life = asyncio.get_running_loop().create_task(daemon.run(asyncio.Event(), ready.set_result))
    async with open_wire((await ready).websocket_url, token=TOKEN, says_bye=False) as wire:
        await wire.say("call_tool", name="gate", request_id="r1")
        await gates.until_inside("g")
        await wire.say("cancel_tool", request_id="r1")
        assert (await wire.closed())[0] == 1012
    with pytest.raises(ZeroDivisionError):
        await life
    assert not caplog.records


@pytest.mark.parametrize("library", ["picows", "websockets"])
async def test_a_peer_that_does_not_read_is_let_go_and_hurts_nobody(
    tmp_path: Path, library: str
) -> None:
    async def flood(arguments: dict[str, object], run: ToolRun) -> Completed:
        return Completed([text_block("x" * 1_000_000)])

    server = ServerConfig(
        websocket_library=library,  # type: ignore[arg-type]
        slow_consumer_s=0.2,
        close_timeout_s=0.2,
    )
    tools = [ScriptedTool("flood", flood)]
    async with running_daemon(daemon_config(tmp_path, server=server), tools) as daemon:
        async with connect(daemon.url, max_queue=1, max_size=None, close_timeout=0.1) as deaf:
            await deaf.send(json.dumps({"op": "hello", "token": TOKEN}))
            for n in range(50):
                await deaf.send(
                    json.dumps({"op": "call_tool", "name": "flood", "request_id": f"r{n}"})
                )
            async with open_wire(daemon.url, token=TOKEN) as wire:
                assert (await wire.call("echo", arguments={"text": "x"}))["ok"]
                ended = await daemon.events.first_of(SessionDetached)
                assert (await wire.call("echo", "r2", arguments={"text": "x"}))["ok"]
        assert ended.reason == "slow consumer"


@pytest.mark.parametrize("library", ["picows", "websockets"])
async def test_a_peer_that_begins_to_read_too_late_is_told_why_it_is_let_go(
    tmp_path: Path, library: str
) -> None:
    async def flood(arguments: dict[str, object], run: ToolRun) -> Completed:
        return Completed([text_block("x" * 1_000_000)])

    server = ServerConfig(websocket_library=library, slow_consumer_s=0.2)  # type: ignore[arg-type]
    config = daemon_config(tmp_path, server=server)
    async with running_daemon(config, [ScriptedTool("flood", flood)]) as daemon:
        async with connect(daemon.url, max_queue=1, max_size=None, compression=None) as late:
            await late.send(json.dumps({"op": "hello", "token": TOKEN}))
            for n in range(30):
                call = {"op": "call_tool", "name": "flood", "request_id": f"r{n}"}
                await late.send(json.dumps(call))
            await daemon.events.first_of(SessionDetached)
            with suppress(ConnectionClosed):
                while await late.recv():
                    pass
        assert (late.close_code, late.close_reason) == (4005, "slow consumer")


async def test_too_much_waiting_for_a_peer_is_not_kept(tmp_path: Path) -> None:
    async def flood(arguments: dict[str, object], run: ToolRun) -> Completed:
        for _ in range(100):
            run.stream("x" * 100_000)
        return Completed([text_block("done")])

    server = ServerConfig(outbox_bytes=1_000_000, close_timeout_s=0.2)
    tools = [ScriptedTool("flood", flood)]
    async with running_daemon(daemon_config(tmp_path, server=server), tools) as daemon:
        async with connect(daemon.url, max_queue=1, max_size=None, close_timeout=0.1) as deaf:
            await deaf.send(json.dumps({"op": "hello", "token": TOKEN}))
            await deaf.send(json.dumps({"op": "call_tool", "name": "flood"}))
            ended = await daemon.events.first_of(SessionDetached)
        assert ended.reason == "slow consumer"


async def test_a_stopping_daemon_lets_a_slow_reader_have_all_its_answers(tmp_path: Path) -> None:
    async def grow(arguments: dict[str, object], run: ToolRun) -> Completed:
        return Completed([text_block("x" * 2_000_000)])

    config = daemon_config(tmp_path)
    ops: Counter[str] = Counter()
    async with (
        running_daemon(config, [ScriptedTool("grow", grow)]) as daemon,
        connect(daemon.url, max_queue=1, max_size=None, compression=None) as slow,
    ):
        await slow.send(json.dumps({"op": "hello", "token": TOKEN}))
        for n in range(6):
            frame = {"op": "call_tool", "name": "grow", "request_id": f"r{n}"}
            await slow.send(json.dumps(frame))
        await daemon.events.wait_for(CallSettled, 6)
        daemon.stop.set()
        with suppress(ConnectionClosed):
            while True:
                ops[json.loads(await slow.recv())["op"]] += 1
    assert ops["call_tool_res"] == 6
    assert ops["going_away"] == 1
    assert slow.close_code == 1012


async def test_an_outcome_that_no_frame_can_hold_is_a_defect_with_an_answer(
    tmp_path: Path,
) -> None:
    async def odd(arguments: dict[str, object], run: ToolRun) -> Completed:
        return Completed([{"type": "text", "text": 5}, {"type": "text"}])

    async def worse(arguments: dict[str, object], run: ToolRun) -> Completed:
        raise ToolFailed("no", outputs=[text_block("\ud800")])

    tools = [ScriptedTool("odd", odd), ScriptedTool("worse", worse)]
    async with (
        running_daemon(daemon_config(tmp_path), tools) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        assert (await wire.call("odd"))["text"] == ""
        answer = await wire.call("worse", "r2")
        assert answer["error"]["code"] == "INTERNAL_ERROR"
        assert answer["error"]["details"]["may_have_run"] is True
        assert (await wire.call("echo", "r3", arguments={"text": "x"}))["ok"]
