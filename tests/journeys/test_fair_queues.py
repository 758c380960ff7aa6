"""Scarce capacity over sockets: never overrun, shared fairly, and refused with a word on when."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from exai.core.config import LimitsConfig, LocalModelConfig, ProviderConfig, Secret
from exai.core.outcomes import Completed, text_block
from exai.core.tool import ToolRun, provider_scope
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from exai.testing.scripted_provider import Exchange, ScriptedProvider, answers
from exai.testing.scripted_tool import Gates, ScriptedTool
from tests.journeys.wire import Wire, open_wire

LIMITS = LimitsConfig(global_max_inflight=40, session_max_inflight=30, session_max_waiting=40)


class Panel:
    """A consensus-like tool: asks two services at once, and keeps count of who is asked."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    async def __call__(self, arguments: dict[str, Any], run: ToolRun) -> Completed:
        async with asyncio.TaskGroup() as legs:
            for name in ("small", "large"):
                legs.create_task(self._ask(name, run))
        return Completed([text_block("agreed")])

    async def _ask(self, name: str, run: ToolRun) -> None:
        async with run.permit(provider_scope(name)):
            self.asked[name] += 1
            self.most[name] = max(self.most[name], self.asked[name])
            for _ in range(10):
                await asyncio.sleep(0)
            self.asked[name] -= 1


@pytest.fixture
async def service() -> AsyncIterator[ScriptedProvider]:
    async with ScriptedProvider() as running:
        yield running


@pytest.fixture
def gates() -> Gates:
    return Gates()


@pytest.fixture
def panel() -> Panel:
    return Panel()


@pytest.fixture
async def daemon(
    tmp_path: Path, service: ScriptedProvider, gates: Gates, panel: Panel
) -> AsyncIterator[RunningDaemon]:
    providers = {
        name: ProviderConfig(
            base_url=service.base_url, api_key=Secret("k"), models=(name,), max_inflight=count
        )
        for name, count in (("small", 1), ("large", 4))
    }
    config = daemon_config(
        tmp_path, providers=providers, limits=LIMITS, local=LocalModelConfig(enabled=False)
    )
    tools = [
        ScriptedTool("slow", gates, scope=provider_scope("small")),
        ScriptedTool("other", gates, scope=provider_scope("large")),
        ScriptedTool("panel", panel),
    ]
    async with running_daemon(config, tools) as running:
        yield running


async def ask_chat(wire: Wire, model: str, request_id: str) -> None:
    arguments = {"prompt": request_id, "model": model}
    await wire.say(
        "call_tool", name="chat", request_id=request_id, arguments=arguments, cache="off"
    )


async def test_a_plan_of_one_call_at_once_is_shared_without_a_refusal(
    daemon: RunningDaemon, service: ScriptedProvider
) -> None:
    refused = 0

    async def allows_one(exchange: Exchange) -> None:
        nonlocal refused
        if service.in_flight > 1:
            refused += 1
            await exchange.reply(429)
            return
        await answers("yes")(exchange)

    service.script(allows_one)
    async with AsyncExitStack() as stack:
        wires = [
            await stack.enter_async_context(open_wire(daemon.url, token=TOKEN)) for _ in range(20)
        ]
        for wire in wires:
            for n in range(3):
                await ask_chat(wire, "small", f"r{n}")
        told = [await wire.result(f"r{n}") for wire in wires for n in range(3)]
    assert all(answer["ok"] for answer in told)
    assert (refused, service.max_in_flight, len(service.requests)) == (0, 1, 60)


async def test_calls_that_wait_for_one_provider_delay_no_others(
    daemon: RunningDaemon, gates: Gates
) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        for n in range(25):
            await wire.say("call_tool", name="slow", request_id=f"slow-{n}")
        await wire.hear_op("progress", request_id="slow-24")
        gates.open("free")
        assert (await wire.call("other", "quick", arguments={"gate": "free"}))["ok"]
        gates.open()
        told = [await wire.result(f"slow-{n}") for n in range(25)]
    assert all(answer["ok"] for answer in told)
    assert gates.runs[:2] == ["g", "free"]


async def test_who_has_to_wait_is_told_its_place(daemon: RunningDaemon, gates: Gates) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        for n in range(3):
            await wire.say("call_tool", name="slow", request_id=f"r{n}")
        second = await wire.hear_op("progress", request_id="r1")
        third = await wire.hear_op("progress", request_id="r2")
        gates.open()
        told = [await wire.result(f"r{n}") for n in range(3)]
    assert "waiting for provider:small: place 1 in this session's line, " in second["message"]
    assert "place 2 in this session's line, 2 waiting in all" in third["message"]
    assert all(answer["meta"]["queue_ms"] >= 0 for answer in told)


async def test_a_fan_out_takes_a_permit_for_each_request(
    daemon: RunningDaemon, panel: Panel
) -> None:
    async with AsyncExitStack() as stack:
        wires = [
            await stack.enter_async_context(open_wire(daemon.url, token=TOKEN)) for _ in range(4)
        ]
        for wire in wires:
            for n in range(8):
                await wire.say("call_tool", name="panel", request_id=f"r{n}")
        told = [await wire.result(f"r{n}") for wire in wires for n in range(8)]
    assert all(answer["ok"] for answer in told)
    assert panel.most == {"small": 1, "large": 4}
    assert panel.asked.total() == 0


async def test_a_full_line_is_a_refusal_with_a_time(daemon: RunningDaemon, gates: Gates) -> None:
    async with (
        open_wire(daemon.url, token=TOKEN) as greedy,
        open_wire(daemon.url, token=TOKEN) as modest,
    ):
        for n in range(1 + LIMITS.session_max_waiting):
            await greedy.say("call_tool", name="slow", request_id=f"r{n}")
        refused = await greedy.call("slow", "one-too-many")
        assert refused["error"]["code"] == "OVER_CAPACITY"
        assert refused["error"]["retryable"] is True
        assert refused["error"]["details"] == {"scope": "session"}
        assert 0.5 < refused["error"]["retry_after_s"] < 1.5
        await modest.say("call_tool", name="slow", request_id="m")
        assert "place 1" in (await modest.hear_op("progress"))["message"]
        gates.open()
        assert (await modest.result("m"))["ok"]
        for n in range(1 + LIMITS.session_max_waiting):
            assert (await greedy.result(f"r{n}"))["ok"]


async def test_a_wait_that_would_outlast_the_call_is_refused_at_once(
    daemon: RunningDaemon, gates: Gates, service: ScriptedProvider
) -> None:
    release = asyncio.Event()
    service.script(answers("a", release))
    async with open_wire(daemon.url, token=TOKEN) as wire:
        for n in range(5):
            release.clear()
            await ask_chat(wire, "small", f"r{n}")
            await wire.hear_op("progress", request_id=f"r{n}", delta="a")
            await asyncio.sleep(0.05)  # it is to have taken some time
            release.set()
            assert (await wire.result(f"r{n}"))["ok"]
        await wire.say("call_tool", name="slow", request_id="runs")
        await gates.until_inside("g")
        refused = await wire.call("slow", "impatient", timeout_s=0.01)
        assert refused["error"]["code"] == "OVER_CAPACITY"
        assert refused["error"]["details"] == {"scope": "provider:small"}
        assert refused["error"]["retry_after_s"] > 0
        gates.open()
        assert (await wire.call("slow", "patient", timeout_s=20))["ok"]
