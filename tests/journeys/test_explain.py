"""What became of a call, as the HTTP port tells it to whoever made it, and to nobody else."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest

from exai.core.call_store import CallRecord, FoundCalls
from exai.core.config import LimitsConfig, PrincipalConfig, ProviderConfig, Secret
from exai.core.errors import ServiceUnavailable
from exai.core.outcomes import Completed, text_block
from exai.core.tool import SharingPolicy, ToolRun
from exai.stores.memory_store import MemoryCallStore
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from exai.testing.scripted_provider import ScriptedProvider, answers
from exai.testing.scripted_tool import Gates, ScriptedTool
from tests.journeys.test_faulty_store import BrokenStore, SlowStore, stores_with
from tests.journeys.wire import Wire, open_wire

OTHER_TOKEN = "token-of-somebody-else-01234"
SAID, ANSWERED = "said-in-confidence", "answered-in-confidence"
READS = SharingPolicy(share="all", cache_ttl_s=60.0, idempotent=True, read_only=True)
TWO = {
    "default": PrincipalConfig(token=Secret(TOKEN)),
    "other": PrincipalConfig(token=Secret(OTHER_TOKEN)),
}


async def get(
    daemon: RunningDaemon, token: str | None = TOKEN, **query: str | list[str]
) -> httpx2.Response:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(base_url=daemon.address.http_url, trust_env=False) as client:
        return await client.get("/explain", params=query, headers=headers)


async def explain(daemon: RunningDaemon, name: str = "r1", token: str = TOKEN) -> dict[str, Any]:
    answer = await get(daemon, token, id=name)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    told = answer.json()
    assert isinstance(told, dict)
    return told


async def explain_one(daemon: RunningDaemon, name: str = "r1") -> dict[str, Any]:
    (call,) = (await explain(daemon, name))["calls"]
    assert isinstance(call, dict)
    return call


async def test_a_call_is_told_of_at_every_step_of_its_life(tmp_path: Path) -> None:
    gates = Gates()
    config = daemon_config(tmp_path, limits=LimitsConfig(global_max_inflight=1))
    tool = ScriptedTool("gate", gates, provider="box")
    async with (
        running_daemon(config, [tool]) as daemon,
        open_wire(daemon.url, greet=False, says_bye=False) as wire,
    ):
        session = await wire.hello(token=TOKEN, acks=True)
        await wire.begin("gate", "r0", arguments={"gate": "first"})
        await gates.until_inside("first")
        await wire.begin("gate", arguments={"gate": "second"}, timeout_s=30)
        waits = await explain_one(daemon)
        assert (waits["state"], waits["is_under_way"]) == ("accepted", True)
        assert "place 1 in this session's line" in waits["place"]
        assert (waits["started_at"], waits["attempts"], waits["boot_id"]) == (None, 0, None)
        assert waits["timeout_s"] == 30
        assert waits["session_id"] == session["session_id"]
        gates.open("first")
        await gates.until_inside("second")
        runs = await explain(daemon)
        (call,) = runs["calls"]
        assert (call["state"], call["is_under_way"], call["place"]) == ("running", True, None)
        assert (call["attempts"], call["boot_id"]) == (1, runs["boot_id"])
        assert (call["tool"], call["provider"], call["code"]) == ("gate", "box", None)
        assert runs["t"] - call["accepted_at"] == pytest.approx(call["queue_s"] + call["run_s"])
        gates.open("second")
        answer = await wire.result()
        settled = await explain_one(daemon, answer["meta"]["call_id"])
        assert (settled["state"], settled["code"]) == ("settled", "ok")
        assert (settled["request_id"], settled["is_under_way"]) == ("r1", False)
        assert settled["result_bytes"] > 0
        assert settled["settled_at"] >= settled["started_at"] >= settled["accepted_at"]
        await wire.say("ack", request_ids=["r1"])
        await wire.ask("get_result", "call_tool_res", request_id="r1")
        gone = await explain_one(daemon)
        assert (gone["state"], gone["erased_because"]) == ("erased", "acknowledged")
        assert (gone["code"], gone["result_bytes"]) == ("ok", 0)
        assert gone["erased_at"] >= gone["settled_at"]


async def test_what_was_sent_to_who_does_not_acknowledge_says_when(tmp_path: Path) -> None:
    config = daemon_config(tmp_path, limits=LimitsConfig(session_max_unacked=1))
    async with (
        running_daemon(config) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        await wire.call("echo", arguments={"text": "x"})
        async with asyncio.timeout(20):
            while (call := await explain_one(daemon))["sent_at"] is None:
                pass
        assert call["sent_at"] >= call["settled_at"]
        assert (call["tool"], call["provider"], call["model"]) == ("echo", "exai", None)


async def test_a_model_that_served_it_is_named(tmp_path: Path) -> None:
    async with ScriptedProvider() as service:
        service.script(answers("1."))
        provider = ProviderConfig(base_url=service.base_url, api_key=Secret("k"), models=("m",))
        config = daemon_config(tmp_path, providers={"scripted": provider})
        async with (
            running_daemon(config) as daemon,
            open_wire(daemon.url, token=TOKEN) as wire,
        ):
            assert (await wire.call("chat", arguments={"prompt": "Count."}))["ok"]
            call = await explain_one(daemon)
    assert (call["tool"], call["provider"], call["model"]) == ("chat", "scripted", "m")


async def test_shared_work_and_a_shared_key_are_told(tmp_path: Path) -> None:
    gates = Gates()
    tools = [ScriptedTool("read", gates, policy=READS), ScriptedTool("write", Gates())]
    async with (
        running_daemon(daemon_config(tmp_path), tools) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        await wire.begin("read", "led")
        await gates.until_inside("g")
        await wire.begin("read", "joined")
        assert (await explain_one(daemon, "joined"))["joined"] is True
        gates.open()
        for name in ("led", "joined"):
            await wire.result(name)
        await wire.call("read", "cached")
        for name in ("first", "second"):
            await wire.begin("write", name, idempotency_key="k")
        led, joined, cached, first, second = [
            await explain_one(daemon, name)
            for name in ("led", "joined", "cached", "first", "second")
        ]
    told = [(call["joined"], call["cached"], call["attempts"]) for call in (led, joined, cached)]
    assert told == [(False, False, 1), (True, False, 1), (False, True, 0)]
    assert (first["follows"], second["follows"]) == (None, first["call_id"])


async def test_a_failure_is_told_by_its_code_alone(tmp_path: Path) -> None:
    gates = Gates()
    async with (
        running_daemon(daemon_config(tmp_path), [ScriptedTool("gate", gates)]) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        answer = await wire.call("gate", timeout_s=0.05, arguments={"gate": SAID})
        body = (await get(daemon, id="r1")).text
        call = await explain_one(daemon)
    assert answer["error"]["message"] not in body
    assert call["code"] == answer["error"]["code"] == "TIMEOUT"


async def test_neither_arguments_nor_results_are_told(tmp_path: Path) -> None:
    async def answer(arguments: dict[str, Any], run: ToolRun) -> Completed:
        return Completed([text_block(ANSWERED)])

    gates = Gates()
    tools = [ScriptedTool("answer", answer), ScriptedTool("gate", gates, policy=READS)]
    async with (
        running_daemon(daemon_config(tmp_path), tools) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        await wire.call("answer", "r1", arguments={"text": SAID}, idempotency_key="a-key")
        await wire.begin("gate", "r2", arguments={"text": SAID})
        bodies = [(await get(daemon, id=name)).text for name in ("r1", "r2")]
        gates.open()
    for body in bodies:
        assert '"call_id"' in body
        assert not any(said in body for said in (SAID, ANSWERED, "a-key"))


@pytest.mark.parametrize("how", ["call_id", "request_id"])
async def test_anothers_call_looks_like_none(tmp_path: Path, how: str) -> None:
    """Settled, running, kept by its key, or shared with one's own."""
    gates = Gates()
    tools = [ScriptedTool("gate", gates), ScriptedTool("read", gates, policy=READS)]
    async with (
        running_daemon(daemon_config(tmp_path, principals=TWO), tools) as daemon,
        open_wire(daemon.url, token=TOKEN) as mine,
    ):
        async with open_wire(daemon.url, token=OTHER_TOKEN) as theirs:
            answer = await theirs.call("echo", "done", arguments={"text": "x"}, idempotency_key="k")
            names = {"done": answer["meta"]["call_id"]}
            for tool in ("gate", "read"):
                await theirs.say("call_tool", name=tool, request_id=tool)
                ack = await theirs.hear_op("call_tool_ack", request_id=tool)
                names[tool] = ack["call_id"]
            await mine.begin("read", "mine")
            for request_id, call_id in names.items():
                name = call_id if how == "call_id" else request_id
                assert (await explain(daemon, name, OTHER_TOKEN))["calls"]
                assert await told_to_me(daemon, name) == await told_to_me(daemon, "never-was")
            body = (await get(daemon, id="mine")).text
            assert not any(call_id in body for call_id in names.values())
            gates.open()
        assert await told_to_me(daemon, "done") == await told_to_me(daemon, "never-was")


async def told_to_me(daemon: RunningDaemon, name: str) -> dict[str, Any]:
    """Return what is told but for the name that was asked for, and the time."""
    told = await explain(daemon, name)
    assert told.pop("id") == name
    del told["t"]
    return told


async def test_only_the_newest_calls_of_a_name_are_told(tmp_path: Path) -> None:
    async with running_daemon(daemon_config(tmp_path)) as daemon:
        for n in range(23):
            async with open_wire(daemon.url, token=TOKEN, says_bye=False) as wire:
                answer = await wire.call("echo", "r1", arguments={"text": str(n)})
        told = await explain(daemon)
    assert (len(told["calls"]), told["more_count"]) == (20, 3)
    accepted_at = [call["accepted_at"] for call in told["calls"]]
    assert accepted_at == sorted(accepted_at, reverse=True)
    assert told["calls"][0]["call_id"] == answer["meta"]["call_id"]


async def test_a_call_that_is_not_stored_yet_arrives(tmp_path: Path) -> None:
    store = SlowStore()
    async with (
        running_daemon(daemon_config(tmp_path), stores=stores_with(store)) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        await wire.say("call_tool", name="echo", request_id="r1", arguments={"text": "x"})
        await store.is_asked.wait()
        arriving = await explain_one(daemon)
        store.go.set()
        assert (await wire.result())["ok"]
    assert (arriving["state"], arriving["accepted_at"]) == ("arriving", None)
    assert (arriving["is_under_way"], arriving["tool"]) == (True, "echo")


class StoredTooSoon(SlowStore):
    """Can be asked for a call before it is told that it has it, as a database can."""

    async def accept(self, record: CallRecord) -> CallRecord | None:
        known = await MemoryCallStore.accept(self, record)
        self.is_asked.set()
        await self.go.wait()
        return known


async def test_a_call_that_is_just_being_stored_is_told_once(tmp_path: Path) -> None:
    store = StoredTooSoon()
    async with (
        running_daemon(daemon_config(tmp_path), stores=stores_with(store)) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        await wire.say("call_tool", name="echo", request_id="r1", arguments={"text": "x"})
        await store.is_asked.wait()
        assert (await explain_one(daemon))["state"] == "arriving"
        store.go.set()
        assert (await wire.result())["ok"]


async def test_an_outcome_that_cannot_be_stored_is_told_and_counted(tmp_path: Path) -> None:
    store = BrokenStore("settle")
    async with (
        running_daemon(daemon_config(tmp_path), stores=stores_with(store)) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        await wire.call("echo", arguments={"text": "x"})
        call = await explain_one(daemon)
        unstored = await store_of(wire)
        store.mend()
        await wire.call("echo", "r2", arguments={"text": "x"})
        stored = await store_of(wire)
    assert (call["state"], call["code"], call["result_bytes"]) == ("settled", "ok", 0)
    assert unstored == {
        "durable": True,
        "record_count": 1,
        "result_bytes": 0,
        "unstored_count": 1,
    }
    assert (stored["record_count"], stored["unstored_count"]) == (2, 0)


async def store_of(wire: Wire) -> dict[str, Any]:
    store = (await wire.ask("health", "health_res"))["health"]["store"]
    assert isinstance(store, dict)
    return store


async def test_what_an_earlier_daemon_executed_is_told_apart(tmp_path: Path) -> None:
    async with (
        running_daemon(daemon_config(tmp_path)) as daemon,
        open_wire(daemon.url, token=TOKEN, says_bye=False) as wire,
    ):
        await wire.call("echo", arguments={"text": "x"})
        earlier = await explain(daemon)
    async with running_daemon(daemon_config(tmp_path)) as daemon:
        later = await explain(daemon)
    assert later["boot_id"] != earlier["boot_id"] == later["calls"][0]["boot_id"]
    assert later["calls"][0]["result_bytes"] == earlier["calls"][0]["result_bytes"] > 0


async def test_a_call_that_is_left_to_the_next_start_is_not_under_way(tmp_path: Path) -> None:
    gates = Gates()
    config = daemon_config(tmp_path, limits=LimitsConfig(global_max_inflight=1))
    async with (
        running_daemon(config, [ScriptedTool("gate", gates)]) as daemon,
        open_wire(daemon.url, token=TOKEN, says_bye=False) as wire,
    ):
        await wire.begin("gate", "runs")
        await gates.until_inside("g")
        await wire.begin("gate", "waits")
        daemon.stop.set()
        await wire.hear_op("going_away")
        waits = await explain_one(daemon, "waits")
        gates.open()
        await wire.result("runs")
    assert (waits["state"], waits["is_under_way"]) == ("accepted", False)


@pytest.mark.parametrize("token", [None, "a-token-of-nobody-at-all"])
async def test_without_a_token_nothing_is_told(tmp_path: Path, token: str | None) -> None:
    async with running_daemon(daemon_config(tmp_path)) as daemon:
        answer = await get(daemon, token, id="r1")
    assert (answer.status_code, answer.json()) == (401, {"error": "unauthorized"})
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "query", [{}, {"id": ""}, {"id": "a b"}, {"id": "é"}, {"id": "x" * 129}, {"id": ["a", "b"]}]
)
async def test_what_is_no_id_is_refused(tmp_path: Path, query: dict[str, Any]) -> None:
    async with running_daemon(daemon_config(tmp_path)) as daemon:
        answer = await get(daemon, **query)
    assert answer.status_code == 400
    assert "1 to 128 printable ASCII characters" in answer.json()["error"]


async def test_any_id_may_be_asked_for(tmp_path: Path) -> None:
    odd = "".join(map(chr, range(ord("!"), ord("~") + 1)))
    async with (
        running_daemon(daemon_config(tmp_path)) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        await wire.call("echo", odd, arguments={"text": "x"})
        assert (await explain_one(daemon, odd))["request_id"] == odd


class DownStore(MemoryCallStore):
    """Cannot be asked."""

    async def find_all(self, principal: str, name: str, limit: int) -> FoundCalls:
        raise ServiceUnavailable("the ledger is out of order")


async def test_a_ledger_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    async with running_daemon(daemon_config(tmp_path), stores=stores_with(DownStore())) as daemon:
        answer = await get(daemon, id="r1")
    assert (answer.status_code, answer.json()) == (503, {"error": "the ledger is out of order"})
