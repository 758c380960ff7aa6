"""Sessions that come back to much that they are owed: told once, in time, and to one peer."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from exai.core.config import LimitsConfig, RatesConfig, ServerConfig
from exai.core.errors import ToolFailed
from exai.core.events import CallFailedInside, CallSettled, SessionDetached, SessionEnded
from exai.core.outcomes import Completed, text_block
from exai.core.tool import ToolRun
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from exai.testing.scripted_tool import Gates, ScriptedTool
from tests.journeys.wire import Frame, Wire, open_wire

OUTBOX_BYTES = 8_000_000


async def large(arguments: dict[str, Any], run: ToolRun) -> Completed:
    return Completed([text_block("x" * arguments.get("length", 1_000_000))])


async def fail(arguments: dict[str, Any], run: ToolRun) -> Completed:
    if "streamed" in arguments:
        run.stream("\ud800")
    raise ToolFailed(arguments.get("message", ""), outputs=[text_block("y" * arguments["length"])])


@pytest.fixture
def gates() -> Gates:
    return Gates()


@pytest.fixture
async def daemon(tmp_path: Path, gates: Gates) -> AsyncIterator[RunningDaemon]:
    config = daemon_config(
        tmp_path,
        server=ServerConfig(outbox_bytes=OUTBOX_BYTES),
        limits=LimitsConfig(
            session_max_unacked=30, max_result_bytes=4_000_000, session_max_inflight=30
        ),
    )
    tools = [
        ScriptedTool("large", large),
        ScriptedTool("gate", gates),
        ScriptedTool("fail", fail),
    ]
    async with running_daemon(config, tools) as running:
        yield running
        gates.open()


async def leave(daemon: RunningDaemon, wire: Wire, ack: Frame) -> dict[str, str]:
    """Lose the connection; return what the session is known by."""
    count = len(daemon.events.of(SessionDetached))
    wire.socket.transport.abort()
    await daemon.events.wait_for(SessionDetached, count + 1)
    return {name: ack[name] for name in ("session_id", "resume_token")}


async def owing(daemon: RunningDaemon, count: int, *running: str) -> dict[str, str]:
    """Return the key of a session that is owed so many large results, and has calls running."""
    async with open_wire(daemon.url, greet=False, says_bye=False) as wire:
        ack = await wire.hello(token=TOKEN, acks=True)
        for n in range(count):
            await wire.call("large", f"r{n}")
        for request_id in running:
            await wire.begin("gate", request_id, arguments={"gate": request_id})
        return await leave(daemon, wire, ack)


async def test_a_take_over_while_results_are_told_again_tells_them_to_the_newer_one_once(
    daemon: RunningDaemon,
) -> None:
    key = await owing(daemon, 16)  # 32 MB as frames, four times what an outbox holds
    async with (
        open_wire(daemon.url, greet=False, says_bye=False, max_queue=1) as slow,
        open_wire(daemon.url, greet=False) as prompt,
    ):
        assert len((await slow.hello(token=TOKEN, acks=True, resume=key))["pending"]) == 16
        assert (await prompt.hello(token=TOKEN, acks=True, resume=key))["resumed"]
        told = [(await prompt.hear())["request_id"] for _ in range(16)]
        assert told == [f"r{n}" for n in range(16)]
        await prompt.say("ack", request_ids=told)
        assert (await prompt.call("large", "after", arguments={"length": 1}))["ok"]
        slow.socket.transport.abort()


@pytest.mark.parametrize("acknowledges_at_once", [True, False])
async def test_what_settles_while_older_results_are_told_again_is_told_once(
    daemon: RunningDaemon, gates: Gates, acknowledges_at_once: bool
) -> None:
    key = await owing(daemon, 10, "live")
    async with open_wire(daemon.url, greet=False, max_queue=1) as wire:
        ack = await wire.hello(token=TOKEN, acks=True, resume=key)
        assert ack["pending"] == [*(f"r{n}" for n in range(10)), "live"]
        gates.open("live")
        await daemon.events.wait_for(CallSettled, 11)
        told = []
        for _ in range(11):
            answer = await wire.hear_op("call_tool_res")
            assert answer["ok"], answer
            told.append(answer["request_id"])
            if acknowledges_at_once:
                await wire.say("ack", request_ids=[answer["request_id"]])
        assert sorted(told) == sorted(ack["pending"])
        await wire.say("health")
        assert (await wire.hear())["op"] == "health_res", "and nothing was told twice"


async def test_what_is_acknowledged_before_its_turn_is_not_told_again(
    daemon: RunningDaemon,
) -> None:
    key = await owing(daemon, 10)
    async with open_wire(daemon.url, greet=False, max_queue=1) as wire:
        await wire.hello(token=TOKEN, acks=True, resume=key)
        await wire.say("ack", request_ids=["r8", "r9"])
        told = [(await wire.result(f"r{n}"))["ok"] for n in range(8)]
        assert told == [True] * 8
        await wire.say("health")
        assert (await wire.hear())["op"] == "health_res"


async def test_without_acknowledgements_all_that_is_pending_is_told(
    tmp_path: Path, gates: Gates
) -> None:
    async def slow(arguments: dict[str, Any], run: ToolRun) -> Completed:
        await gates(arguments, run)
        return await large({}, run)

    config = daemon_config(tmp_path, limits=LimitsConfig(session_max_unacked=3))
    async with running_daemon(config, [ScriptedTool("slow", slow)]) as daemon:
        async with open_wire(daemon.url, greet=False, says_bye=False) as wire:
            ack = await wire.hello(token=TOKEN)
            for n in range(3):
                await wire.begin("slow", f"slow{n}", arguments={"gate": f"slow{n}"})
            for n in range(3):
                await wire.call("echo", f"r{n}", arguments={"text": "x"})
            await wire.ask("health", "health_res")  # by now they count as sent
            key = await leave(daemon, wire, ack)
        for n in range(3):
            gates.open(f"slow{n}")
        await daemon.events.wait_for(CallSettled, 6)
        async with open_wire(daemon.url, greet=False) as wire:
            pending = (await wire.hello(token=TOKEN, resume=key))["pending"]
            assert len(pending) == 6
            assert all([(await wire.result(request_id))["ok"] for request_id in pending])


async def test_a_session_expires_its_whole_window_after_its_last_call(
    tmp_path: Path, gates: Gates
) -> None:
    limits = LimitsConfig(resume_window_s=0.3, session_cleanup_interval_s=0.25)
    loop = asyncio.get_running_loop()
    async with running_daemon(
        daemon_config(tmp_path, limits=limits), [ScriptedTool("gate", gates)]
    ) as daemon:
        async with open_wire(daemon.url, greet=False, says_bye=False) as wire:
            ack = await wire.hello(token=TOKEN)
            await wire.begin("gate")
            await leave(daemon, wire, ack)
        await asyncio.sleep(0.24)  # until just before the daemon looks
        gates.open()
        await daemon.events.first_of(CallSettled)
        settled_at = loop.time()
        await daemon.events.first_of(SessionEnded)
        assert loop.time() - settled_at >= 0.3


async def test_results_as_large_as_the_outbox_reach_who_reads(daemon: RunningDaemon) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        for n in range(4):  # each the whole outbox, as a frame
            await wire.say(
                "call_tool", name="large", request_id=f"r{n}", arguments={"length": 3_990_000}
            )
            assert (await wire.result(f"r{n}"))["ok"]
        await wire.say("call_tool", name="large", request_id="a", arguments={"length": 3_990_000})
        await wire.say("call_tool", name="large", request_id="b", arguments={"length": 90_000})
        assert [(await wire.result(request_id))["ok"] for request_id in "ab"] == [True, True]


@pytest.mark.parametrize("asked", ["get_result", "cancel_tool"])
async def test_a_question_behind_a_conflict_is_answered_by_the_result(
    daemon: RunningDaemon, asked: str
) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        await wire.call("echo", "r1", arguments={"text": "first"})
        conflicting = {"op": "call_tool", "name": "echo", "arguments": {"text": "other"}}
        await asyncio.gather(
            wire.socket.send(json.dumps({**conflicting, "request_id": "r1"})),
            wire.socket.send(json.dumps({"op": asked, "request_id": "r1"})),
        )
        told = [await wire.result("r1") for _ in range(2)]
        assert told[0]["error"]["code"] == "REQUEST_ID_CONFLICT"
        assert (told[1]["ok"], told[1]["text"]) == (True, "first")


async def test_after_bye_nothing_begins(daemon: RunningDaemon, gates: Gates) -> None:
    async with open_wire(daemon.url, token=TOKEN, says_bye=False) as wire:
        hashed_in_a_thread = {"x": "y" * 2_000_000}
        await wire.say("call_tool", name="none", request_id="r", arguments=hashed_in_a_thread)
        await wire.say("call_tool", name="gate", request_id="r")
        await wire.say("bye")
        assert (await wire.closed())[0] == 1000
    async with open_wire(daemon.url, token=TOKEN) as wire:  # the same way, a moment later
        await wire.call("none", arguments=hashed_in_a_thread)
    assert gates.runs == []


async def test_a_call_sent_again_over_the_rate_is_not_told_that_it_may_be_repeated(
    tmp_path: Path, gates: Gates
) -> None:
    config = daemon_config(tmp_path, rates=RatesConfig(principal_per_s=20, principal_burst=2))
    async with (
        running_daemon(config, [ScriptedTool("gate", gates)]) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        for _ in range(4):
            await wire.say("call_tool", name="gate", request_id="r1")
        joined = [(await wire.hear())["op"] for _ in range(4)]
        assert joined == ["call_tool_ack"] * 4
        gates.open()
        assert (await wire.result("r1"))["ok"]
        for _ in range(3):
            await wire.say("call_tool", name="gate", request_id="r1")
        assert all([(await wire.result("r1"))["ok"] for _ in range(3)])
        assert gates.runs == ["g"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"length": 5_000_000}, "RESULT_TOO_LARGE"),
        ({"length": 5}, "TOOL_EXECUTION_ERROR"),
        ({"length": 5, "message": "\ud800"}, "INTERNAL_ERROR"),
        ({"length": 5, "streamed": True}, "INTERNAL_ERROR"),
    ],
)
async def test_what_a_failing_tool_says_is_measured_too(
    tmp_path: Path, arguments: dict[str, Any], code: str
) -> None:
    async def fail_so(_: dict[str, Any], run: ToolRun) -> Completed:
        return await fail(arguments, run)

    limits = LimitsConfig(max_result_bytes=4_000_000)
    async with (
        running_daemon(daemon_config(tmp_path, limits=limits), [ScriptedTool("f", fail_so)]) as d,
        open_wire(d.url, token=TOKEN) as wire,
    ):
        assert (await wire.call("f"))["error"]["code"] == code
        await wire.say("get_result", request_id="r1")
        assert (await wire.result("r1"))["error"]["code"] == code
        assert len(d.events.of(CallFailedInside)) == (code == "INTERNAL_ERROR")
