"""What the protocol's page says in passing: each sentence is held here by a test of its own."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from exai.core.config import LimitsConfig, PrincipalConfig, ProviderConfig, Secret, ServerConfig
from exai.core.errors import ToolFailed
from exai.core.outcomes import Completed
from exai.core.tool import SharingPolicy, ToolRun
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from exai.testing.scripted_provider import ScriptedProvider, answers, fails
from exai.testing.scripted_tool import Gates, ScriptedTool
from tests.journeys.wire import Wire, open_wire

OTHER_TOKEN = "token-of-somebody-else-0123456789"
READ = SharingPolicy("principal", 60.0, idempotent=True, read_only=True)
LIMITS = LimitsConfig(session_max_inflight=2, session_max_waiting=3)


@pytest.fixture
def gates() -> Gates:
    return Gates()


@pytest.fixture
async def service() -> AsyncIterator[ScriptedProvider]:
    async with ScriptedProvider() as running:
        yield running


@pytest.fixture
async def daemon(
    tmp_path: Path, gates: Gates, service: ScriptedProvider
) -> AsyncIterator[RunningDaemon]:
    async def fail(arguments: dict[str, Any], run: ToolRun) -> Completed:
        raise ToolFailed("half done")

    config = daemon_config(
        tmp_path,
        limits=LIMITS,
        server=ServerConfig(progress_interval_s=0.2),
        providers={
            "scripted": ProviderConfig(
                base_url=service.base_url, api_key=Secret("k"), models=("m1",), max_attempts=2
            )
        },
        principals={
            "default": PrincipalConfig(token=Secret(TOKEN)),
            "other": PrincipalConfig(token=Secret(OTHER_TOKEN)),
        },
    )
    tools = [
        ScriptedTool("read", gates, policy=READ, provider="box"),
        ScriptedTool("write", gates, provider="box"),
        ScriptedTool("elsewhere", gates, provider="other-box"),
        ScriptedTool("fail", fail),
        ScriptedTool("fail-harmlessly", fail, policy=SharingPolicy(idempotent=True)),
    ]
    async with running_daemon(config, tools) as running:
        yield running


@pytest.fixture
async def wire(daemon: RunningDaemon) -> AsyncIterator[Wire]:
    async with open_wire(daemon.url, token=TOKEN) as opened:
        yield opened


async def test_model_tools_share_within_a_principal_alone(
    daemon: RunningDaemon, wire: Wire, service: ScriptedProvider
) -> None:
    gate = asyncio.Event()
    service.script(answers("hello", gate))
    async with open_wire(daemon.url, token=OTHER_TOKEN) as other:
        for each in (wire, wire, other):
            request_id = f"r{each is other}{len(service.requests)}"
            await each.begin("chat", request_id, arguments={"prompt": "hi"})
            await service.wait_for_requests(1)
        await service.wait_for_requests(2)
        gate.set()
        assert not (await other.hear_op("call_tool_res"))["meta"]["joined"]
    assert len(service.requests) == 2


async def test_model_tools_cache_nothing(wire: Wire, service: ScriptedProvider) -> None:
    for request_id in ("r1", "r2"):
        answer = await wire.call("chat", request_id, arguments={"prompt": "hi"})
        assert not answer["meta"]["cached"]
    assert len(service.requests) == 2


async def test_a_conversation_turn_is_never_shared(wire: Wire, service: ScriptedProvider) -> None:
    first = await wire.call("chat", "r0", arguments={"prompt": "hi"})
    again = {"prompt": "again", "continuation_id": first["structured"]["continuation_id"]}
    for request_id in ("r1", "r2"):
        await wire.begin("chat", request_id, arguments=again)
    told = [
        (await wire.result(request_id))["structured"]["turns_told"] for request_id in ("r1", "r2")
    ]
    assert told == [1, 2]
    assert len(service.requests) == 3


async def test_what_began_while_a_write_ran_is_old_when_the_write_has_ended(
    wire: Wire, gates: Gates
) -> None:
    await wire.begin("write", "w", arguments={"gate": "w"})
    await gates.until_inside("w")
    await wire.begin("read", "r1")
    await gates.until_inside("g")
    gates.open("w")
    await wire.result("w")
    await wire.begin("read", "r2")
    gates.open()
    assert not (await wire.result("r2"))["meta"]["joined"]
    assert gates.runs == ["w", "g", "g"]


async def test_a_write_elsewhere_makes_nothing_old(wire: Wire, gates: Gates) -> None:
    gates.open()
    assert (await wire.call("read", "r1"))["ok"]
    assert (await wire.call("elsewhere", "w"))["ok"]
    hit = await wire.call("read", "r2")
    assert (hit["meta"]["cached"], hit["meta"]["joined"]) == (True, False)
    assert (await wire.call("read", "r2"))["meta"]["cached"], "a replay tells what the answer told"
    assert (await wire.call("write", "w2"))["ok"]
    assert not (await wire.call("read", "r3"))["meta"]["cached"]


async def test_another_version_of_a_tool_is_other_work(
    daemon: RunningDaemon, wire: Wire, gates: Gates
) -> None:
    gates.open()
    await wire.call("read", "r1")
    newer = ScriptedTool("read", gates, policy=READ, provider="box", version="2")
    daemon.daemon.tools.replace("test", [newer])
    assert not (await wire.call("read", "r2"))["meta"]["cached"]


@pytest.mark.parametrize("name", ["read_EXAI-WS", "read-EXAI-WS", "read_EXAI_WS", "read-EXAI_WS"])
async def test_an_old_name_is_the_same_work(wire: Wire, gates: Gates, name: str) -> None:
    gates.open()
    await wire.call("read", "r1")
    assert (await wire.call(name, "r2"))["meta"]["cached"]


async def test_what_is_known_of_an_id_comes_before_all_other_checks(
    daemon: RunningDaemon, wire: Wire, gates: Gates
) -> None:
    gates.open("free")
    await wire.call("write", "old", arguments={"gate": "free"})
    await wire.begin("write", "running", arguments={"gate": "w"}, idempotency_key="k")
    await gates.until_inside("w")
    for name, arguments in (("no-such-tool", {}), ("chat", {"prompt": 7})):
        refused = await wire.call(name, "old", arguments=arguments)
        assert refused["error"]["code"] == "REQUEST_ID_CONFLICT"
    daemon.stop.set()
    await wire.hear_op("going_away")
    assert (await wire.call("write", "fresh"))["error"]["code"] == "SERVICE_UNAVAILABLE"
    again = await wire.call("write", "old", arguments={"gate": "free"})
    assert again["meta"]["replayed"]
    await wire.begin("write", "follower", arguments={"gate": "w"}, idempotency_key="k")
    gates.open("w")
    assert (await wire.result("follower"))["ok"]


async def test_joiners_are_bounded_as_everybody_who_waits(wire: Wire) -> None:
    for n in range(1 + LIMITS.session_max_waiting):
        await wire.begin("read", f"r{n}")
    refused = await wire.call("read", "one-too-many")
    assert refused["error"]["code"] == "OVER_CAPACITY"
    assert refused["error"]["details"] == {"scope": "session"}


async def test_who_waits_hears_that_the_call_is_alive(wire: Wire, gates: Gates) -> None:
    for n in range(3):
        await wire.begin("write", f"r{n}")
    places = [await wire.hear_op("progress", request_id="r2") for _ in range(3)]
    assert all("place 1" in place["message"] for place in places)
    gates.open()


async def test_a_time_out_counts_from_acceptance(wire: Wire) -> None:
    for n in range(2):
        await wire.begin("write", f"r{n}")
    late = await wire.call("write", "late", timeout_s=0.1)
    assert late["error"]["details"] == {"phase": "queue"}
    assert 100 <= late["meta"]["queue_ms"] < 1000


async def test_who_follows_a_key_hears_the_text_from_its_beginning(
    wire: Wire, service: ScriptedProvider
) -> None:
    gate = asyncio.Event()
    service.script(answers("Once ", gate, "upon a time"))
    for request_id in ("r1", "r2"):
        await wire.begin("chat", request_id, arguments={"prompt": "hi"}, idempotency_key="k")
        told = await wire.hear_op("progress", request_id=request_id, offset=0)
        assert told["delta"] == "Once "
    gate.set()
    assert (await wire.result("r2"))["text"] == "Once upon a time"


async def test_a_failure_may_have_had_its_effect_unless_that_is_no_matter(wire: Wire) -> None:
    failed = await wire.call("fail", "r1")
    assert failed["error"]["details"] == {"may_have_run": True}
    assert "details" not in (await wire.call("fail-harmlessly", "r2"))["error"]


async def test_attempts_are_counted_where_they_failed(
    wire: Wire, service: ScriptedProvider
) -> None:
    service.script(fails(503))
    failed = await wire.call("chat", "r1", arguments={"prompt": "hi"})
    assert failed["error"]["details"]["attempts"] == 2
    assert (failed["meta"]["attempts"], failed["meta"]["provider"]) == (2, "scripted")


async def test_refused_callers_do_not_all_come_back_at_once(wire: Wire) -> None:
    for n in range(2 + LIMITS.session_max_waiting):
        await wire.begin("write", f"r{n}")
    told = [
        (await wire.call("write", f"too-many-{n}"))["error"]["retry_after_s"] for n in range(20)
    ]
    assert all(0.8 <= retry_after_s <= 1.2 for retry_after_s in told)
    assert len(set(told)) > 10
