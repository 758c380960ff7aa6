"""A call over a real socket: accepted, told about, answered exactly once."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from exai.core.config import (
    LimitsConfig,
    PrincipalConfig,
    ProviderConfig,
    Secret,
    ServerConfig,
    UpstreamConfig,
)
from exai.core.errors import ToolFailed
from exai.core.events import CallFailedInside, CallRejected, CallSettled
from exai.core.outcomes import Completed, ExecutionFacts, Usage, text_block
from exai.core.tool import SharingPolicy, ToolRun
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from exai.testing.scripted_tool import Gates, ScriptedTool
from tests.journeys.wire import open_wire

IDEMPOTENT = SharingPolicy(idempotent=True)


async def tell(arguments: dict[str, Any], run: ToolRun) -> Completed:
    """Report, stream, start over, stream again."""
    run.report("half", progress=1, total=2, level="notice")
    run.stream("wro")
    run.stream("")
    run.begin_attempt()
    run.stream("ri")
    run.stream("ght")
    facts = ExecutionFacts(2, "kimi", "k2", Usage(1, 2))
    return Completed([text_block("right")], structured={"n": 1}, facts=facts)


async def fail(arguments: dict[str, Any], run: ToolRun) -> Completed:
    raise ToolFailed("it says no", outputs=[text_block("because")], structured={"why": "because"})


async def break_down(arguments: dict[str, Any], run: ToolRun) -> Completed:
    raise ZeroDivisionError("secret detail")


async def grow(arguments: dict[str, Any], run: ToolRun) -> Completed:
    return Completed([text_block("x" * 2_000_000)])


@pytest.fixture
def gates() -> Gates:
    return Gates()


@pytest.fixture
async def daemon(tmp_path: Path, gates: Gates) -> AsyncIterator[RunningDaemon]:
    config = daemon_config(
        tmp_path,
        limits=LimitsConfig(max_result_bytes=1_000_000, call_timeout_s=60.0),
        providers={"kimi": ProviderConfig(base_url="http://127.0.0.1:9", max_inflight=1)},
    )
    tools = [
        ScriptedTool("gate", gates),
        ScriptedTool("safe_gate", gates, policy=IDEMPOTENT),
        ScriptedTool("quick_gate", gates, timeout_s=0.05),
        ScriptedTool("kimi_gate", gates, scope="provider:kimi"),
        ScriptedTool("tell", tell),
        ScriptedTool("fail", fail),
        ScriptedTool("break", break_down),
        ScriptedTool("grow", grow),
    ]
    async with running_daemon(config, tools) as running:
        yield running


async def test_a_call_is_acknowledged_then_answered(daemon: RunningDaemon) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        await wire.say("call_tool", name="echo", request_id="r1", arguments={"text": "hello"})
        ack, answer = await wire.hear(), await wire.hear()
    assert ack["op"] == "call_tool_ack"
    assert (ack["request_id"], ack["accepted"], ack["name"]) == ("r1", True, "echo")
    assert ack["timeout_s"] == ack["timeout"] == 60.0
    assert answer["op"] == "call_tool_res"
    assert (answer["ok"], answer["text"]) == (True, "hello")
    assert answer["outputs"] == [{"type": "text", "text": "hello"}]
    assert answer["meta"]["call_id"] == ack["call_id"]
    assert answer["meta"]["replayed"] is False


async def test_a_call_without_an_id_gets_one_that_stands_in_every_answer(
    daemon: RunningDaemon,
) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        await wire.say("call_tool", name="echo", arguments={"text": "x"})
        ack, answer = await wire.hear(), await wire.hear()
        assert ack["request_id"] == answer["request_id"] != ""
        again = await wire.ask("get_result", "call_tool_res", request_id=ack["request_id"])
    assert again["text"] == "x"


async def test_progress_and_streamed_text_arrive_in_order_before_the_answer(
    daemon: RunningDaemon,
) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        await wire.say("call_tool", name="tell", request_id="r1")
        frames = [await wire.hear() for _ in range(7)]
    assert [frame["op"] for frame in frames] == [
        "call_tool_ack", *["progress"] * 5, "call_tool_res",
    ]  # fmt: skip
    reported, wrong, void, *right = frames[1:6]
    assert (reported["message"], reported["progress"], reported["total"]) == ("half", 1.0, 2.0)
    assert reported["level"] == "notice"
    assert (wrong["delta"], wrong["offset"], wrong["attempt"]) == ("wro", 0, 1)
    assert (void["delta"], void["offset"], void["attempt"]) == ("", 0, 2)
    assert [(f["delta"], f["offset"], f["attempt"]) for f in right] == [("ri", 0, 2), ("ght", 2, 2)]
    answer = frames[-1]
    assert answer["structured"] == {"n": 1}
    assert answer["meta"]["attempts"] == 2
    assert answer["meta"]["usage"] == {"input_tokens": 1, "output_tokens": 2}
    assert (answer["meta"]["provider"], answer["meta"]["model"]) == ("kimi", "k2")


async def test_twenty_calls_at_once_on_one_connection_are_all_answered(
    daemon: RunningDaemon, gates: Gates
) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        for n in range(20):
            await wire.say(
                "call_tool", name="gate", request_id=f"r{n}", arguments={"gate": f"g{n}"}
            )
        await gates.until_inside(*(f"g{n}" for n in range(8)))
        assert len(gates.inside) == 8
        for n in reversed(range(20)):
            gates.open(f"g{n}")
        answers = [await wire.result(f"r{n}") for n in range(20)]
    assert [answer["text"] for answer in answers] == [f"through g{n}" for n in range(20)]


async def test_the_reader_never_waits_for_a_call(daemon: RunningDaemon, gates: Gates) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        await wire.say("call_tool", name="gate", request_id="slow")
        await gates.until_inside("g")
        health = await wire.ask("health", "health_res")
        assert health["health"]["global_inflight"] == 1
        assert (await wire.call("echo", "fast", arguments={"text": "x"}))["ok"]
        assert await wire.ask("list_tools", "list_tools_res", request_id="l")
        gates.open()
        assert (await wire.result("slow"))["ok"]


async def test_the_same_request_again_joins_the_running_one(
    daemon: RunningDaemon, gates: Gates
) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        for _ in range(3):
            await wire.say("call_tool", name="gate", request_id="r1", arguments={"gate": "g"})
        acks = [await wire.hear_op("call_tool_ack") for _ in range(3)]
        assert [ack.get("joined", False) for ack in acks] == [False, True, True]
        assert len({ack["call_id"] for ack in acks}) == 1
        await gates.until_inside("g")
        await wire.say("call_tool", name="gate", request_id="r1", arguments={"gate": "g"})
        assert (await wire.hear_op("call_tool_ack"))["joined"] is True
        gates.open()
        assert (await wire.result())["ok"]
        await wire.ask("health", "health_res")
        assert gates.runs == ["g"]


async def test_the_same_id_for_other_work_is_a_conflict_and_harms_nothing(
    daemon: RunningDaemon, gates: Gates
) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        await wire.say("call_tool", name="gate", request_id="r1", arguments={"gate": "g"})
        await gates.until_inside("g")
        conflict = await wire.call("gate", "r1", arguments={"gate": "other"})
        assert conflict["error"]["code"] == "REQUEST_ID_CONFLICT"
        gates.open()
        assert (await wire.result())["ok"]
        conflict = await wire.call("gate", "r1", arguments={"gate": "other"})
        assert conflict["error"]["code"] == "REQUEST_ID_CONFLICT"
    assert gates.runs == ["g"]


async def test_a_settled_request_is_replayed_and_does_not_run_again(
    daemon: RunningDaemon, gates: Gates
) -> None:
    gates.open()
    async with open_wire(daemon.url, token=TOKEN) as wire:
        first = await wire.call("gate")
        again = await wire.call("gate")
        fetched = await wire.ask("get_result", "call_tool_res", request_id="r1")
    assert again["meta"].pop("replayed") is True
    assert first["meta"].pop("replayed") is False
    assert again == first
    assert fetched["text"] == first["text"]
    assert gates.runs == ["g"]


async def test_a_settled_failure_is_replayed_too(daemon: RunningDaemon) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        first, again = await wire.call("fail"), await wire.call("fail")
    assert first["error"] == again["error"]
    assert again["meta"]["replayed"] is True


async def test_a_refused_request_leaves_nothing_behind(daemon: RunningDaemon) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        refused = await wire.call("echo", "r1", arguments={"text": 7})
        assert refused["error"]["code"] == "VALIDATION_ERROR"
        assert "meta" not in refused
        assert (await wire.call("echo", "r1", arguments={"text": "x"}))["ok"]


async def test_an_acknowledged_result_is_erased_and_its_id_remembered(
    daemon: RunningDaemon, gates: Gates
) -> None:
    gates.open()
    async with open_wire(daemon.url, token=TOKEN) as wire:
        await wire.call("gate")
        await wire.say("ack", request_ids=["r1", "never-seen"])
        for op, fields in (("get_result", {}), ("call_tool", {"name": "gate"})):
            gone = await wire.ask(op, "call_tool_res", request_id="r1", **fields)
            assert gone["error"]["code"] == "RESULT_UNKNOWN"
            assert gone["error"]["details"] == {"reason": "acknowledged", "ok": True}
    assert gates.runs == ["g"]


async def test_only_so_many_results_are_kept_for_a_session(tmp_path: Path) -> None:
    config = daemon_config(tmp_path, limits=LimitsConfig(session_max_unacked=2))
    async with running_daemon(config) as daemon, open_wire(daemon.url, token=TOKEN) as wire:
        for n in range(3):
            await wire.call("echo", f"r{n}", arguments={"text": f"t{n}"})
        gone = await wire.ask("get_result", "call_tool_res", request_id="r0")
        assert gone["error"]["details"] == {"reason": "expired", "ok": True}
        assert (await wire.ask("get_result", "call_tool_res", request_id="r2"))["text"] == "t2"


async def test_a_result_expires(tmp_path: Path) -> None:
    config = daemon_config(tmp_path, limits=LimitsConfig(result_ttl_s=0.2))
    async with running_daemon(config) as daemon, open_wire(daemon.url, token=TOKEN) as wire:
        assert (await wire.call("echo", arguments={"text": "x"}))["ok"]
        async with asyncio.timeout(10):
            while (await wire.ask("get_result", "call_tool_res", request_id="r1"))["ok"]:
                pass
        gone = await wire.ask("get_result", "call_tool_res", request_id="r1")
    assert gone["error"]["code"] == "RESULT_UNKNOWN"


async def test_get_result_of_a_running_call_says_that_it_runs(
    daemon: RunningDaemon, gates: Gates
) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        await wire.say("call_tool", name="gate", request_id="r1")
        await gates.until_inside("g")
        assert (await wire.ask("get_result", "progress", request_id="r1"))["name"] == "gate"


@pytest.mark.parametrize("op", ["get_result", "cancel_tool"])
async def test_nothing_is_known_of_an_unknown_request(daemon: RunningDaemon, op: str) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        answer = await wire.ask(op, "call_tool_res", request_id="r-unknown")
    assert answer["error"]["code"] == "RESULT_UNKNOWN"
    assert answer["request_id"] == "r-unknown"


async def test_a_cancelled_call_is_answered_and_its_work_is_stopped(
    daemon: RunningDaemon, gates: Gates
) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        await wire.say("call_tool", name="gate", request_id="r1")
        await gates.until_inside("g")
        await wire.say("cancel_tool", request_id="r1", reason="changed my mind")
        answer = await wire.result()
        assert answer["error"]["code"] == "CANCELLED"
        assert "changed my mind" in answer["error"]["message"]
        assert answer["error"]["details"] == {"may_have_run": True}
        await gates.until_cancelled()
        again = await wire.ask("cancel_tool", "call_tool_res", request_id="r1")
        assert again["meta"]["replayed"] is True
        assert (await wire.ask("health", "health_res"))["health"]["global_inflight"] == 0


async def test_a_waiting_call_can_be_cancelled(daemon: RunningDaemon, gates: Gates) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        for request_id in ("runs", "waits"):
            await wire.say(
                "call_tool", name="kimi_gate", request_id=request_id, arguments={"gate": request_id}
            )
        await gates.until_inside("runs")
        await wire.say("cancel_tool", request_id="waits")
        answer = await wire.result("waits")
        assert answer["error"]["code"] == "CANCELLED"
        assert "details" not in answer["error"]
        gates.open("runs")
        assert (await wire.result("runs"))["ok"]
    assert gates.runs == ["runs"]


async def test_a_call_that_runs_too_long_times_out_and_may_have_run(
    daemon: RunningDaemon, gates: Gates
) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        answer = await wire.call("gate", timeout_s=0.05)
    assert answer["error"]["code"] == "TIMEOUT"
    assert answer["error"]["retryable"] is False
    assert answer["error"]["details"] == {"phase": "run", "may_have_run": True}
    await gates.until_cancelled()


async def test_an_idempotent_call_that_times_out_may_be_repeated(daemon: RunningDaemon) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        answer = await wire.call("safe_gate", timeout_s=0.05)
    assert answer["error"]["retryable"] is True
    assert answer["error"]["details"] == {"phase": "run"}


async def test_a_call_that_waits_too_long_times_out_in_the_queue(
    daemon: RunningDaemon, gates: Gates
) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        await wire.say("call_tool", name="kimi_gate", request_id="runs")
        await gates.until_inside("g")
        answer = await wire.call("kimi_gate", "waits", timeout_s=0.05)
        gates.open()
    assert answer["error"]["code"] == "TIMEOUT"
    assert answer["error"]["retryable"] is True
    assert answer["error"]["details"] == {"phase": "queue"}
    assert answer["meta"]["queue_ms"] >= 50
    assert answer["meta"]["run_ms"] == 0


async def test_the_shortest_of_all_limits_counts(daemon: RunningDaemon) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        answer = await wire.call("quick_gate", timeout_s=3600)
        assert answer["error"]["code"] == "TIMEOUT"
        ack = await wire.hear_op("call_tool_ack")
    assert ack["timeout_s"] == 0.05


async def test_a_tool_ten_times_longer_than_the_heartbeat_is_heard_of_all_the_while(
    tmp_path: Path, gates: Gates
) -> None:
    server = ServerConfig(progress_interval_s=0.05)
    config = daemon_config(tmp_path, server=server)
    tools = [ScriptedTool("gate", gates)]
    async with running_daemon(config, tools) as daemon, open_wire(daemon.url, token=TOKEN) as wire:
        await wire.say("call_tool", name="gate", request_id="r1")
        beats = [await wire.hear_op("progress") for _ in range(10)]
        gates.open()
        answer = await wire.result()
    assert answer["ok"]
    assert all(set(beat) == {"op", "request_id", "name", "t"} for beat in beats)
    assert gates.cancelled == []


async def test_what_a_tool_says_when_it_fails_reaches_the_caller(daemon: RunningDaemon) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        answer = await wire.call("fail")
    assert answer["ok"] is False
    assert answer["error"]["code"] == "TOOL_EXECUTION_ERROR"
    assert (answer["text"], answer["structured"]) == ("because", {"why": "because"})


async def test_a_defect_is_told_by_an_id_alone(daemon: RunningDaemon) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        answer = await wire.call("break")
    assert answer["error"]["code"] == "INTERNAL_ERROR"
    assert "secret detail" not in json.dumps(answer)
    [defect] = daemon.events.of(CallFailedInside)
    assert defect.error_id == answer["error"]["details"]["error_id"]
    assert isinstance(defect.exception, ZeroDivisionError)


async def test_too_large_a_result_is_a_typed_failure(daemon: RunningDaemon) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        answer = await wire.call("grow")
    assert answer["error"]["code"] == "RESULT_TOO_LARGE"
    assert answer["error"]["details"]["max_bytes"] == 1_000_000


async def test_a_session_with_a_full_line_is_refused_and_goes_on(
    daemon: RunningDaemon, gates: Gates
) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        for n in range(8 + 64):
            await wire.say("call_tool", name="gate", request_id=f"r{n}")
        refused = await wire.call("gate", "one-too-many")
        assert refused["error"]["code"] == "OVER_CAPACITY"
        assert refused["error"]["retryable"] is True
        assert refused["error"]["details"] == {"scope": "session"}
        gates.open()
        assert all([(await wire.result(f"r{n}"))["ok"] for n in range(72)])
        assert (await wire.call("gate", "one-too-many"))["ok"]


async def test_a_tool_that_is_not_there_is_answered_with_what_comes_close(
    daemon: RunningDaemon,
) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        answer = await wire.call("ecko")
    assert answer["error"]["code"] == "TOOL_NOT_FOUND"
    assert answer["error"]["details"]["closest"][0] == "echo"


@pytest.mark.parametrize("suffix", ["_EXAI-WS", "-EXAI-WS", "_EXAI_WS", "-EXAI_WS"])
async def test_old_clients_names_are_understood(daemon: RunningDaemon, suffix: str) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        assert (await wire.call(f"echo{suffix}", arguments={"text": "x"}))["text"] == "x"


async def test_a_principal_sees_and_calls_only_its_own_tools(tmp_path: Path) -> None:
    narrow = PrincipalConfig(token=Secret("narrow-token-0123456789"), tools=("ver*",))
    async with (
        running_daemon(daemon_config(tmp_path, principals={"narrow": narrow})) as daemon,
        open_wire(daemon.url, token="narrow-token-0123456789") as wire,
    ):
        listing = await wire.ask("list_tools", "list_tools_res")
        assert [tool["name"] for tool in listing["tools"]] == ["version"]
        hidden = await wire.call("echo", "r1", arguments={"text": "x"})
        absent = await wire.call("ecko", "r2", arguments={"text": "x"})
        assert hidden["error"]["details"] == absent["error"]["details"] == {"closest": []}
        assert (await wire.call("version", "r3"))["structured"]["name"] == "exai"


async def test_a_principal_sees_in_health_only_what_it_may_see(
    tmp_path: Path, gates: Gates
) -> None:
    principals = {
        "wide": PrincipalConfig(token=Secret(TOKEN)),
        "narrow": PrincipalConfig(token=Secret("narrow-token-0123456789"), tools=("echo",)),
    }
    box = UpstreamConfig(command="/no/such/program")
    config = daemon_config(tmp_path, principals=principals, upstreams={"box": box})
    async with (
        running_daemon(config, [ScriptedTool("gate", gates)]) as daemon,
        open_wire(daemon.url, token=TOKEN) as wide,
        open_wire(daemon.url, token="narrow-token-0123456789") as narrow,
    ):
        await wide.say("call_tool", name="gate", request_id="r1")
        await gates.until_inside("g")
        seen = (await narrow.ask("health", "health_res"))["health"]
        assert (seen["tool_count"], seen["upstreams"]) == (1, None)
        assert "session:" not in json.dumps(seen)
        seen = (await wide.ask("health", "health_res"))["health"]
        assert seen["tool_count"] == 5
        assert seen["upstreams"][0]["upstream"] == "box"
        gates.open()
        assert (await wide.result())["ok"]


async def test_another_sessions_requests_look_like_none(
    daemon: RunningDaemon, gates: Gates
) -> None:
    async with (
        open_wire(daemon.url, token=TOKEN) as one,
        open_wire(daemon.url, token=TOKEN) as other,
    ):
        await one.say("call_tool", name="gate", request_id="r1")
        await gates.until_inside("g")
        for op in ("get_result", "cancel_tool"):
            answer = await other.ask(op, "call_tool_res", request_id="r1")
            assert answer["error"]["code"] == "RESULT_UNKNOWN"
        gates.open()
        assert (await one.result())["ok"]


async def test_a_session_that_ends_takes_its_calls_with_it(
    daemon: RunningDaemon, gates: Gates
) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        await wire.say("call_tool", name="gate", request_id="r1")
        await gates.until_inside("g")
    await gates.until_cancelled()


async def test_listing_tells_of_every_tool_what_a_client_needs(daemon: RunningDaemon) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        listing = await wire.ask("list_tools", "list_tools_res", request_id="l1")
        assert listing["request_id"] == "l1"
        assert "request_id" not in await wire.ask("list_tools", "list_tools_res")
    tools = {tool["name"]: tool for tool in listing["tools"]}
    assert {"echo", "version", "chat", "listmodels"} <= set(tools)
    assert tools["echo"]["inputSchema"]["required"] == ["text"]
    assert tools["echo"]["annotations"]["readOnlyHint"] is True
    assert tools["version"]["outputSchema"]["type"] == "object"


async def test_sessions_are_told_when_the_tools_change(daemon: RunningDaemon) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        daemon.daemon.tools.replace("test", [])
        assert await wire.hear() == {"op": "tools_changed"}
        daemon.daemon.tools.replace("test", [])
        assert (await wire.ask("health", "health_res"))["op"] == "health_res"


async def test_only_sessions_that_may_see_a_tool_are_told_of_its_change(tmp_path: Path) -> None:
    narrow = PrincipalConfig(token=Secret(TOKEN), tools=("echo",))
    async with (
        running_daemon(daemon_config(tmp_path, principals={"narrow": narrow})) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        daemon.daemon.tools.replace("test", [ScriptedTool("tell", tell)])
        await wire.say("health")
        assert (await wire.hear())["op"] == "health_res"


async def test_every_call_leaves_one_event_of_its_end(daemon: RunningDaemon) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        await wire.call("echo", "r1", arguments={"text": "x"})
        await wire.call("echo", "r2", arguments={})
        await wire.call("fail", "r3")
        await wire.ask("health", "health_res")
    assert [(e.request_id, e.tool, e.code) for e in daemon.events.of(CallSettled)] == [
        ("r1", "echo", "ok"),
        ("r3", "fail", "TOOL_EXECUTION_ERROR"),
    ]
    [rejected] = daemon.events.of(CallRejected)
    assert (rejected.request_id, rejected.code) == ("r2", "VALIDATION_ERROR")
