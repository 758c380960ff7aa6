"""What every ledger promises for idempotency keys, and under any sequence of events."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exai.core.call_store import (
    CallRecord,
    CallState,
    CallStore,
    SessionBounds,
    Settlement,
    summary_of,
)
from exai.core.outcomes import Completed
from exai.stores.stores import Stores
from tests.contracts.test_call_store import ANSWER, record, store
from tests.contracts.twins import AMPLE, TWINS

__all__ = ["store"]  # a fixture
RESULT_TTL_S, KEY_TTL_S = 600.0, 86_400.0
BOUNDS = SessionBounds(max_results=100, max_result_bytes=10**6, max_tombstones=2)


async def settled(store: CallStore, call_id: str, at: float = 1000.0, **changes: object) -> None:
    await store.accept(record(call_id, **changes))
    await store.settle(call_id, ANSWER, now=at)


async def test_a_key_is_its_principals_own(store: CallStore) -> None:
    await store.accept(record("c1", idempotency_key="k"))
    assert await store.accept(record("c2", principal="bob", idempotency_key="k")) is None
    assert (await found(store, "alice")).call_id == "c1"
    assert (await found(store, "bob")).call_id == "c2"
    assert await store.find_by_key("carol", "k") is None
    assert [await store.key_count(name) for name in ("alice", "bob", "carol")] == [1, 1, 0]


async def test_a_request_id_is_a_nearer_name_than_a_key(store: CallStore) -> None:
    await store.accept(record("c1", idempotency_key="k"))
    await store.accept(record("c2"))
    both = record("c3", request_id="r-c2", idempotency_key="k")
    assert await store.accept(both) == record("c2")


async def test_a_key_outlives_its_session_and_its_result_its_own_time(store: CallStore) -> None:
    await settled(store, "c1", idempotency_key="k")
    await store.end_session("s1")
    assert await store.find("s1", "r-c1") is None
    assert (await found(store)).state is CallState.SETTLED
    assert await store.expire(1599.9, RESULT_TTL_S, KEY_TTL_S) == 0
    assert await store.expire(1600.0, RESULT_TTL_S, KEY_TTL_S) == 1
    assert (await found(store)).erased_because == "expired"
    assert await store.expire(1000.0 + KEY_TTL_S - 0.1, RESULT_TTL_S, KEY_TTL_S) == 0
    assert (await found(store)).summary == summary_of(ANSWER)
    await store.expire(1000.0 + KEY_TTL_S, RESULT_TTL_S, KEY_TTL_S)
    assert await store.find_by_key("alice", "k") is None
    assert await store.key_count("alice") == 0
    assert store.statistics().record_count == 0


async def test_each_key_has_a_time_of_its_own(store: CallStore) -> None:
    await settled(store, "c1", 1000.0, idempotency_key="k1")
    await settled(store, "c2", 2000.0, idempotency_key="k2")
    await store.expire(1000.0 + KEY_TTL_S, RESULT_TTL_S, KEY_TTL_S)
    assert await store.key_count("alice") == 1
    assert (await found(store, key="k2")).call_id == "c2"


async def test_a_key_stays_at_least_as_long_as_its_result(store: CallStore) -> None:
    await settled(store, "c1", idempotency_key="k")
    await store.expire(1010.0, RESULT_TTL_S, 5.0)
    assert (await found(store)).state is CallState.SETTLED


async def test_what_only_keys_keep_is_bounded_oldest_first(store: CallStore) -> None:
    for n in range(3):
        await settled(store, f"c{n}", session_id=f"s{n}", idempotency_key=f"k{n}")
    await settled(store, "c9", session_id="s9")
    size_bytes = store.statistics().result_bytes // 4
    assert await store.trim_keyed("alice", 0, now=1001.0) == 0
    for n in range(3):
        await store.end_session(f"s{n}")
    assert await store.trim_keyed("alice", 2 * size_bytes, now=1001.0) == 1
    assert await store.trim_keyed("bob", 0, now=1001.0) == 0
    assert (await found(store, key="k0")).state is CallState.ERASED
    assert (await found(store, key="k1")).state is CallState.SETTLED
    assert (await store.find("s9", "r-c9")) is not None
    assert store.statistics().result_bytes == 3 * size_bytes


async def test_whose_session_ended_first_makes_room_first(store: CallStore) -> None:
    for n in range(2):
        await settled(store, f"c{n}", session_id=f"s{n}", idempotency_key=f"k{n}")
    for n in (1, 0):
        await store.end_session(f"s{n}")
    assert await store.trim_keyed("alice", store.statistics().result_bytes - 1, now=1001.0) == 1
    assert (await found(store, key="k1")).state is CallState.ERASED
    assert (await found(store, key="k0")).state is CallState.SETTLED


async def test_tombstones_with_a_key_neither_count_nor_go(store: CallStore) -> None:
    for n in range(6):
        await settled(store, f"c{n}", idempotency_key=f"k{n}" if n < 3 else None)
    await store.acknowledge("s1", [f"r-c{n}" for n in range(6)], AMPLE, now=1001.0)
    await store.mark_sent("s1", [], BOUNDS, now=1002.0)
    known = [await store.find("s1", f"r-c{n}") is not None for n in range(6)]
    assert known == [True, True, True, False, True, True]


async def test_a_keyed_call_that_settles_after_its_session_counts_for_its_principal(
    store: CallStore,
) -> None:
    await store.accept(record("c1", idempotency_key="k"))
    await store.end_session("s1")
    assert await store.settle("c1", ANSWER, now=1000.0)
    assert await store.trim_keyed("alice", 0, now=1001.0) == 1
    assert (await found(store)).state is CallState.ERASED


async def test_what_expires_while_a_large_session_ends_is_no_trouble(store: CallStore) -> None:
    for n in range(2500):
        await settled(store, f"c{n}")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(store.end_session("s1"))
        tasks.create_task(store.expire(1e9, RESULT_TTL_S, KEY_TTL_S))
        tasks.create_task(store.expire(2e9, RESULT_TTL_S, KEY_TTL_S))
    assert store.statistics().record_count == 0
    assert store.statistics().result_bytes == 0


async def test_every_key_of_a_large_session_outlives_it(store: CallStore) -> None:
    for n in range(2500):
        await store.accept(record(f"c{n}", idempotency_key=f"k{n}" if n % 5 else None))
    await store.end_session("s1")
    assert await store.key_count("alice") == store.statistics().record_count == 2000
    assert await store.owed("s1") == []
    assert (await found(store, key="k2499")).call_id == "c2499"


async def test_every_result_that_expires_is_counted_however_many_and_old(
    store: CallStore,
) -> None:
    for n in range(2500):
        await settled(store, f"c{n}", idempotency_key=f"k{n}" if n % 2 else None)
    assert await store.expire(1e9, RESULT_TTL_S, KEY_TTL_S) == 2500
    assert store.statistics().record_count == 1250, "keys are old enough to be forgotten at once"


async def found(store: CallStore, principal: str = "alice", key: str = "k") -> CallRecord:
    known = await store.find_by_key(principal, key)
    assert known is not None
    return known


class NaiveStore:
    """The ledger as a list that is searched."""

    def __init__(self) -> None:
        self.records: list[CallRecord] = []

    def accept(self, new: CallRecord) -> CallRecord | None:
        known = self.find(new.session_id, new.request_id)
        if known is None and new.idempotency_key:
            known = self.find_by_key(new.principal, new.idempotency_key)
        if known is None:
            self.records.append(new)
        return known

    def settle(self, call_id: str, settlement: Settlement, now: float) -> bool:
        done = {"state": CallState.SETTLED, "settlement": settlement, "settled_at": now}
        return self._change(call_id, "accepted", **done, summary=summary_of(settlement))

    def acknowledge(self, session_id: str, request_ids: list[str], now: float) -> int:
        of_session = [
            self.find(session_id, request_id) for request_id in dict.fromkeys(request_ids)
        ]
        return sum(self._erase(known, "acknowledged", now) for known in of_session if known)

    def expire(self, now: float, result_ttl_s: float, key_ttl_s: float) -> int:
        horizon = now - result_ttl_s
        self._drop(lambda r: not r.idempotency_key and (r.erased_at or now) <= horizon)
        old = [r for r in self.records if r.settled_at is not None and r.settled_at <= horizon]
        erased = sum(self._erase(r, "expired", now) for r in old)
        key_horizon = now - key_ttl_s
        self._drop(lambda r: bool(r.idempotency_key) and (r.settled_at or now) <= key_horizon)
        return erased

    def end_session(self, session_id: str) -> None:
        self._drop(lambda r: r.session_id == session_id and not r.idempotency_key)
        self.records = [
            msgspec.structs.replace(r, session_id="") if r.session_id == session_id else r
            for r in self.records
        ]

    def find(self, session_id: str, request_id: str) -> CallRecord | None:
        same = (r for r in self.records if (r.session_id, r.request_id) == (session_id, request_id))
        return next(same, None)

    def find_by_key(self, principal: str, key: str) -> CallRecord | None:
        same = (r for r in self.records if (r.principal, r.idempotency_key) == (principal, key))
        return next(same, None)

    def _erase(self, known: CallRecord, because: str, now: float) -> bool:
        gone = {"state": CallState.ERASED, "settlement": None, "erased_at": now}
        return self._change(known.call_id, "settled", **gone, erased_because=because)

    def _change(self, call_id: str, was: str, **changes: Any) -> bool:
        for at, known in enumerate(self.records):
            if known.call_id == call_id and known.state == was:
                self.records[at] = msgspec.structs.replace(known, **changes)
                return True
        return False

    def _drop(self, is_gone: Any) -> None:
        self.records = [r for r in self.records if not is_gone(r)]


SESSIONS = st.sampled_from(["s1", "s2"])
CALLS = st.integers(0, 5)
STEPS = st.one_of(
    st.tuples(st.just("accept"), SESSIONS, CALLS, st.sampled_from([None, "k1", "k2"])),
    st.tuples(st.just("settle"), st.integers(0, 30)),
    st.tuples(st.just("acknowledge"), SESSIONS, st.lists(CALLS, max_size=3)),
    st.tuples(st.just("expire"), st.sampled_from([1.0, 300.0, 600.0, 90_000.0])),
    st.tuples(st.just("end_session"), SESSIONS),
)


@pytest.mark.parametrize("make", list(TWINS.values()), ids=list(TWINS))
@settings(max_examples=150)
@given(st.lists(STEPS, max_size=40))
def test_any_sequence_of_events_does_as_a_plain_list_would(make: Any, steps: list[Any]) -> None:
    with TemporaryDirectory() as directory:
        asyncio.run(compare(make(Path(directory)), NaiveStore(), steps))


async def compare(stores: Stores, naive: NaiveStore, steps: list[Any]) -> None:
    async with stores:
        await take(steps, stores.calls, naive)


async def take(steps: list[Any], store: CallStore, naive: NaiveStore) -> None:
    now = 1000.0
    for n, (what, *how) in enumerate(steps):
        if what == "accept":
            session, call, key = how
            principal = "alice" if session == "s1" else "bob"
            names = {"session_id": session, "request_id": f"r{call}", "principal": principal}
            new = record(f"c{n}", **names, idempotency_key=key)
            assert unplaced(await store.accept(new)) == unplaced(naive.accept(new))
        elif what == "settle":
            call_id = f"c{how[0]}"
            assert await store.settle(call_id, ANSWER, now) == naive.settle(call_id, ANSWER, now)
        elif what == "acknowledge":
            session, request_ids = how[0], [f"r{call}" for call in dict.fromkeys(how[1])]
            erased = naive.acknowledge(session, request_ids, now)
            assert await store.acknowledge(session, request_ids, AMPLE, now) == erased
        elif what == "expire":
            now += how[0]
            erased = naive.expire(now, RESULT_TTL_S, KEY_TTL_S)
            assert await store.expire(now, RESULT_TTL_S, KEY_TTL_S) == erased
        else:
            await store.end_session(how[0])
            naive.end_session(how[0])
        await same(store, naive)


async def same(store: CallStore, naive: NaiveStore) -> None:
    for session in ("s1", "s2"):
        for call in range(6):
            known = await store.find(session, f"r{call}")
            assert unplaced(known) == unplaced(naive.find(session, f"r{call}"))
    for principal in ("alice", "bob"):
        owned = [r for r in naive.records if r.principal == principal and r.idempotency_key]
        assert await store.key_count(principal) == len(owned)
        for key in ("k1", "k2"):
            known = await store.find_by_key(principal, key)
            assert unplaced(known) == unplaced(naive.find_by_key(principal, key))
    kept = sum(isinstance(r.settlement and r.settlement.outcome, Completed) for r in naive.records)
    statistics = store.statistics()
    assert statistics.record_count == len(naive.records)
    assert statistics.result_bytes == kept * len(msgspec.json.encode(ANSWER))


def unplaced(known: CallRecord | None) -> CallRecord | None:
    """Leave out in which session a call was made: it may have ended; and what its result takes."""
    return None if known is None else msgspec.structs.replace(known, session_id="", result_bytes=0)
