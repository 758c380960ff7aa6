"""A ledger that is slow or broken: what was done is still told, and nothing is told twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from exai.core.call_store import CallRecord, CallStore, SessionBounds, Settlement
from exai.core.config import LimitsConfig
from exai.core.errors import ServiceUnavailable
from exai.core.events import CallFailedInside
from exai.core.session_store import SessionRecord
from exai.stores.memory_conversations import MemoryConversationStore
from exai.stores.memory_sessions import MemorySessionStore
from exai.stores.memory_store import MemoryCallStore
from exai.stores.stores import Stores
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from exai.testing.scripted_tool import Gates, ScriptedTool
from tests.journeys.wire import Frame, Wire, open_wire


def stores_with(calls: CallStore) -> Stores:
    return Stores(calls, MemoryConversationStore(), MemorySessionStore())


class SlowStore(MemoryCallStore):
    """Takes its time to accept, until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked = asyncio.Event()
        self.go = asyncio.Event()

    async def accept(self, record: CallRecord) -> CallRecord | None:
        self.is_asked.set()
        await self.go.wait()
        return await super().accept(record)


class SlowFinds(MemoryCallStore):
    """Takes its time to find, until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()

    async def find(self, session_id: str, request_id: str) -> CallRecord | None:
        self.is_asked.set()
        await self.go.wait()
        return await super().find(session_id, request_id)


class SlowSessions(MemorySessionStore):
    """Takes its time to keep a session, until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked = asyncio.Event()
        self.go = asyncio.Event()

    async def keep(self, session: SessionRecord) -> None:
        self.is_asked.set()
        await self.go.wait()
        await super().keep(session)


class BrokenStore(MemoryCallStore):
    """Raises in the methods that it is told to, until it is mended."""

    durable = True

    def __init__(self, *broken: str) -> None:
        super().__init__()
        self._broken = broken

    async def accept(self, record: CallRecord) -> CallRecord | None:
        self._break("accept")
        return await super().accept(record)

    async def start(self, call_id: str, owner: str, attempt: int, now: float) -> bool:
        self._break("start")
        return await super().start(call_id, owner, attempt, now)

    async def settle(self, call_id: str, settlement: Settlement, now: float) -> bool:
        self._break("settle")
        return await super().settle(call_id, settlement, now)

    async def find(self, session_id: str, request_id: str) -> CallRecord | None:
        self._break("find")
        return await super().find(session_id, request_id)

    async def acknowledge(
        self, session_id: str, request_ids: list[str], bounds: SessionBounds, now: float
    ) -> int:
        self._break("acknowledge")
        return await super().acknowledge(session_id, request_ids, bounds, now)

    def mend(self) -> None:
        self._broken = ()

    def _break(self, method: str) -> None:
        if method in self._broken:
            raise ServiceUnavailable(f"no space left to {method}")


async def test_nothing_is_acknowledged_before_it_is_stored(tmp_path: Path) -> None:
    store = SlowStore()
    async with (
        running_daemon(daemon_config(tmp_path), stores=stores_with(store)) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        for _ in range(2):
            await wire.say("call_tool", name="echo", request_id="r1", arguments={"text": "x"})
        await store.is_asked.wait()
        assert (await wire.ask("health", "health_res"))["op"] == "health_res"
        store.go.set()
        frames = [await wire.hear() for _ in range(3)]
    assert [frame["op"] for frame in frames] == ["call_tool_ack", "call_tool_ack", "call_tool_res"]
    assert [frame.get("joined") for frame in frames] == [None, True, None]


async def test_a_call_cancelled_while_it_is_being_accepted_is_settled_and_never_runs(
    tmp_path: Path,
) -> None:
    store, gates = SlowStore(), Gates()
    tools = [ScriptedTool("gate", gates)]
    async with (
        running_daemon(daemon_config(tmp_path), tools, stores=stores_with(store)) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        await wire.say("call_tool", name="gate", request_id="r1")
        await store.is_asked.wait()
        await wire.say("cancel_tool", request_id="r1")
        await wire.ask("health", "health_res")
        store.go.set()
        answer = await wire.result()
        assert answer["error"]["code"] == "CANCELLED"
        again = await wire.ask("get_result", "call_tool_res", request_id="r1")
        assert again["error"] == answer["error"]
    assert gates.runs == []


async def test_a_call_that_cannot_be_stored_is_refused_and_does_not_run(tmp_path: Path) -> None:
    gates = Gates()
    async with (
        running_daemon(
            daemon_config(tmp_path),
            [ScriptedTool("gate", gates)],
            stores=stores_with(BrokenStore("accept")),
        ) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        answer = await wire.call("gate")
    assert answer["error"]["code"] == "SERVICE_UNAVAILABLE"
    assert answer["error"]["retryable"]
    assert "meta" not in answer
    assert gates.runs == []


async def test_a_result_that_cannot_be_stored_still_reaches_its_caller_and_is_stored_later(
    tmp_path: Path,
) -> None:
    store = BrokenStore("settle")
    async with (
        running_daemon(daemon_config(tmp_path), stores=stores_with(store)) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        answer = await wire.call("echo", "r1", arguments={"text": "done"})
        assert (answer["text"], answer["meta"]["durable"]) == ("done", False)
        refused = await wire.call("echo", "r2", arguments={"text": "more"})
        assert refused["error"]["code"] == "SERVICE_UNAVAILABLE"
        again = await wire.call("echo", "r1", arguments={"text": "done"})
        assert (again["text"], again["meta"]["replayed"]) == ("done", True)
        assert again["meta"]["durable"] is False
        store.mend()
        assert "durable" not in (await wire.call("echo", "r2", arguments={"text": "more"}))["meta"]
        stored = await store.find_call(answer["meta"]["call_id"])
    assert stored is not None
    assert stored.settlement is not None
    assert "no space" in str(daemon.events.of(CallFailedInside)[0].exception)


async def test_what_waits_while_nothing_can_be_stored_is_told_so_in_its_turn(
    tmp_path: Path,
) -> None:
    store, gates = BrokenStore("start"), Gates()
    config = daemon_config(tmp_path, limits=LimitsConfig(session_max_inflight=1))
    async with (
        running_daemon(config, [ScriptedTool("gate", gates)], stores=stores_with(store)) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        await wire.begin("gate", "runs")
        await gates.until_inside("g")
        await wire.begin("echo", "waits", arguments={"text": "x"})
        gates.open()
        assert (await wire.result("runs"))["ok"]
        answer = await wire.result("waits")
    assert (answer["error"]["code"], answer["error"]["retryable"]) == ("SERVICE_UNAVAILABLE", True)


async def test_whose_session_is_being_stored_when_the_daemon_ends_is_told_so(
    tmp_path: Path,
) -> None:
    sessions, gates = SlowSessions(), Gates()
    stores = Stores(MemoryCallStore(), MemoryConversationStore(), sessions)
    tool = ScriptedTool("gate", gates)
    async with running_daemon(daemon_config(tmp_path), [tool], stores=stores) as daemon:
        sessions.go.set()
        async with (
            open_wire(daemon.url, token=TOKEN, says_bye=False) as first,
            open_wire(daemon.url, greet=False, says_bye=False) as late,
        ):
            await first.begin("gate")
            await gates.until_inside("g")
            sessions.go.clear()
            sessions.is_asked.clear()
            await late.say("hello", token=TOKEN)
            await sessions.is_asked.wait()
            daemon.stop.set()
            await first.hear_op("going_away")
            sessions.go.set()
            assert [(await late.hear())["op"] for _ in range(2)] == ["hello_ack", "going_away"]
            gates.open()
            assert await late.closed() == (1012, "service restart")


@pytest.mark.parametrize("op", ["get_result", "cancel_tool"])
async def test_a_ledger_that_cannot_be_read_is_a_typed_failure(tmp_path: Path, op: str) -> None:
    async with (
        running_daemon(daemon_config(tmp_path), stores=stores_with(BrokenStore("find"))) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        answer = await wire.ask(op, "call_tool_res", request_id="r1")
        assert answer["error"]["code"] == "SERVICE_UNAVAILABLE"
        assert answer["error"]["retryable"]


async def test_an_acknowledgement_that_fails_is_reported_and_harms_nothing(
    tmp_path: Path,
) -> None:
    async with (
        running_daemon(
            daemon_config(tmp_path), stores=stores_with(BrokenStore("acknowledge"))
        ) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        await wire.call("echo", arguments={"text": "x"})
        await wire.say("ack", request_ids=["r1"])
        await daemon.events.first_of(CallFailedInside)
        assert (await wire.call("echo", "r2", arguments={"text": "x"}))["ok"]


async def test_what_was_looked_up_for_an_older_connection_is_not_said_on_a_newer_one(
    tmp_path: Path,
) -> None:
    store = SlowFinds()
    async with (
        running_daemon(daemon_config(tmp_path), stores=stores_with(store)) as daemon,
        open_wire(daemon.url, greet=False, says_bye=False) as first,
        open_wire(daemon.url, greet=False, says_bye=False) as second,
        open_wire(daemon.url, greet=False) as third,
    ):
        ack = await first.hello(token=TOKEN, acks=True)
        resume = {key: ack[key] for key in ("session_id", "resume_token")}
        await first.call("echo", arguments={"text": "once"})
        store.is_asked.clear()
        store.go.clear()
        await second.hello(token=TOKEN, acks=True, resume=resume)
        await store.is_asked.wait()
        await third.hello(token=TOKEN, acks=True, resume=resume)
        store.go.set()
        assert (await third.hear())["text"] == "once"
        assert (await third.ask("health", "health_res"))["op"] == "health_res"
        await third.say("health")
        assert (await third.hear())["op"] == "health_res"


class GatedAccepts(MemoryCallStore):
    """Durable as far as anybody is told; takes its time to accept the request `late`."""

    durable = True

    def __init__(self) -> None:
        super().__init__()
        self.is_asked = asyncio.Event()
        self.go = asyncio.Event()

    async def accept(self, record: CallRecord) -> CallRecord | None:
        if record.request_id == "late":
            self.is_asked.set()
            await self.go.wait()
        return await super().accept(record)


@asynccontextmanager
async def busy_daemon(
    tmp_path: Path, store: GatedAccepts, gates: Gates
) -> AsyncIterator[tuple[RunningDaemon, Wire]]:
    """Run a daemon whose one permit is taken by a call at the gate "first"."""
    config = daemon_config(tmp_path, limits=LimitsConfig(global_max_inflight=1))
    async with (
        running_daemon(config, [ScriptedTool("gate", gates)], stores=stores_with(store)) as daemon,
        open_wire(daemon.url, token=TOKEN, says_bye=False) as wire,
    ):
        await wire.begin("gate", "first", arguments={"gate": "first"})
        await gates.until_inside("first")
        yield daemon, wire


async def test_work_is_not_left_to_the_next_daemon_and_begun_for_who_follows(
    tmp_path: Path,
) -> None:
    store, gates = GatedAccepts(), Gates()
    same: Frame = {"arguments": {"gate": "same"}, "idempotency_key": "k"}
    async with busy_daemon(tmp_path, store, gates) as (daemon, wire):
        await wire.begin("gate", "leads", **same)
        await wire.say("call_tool", name="gate", request_id="late", **same)
        await store.is_asked.wait()
        daemon.stop.set()
        await wire.hear_op("going_away")
        gates.open("first")
        await wire.result("first")
        store.go.set()
        gates.open("same")
        assert await wire.closed() == (1012, "service restart")
        assert await store.unsettled() == []
    assert gates.runs == ["first", "same"]


async def test_who_follows_a_call_that_was_taken_back_has_its_own_time(tmp_path: Path) -> None:
    store, gates = GatedAccepts(), Gates()
    same: Frame = {"arguments": {"gate": "same"}, "idempotency_key": "k"}
    async with busy_daemon(tmp_path, store, gates) as (_, wire):
        await wire.begin("gate", "leads", **same)
        await wire.say("call_tool", name="gate", request_id="late", **same)
        await store.is_asked.wait()
        await wire.say("cancel_tool", request_id="leads")
        assert (await wire.result("leads"))["error"]["code"] == "CANCELLED"
        gates.open("first")
        await wire.result("first")
        assert gates.runs == ["first"]
        store.go.set()
        gates.open("same")
        assert (await wire.result("late"))["text"] == "through same"
    assert gates.runs == ["first", "same"]
