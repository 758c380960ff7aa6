"""The same request, sent again: under its id within a session, under its key across sessions."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from exai.core.config import LimitsConfig, PrincipalConfig, ProviderConfig, Secret
from exai.core.errors import ToolFailed
from exai.core.outcomes import Completed
from exai.core.tool import ToolRun
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from exai.testing.scripted_provider import ScriptedProvider, answers
from exai.testing.scripted_tool import Gates, ScriptedTool
from tests.journeys.wire import Frame, Wire, open_wire

OTHER_TOKEN = "token-of-somebody-else-0123456789"
PRINCIPALS = {
    "default": PrincipalConfig(token=Secret(TOKEN)),
    "other": PrincipalConfig(token=Secret(OTHER_TOKEN)),
}


@pytest.fixture
def gates() -> Gates:
    return Gates()


@pytest.fixture
async def daemon(tmp_path: Path, gates: Gates) -> AsyncIterator[RunningDaemon]:
    async def fail(arguments: dict[str, Any], run: ToolRun) -> Completed:
        gates.runs.append("failed")
        raise ToolFailed("it failed")

    limits = LimitsConfig(
        session_max_inflight=1, session_max_waiting=1, principal_max_idempotency_keys=3
    )
    config = daemon_config(tmp_path, limits=limits, principals=PRINCIPALS)
    tools = [ScriptedTool("wait", gates), ScriptedTool("fail", fail)]
    async with running_daemon(config, tools) as running:
        yield running


async def say_call(wire: Wire, request_id: str, gate: str = "g", **fields: object) -> None:
    arguments = {"gate": gate}
    await wire.say("call_tool", name="wait", request_id=request_id, arguments=arguments, **fields)


async def call_keyed(wire: Wire, request_id: str, key: str = "k", **fields: object) -> Frame:
    """Call `wait` under a key and return the terminal frame."""
    arguments = fields.pop("arguments", {"gate": "g"})
    return await wire.call(
        str(fields.pop("name", "wait")),
        request_id,
        arguments=arguments,
        idempotency_key=key,
        **fields,
    )


async def test_hello_says_how_long_a_key_is_remembered(daemon: RunningDaemon) -> None:
    async with open_wire(daemon.url, greet=False) as wire:
        greeting = await wire.hello(token=TOKEN)
    assert greeting["limits"]["idempotency_ttl_s"] == 86_400.0


async def test_a_key_joins_the_call_under_way_from_another_connection(
    daemon: RunningDaemon, gates: Gates
) -> None:
    async with (
        open_wire(daemon.url, token=TOKEN) as one,
        open_wire(daemon.url, token=TOKEN) as other,
    ):
        await say_call(one, "r1", idempotency_key="k")
        await gates.until_inside("g")
        await say_call(other, "r2", idempotency_key="k", cache="off")
        ack = await other.hear_op("call_tool_ack")
        assert (ack["request_id"], ack["joined"]) == ("r2", True)
        gates.open()
        first, second = await one.result("r1"), await other.result("r2")
    assert first["text"] == second["text"] == "through g"
    assert (first["meta"]["joined"], second["meta"]["joined"]) == (False, True)
    assert first["meta"]["call_id"] != second["meta"]["call_id"]
    assert gates.runs == ["g"]


async def test_whoever_joined_by_key_goes_on_when_the_first_takes_its_call_back(
    daemon: RunningDaemon, gates: Gates
) -> None:
    async with (
        open_wire(daemon.url, token=TOKEN) as one,
        open_wire(daemon.url, token=TOKEN) as other,
    ):
        await say_call(one, "r1", idempotency_key="k")
        await gates.until_inside("g")
        await say_call(other, "r2", idempotency_key="k")
        await other.hear_op("call_tool_ack")
        await one.say("cancel_tool", request_id="r1")
        assert (await one.result("r1"))["error"]["code"] == "CANCELLED"
        gates.open()
        assert (await other.result("r2"))["ok"]
        replayed = await call_keyed(other, "r3")
    assert replayed["error"]["code"] == "CANCELLED"
    assert gates.runs == ["g"]


async def test_a_key_is_answered_after_its_session_has_ended(
    daemon: RunningDaemon, gates: Gates
) -> None:
    gates.open()
    async with open_wire(daemon.url, token=TOKEN) as wire:
        first = await call_keyed(wire, "r1")
        await wire.say("bye")
        await wire.closed()
    async with open_wire(daemon.url, token=TOKEN) as wire:
        again = await call_keyed(wire, "r9")
    assert again["request_id"] == "r9"
    assert again["text"] == first["text"]
    assert again["meta"]["replayed"] is True
    assert again["meta"]["call_id"] == first["meta"]["call_id"]
    assert gates.runs == ["g"]


async def test_a_failure_stays_under_its_key(daemon: RunningDaemon, gates: Gates) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        for request_id in ("r1", "r2"):
            answer = await call_keyed(wire, request_id, name="fail", arguments={})
            assert answer["error"]["code"] == "TOOL_EXECUTION_ERROR"
    assert gates.runs == ["failed"]


async def test_a_key_stands_for_one_name_and_its_arguments(
    daemon: RunningDaemon, gates: Gates
) -> None:
    async with (
        open_wire(daemon.url, token=TOKEN) as wire,
        open_wire(daemon.url, token=TOKEN) as other,
    ):
        await say_call(wire, "r1", idempotency_key="k")
        await gates.until_inside("g")
        for changes in ({"arguments": {"gate": "h"}}, {"name": "fail", "arguments": {}}):
            refused = await call_keyed(other, "r2", **changes)
            assert refused["error"]["code"] == "REQUEST_ID_CONFLICT"
            assert "'k'" in refused["error"]["message"]
        gates.open()
        assert (await wire.result("r1"))["ok"]
        settled = await call_keyed(other, "r3", arguments={"gate": "h"})
    assert settled["error"]["code"] == "REQUEST_ID_CONFLICT"


async def test_anothers_key_is_nothing(daemon: RunningDaemon, gates: Gates) -> None:
    gates.open()
    async with (
        open_wire(daemon.url, token=TOKEN) as one,
        open_wire(daemon.url, token=OTHER_TOKEN) as other,
    ):
        assert not (await call_keyed(one, "r1"))["meta"]["replayed"]
        assert not (await call_keyed(other, "r1"))["meta"]["replayed"]
    assert gates.runs == ["g", "g"]


async def test_of_an_acknowledged_result_its_end_is_remembered(
    daemon: RunningDaemon, gates: Gates
) -> None:
    gates.open()
    async with open_wire(daemon.url, token=TOKEN) as wire:
        await call_keyed(wire, "r1")
        await wire.say("ack", request_ids=["r1"])
        answer = await call_keyed(wire, "r2")
    assert answer["error"]["code"] == "RESULT_UNKNOWN"
    assert answer["error"]["details"] == {"reason": "acknowledged", "ok": True}


async def test_a_refusal_leaves_nothing_behind(daemon: RunningDaemon, gates: Gates) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        for request_id in ("runs", "waits"):
            await say_call(wire, request_id, gate=request_id)
        await gates.until_inside("runs")
        refused = await call_keyed(wire, "r1")
        assert refused["error"]["code"] == "OVER_CAPACITY"
        assert refused["error"]["details"] == {"scope": "session"}
        assert refused["error"]["retry_after_s"] > 0
        gates.open("runs")
        gates.open("waits")
        assert (await wire.result("waits"))["ok"]
        gates.open()
        answer = await call_keyed(wire, "r1")
    assert answer["ok"]
    assert answer["meta"]["replayed"] is False


async def test_a_key_whose_first_call_is_refused_is_free_for_the_next(
    daemon: RunningDaemon, gates: Gates
) -> None:
    gates.open()
    async with open_wire(daemon.url, token=TOKEN) as wire:
        refused = await call_keyed(wire, "r1", name="nobody")
        assert refused["error"]["code"] == "TOOL_NOT_FOUND"
        assert (await call_keyed(wire, "r1"))["ok"]


async def test_keys_are_bounded(daemon: RunningDaemon, gates: Gates) -> None:
    gates.open()
    async with open_wire(daemon.url, token=TOKEN) as wire:
        for n in range(3):
            assert (await call_keyed(wire, f"r{n}", key=f"k{n}"))["ok"]
        refused = await call_keyed(wire, "r3", key="k3")
        assert refused["error"]["code"] == "OVER_CAPACITY"
        assert refused["error"]["details"] == {"scope": "idempotency_keys"}
        assert refused["error"]["retry_after_s"] > 0
        assert (await call_keyed(wire, "r4", key="k0"))["meta"]["replayed"] is True


async def test_a_key_of_a_new_conversation_leads_to_one_conversation(
    tmp_path: Path,
) -> None:
    async with ScriptedProvider() as service:
        scripted = ProviderConfig(base_url=service.base_url, api_key=Secret("k"), models=("m1",))
        config = daemon_config(tmp_path, providers={"scripted": scripted})
        gate = asyncio.Event()
        service.script(answers("hello", gate))
        async with (
            running_daemon(config) as daemon,
            open_wire(daemon.url, token=TOKEN) as wire,
        ):
            for request_id in ("r1", "r2"):
                await wire.say(
                    "call_tool",
                    name="chat",
                    request_id=request_id,
                    arguments={"prompt": "hi"},
                    idempotency_key="k",
                )
                await wire.hear_op("call_tool_ack", request_id=request_id)
            gate.set()
            told = [await wire.result(request_id) for request_id in ("r1", "r2")]
    assert told[0]["structured"] == told[1]["structured"]


async def test_a_conflict_harms_no_correct_repetition(daemon: RunningDaemon, gates: Gates) -> None:
    gates.open()
    async with open_wire(daemon.url, token=TOKEN) as wire:
        await say_call(wire, "r")
        assert (await wire.result("r"))["ok"]
        for gate in ("other", "g"):
            await say_call(wire, "r", gate)
        first, second = await wire.result("r"), await wire.result("r")
    codes = [first.get("error", {}).get("code"), second.get("error", {}).get("code")]
    assert codes == ["REQUEST_ID_CONFLICT", None]
    assert second["meta"]["replayed"]
