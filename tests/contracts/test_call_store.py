"""Every ledger keeps the same promises through a call's life."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from exai.core.call_store import CallRecord, CallState, CallStore, SessionBounds, Settlement
from exai.core.errors import ToolFailed
from exai.core.outcomes import Completed, Failed, text_block
from tests.contracts.twins import AMPLE, TWINS

ANSWER = Settlement(Completed([text_block("forty-two")]), queue_s=0.25, run_s=1.5)
OTHER_ANSWER = Settlement(Completed([text_block("forty-three")]), queue_s=0.0, run_s=0.0)


@pytest.fixture(params=list(TWINS.values()), ids=list(TWINS))
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[CallStore]:
    async with request.param(tmp_path) as stores:
        yield stores.calls


def record(call_id: str = "c1", **changes: object) -> CallRecord:
    known = CallRecord(
        call_id=call_id,
        session_id="s1",
        principal="alice",
        request_id=f"r-{call_id}",
        tool="echo",
        arguments_digest=b"\x01" * 32,
        accepted_at=1000.0,
        timeout_s=60.0,
    )
    return msgspec.structs.replace(known, **changes)


async def test_a_ledger_has_a_name_of_its_own(store: CallStore, tmp_path: Path) -> None:
    """A durable one keeps it, in `tests/stores`."""
    other = tmp_path / "other"
    other.mkdir()
    for make in TWINS.values():
        async with make(other) as stores:
            assert stores.calls.ledger_id == stores.calls.ledger_id != store.ledger_id


async def test_an_accepted_call_is_found_as_it_was(store: CallStore) -> None:
    assert await store.accept(record()) is None
    assert await store.find("s1", "r-c1") == record()


async def test_nothing_is_found_of_an_unknown_request_or_in_another_session(
    store: CallStore,
) -> None:
    await store.accept(record())
    assert await store.find("s1", "r-c2") is None
    assert await store.find("s2", "r-c1") is None


async def test_a_known_request_id_is_told_and_changes_nothing(store: CallStore) -> None:
    await store.accept(record())
    assert await store.accept(record("c2", request_id="r-c1")) == record()
    assert store.statistics().record_count == 1


async def test_the_same_request_id_in_another_session_is_another_call(store: CallStore) -> None:
    await store.accept(record())
    assert await store.accept(record("c2", request_id="r-c1", session_id="s2")) is None


async def test_an_idempotency_key_is_known_across_sessions_of_its_principal(
    store: CallStore,
) -> None:
    first = record(idempotency_key="k")
    await store.accept(first)
    assert await store.accept(record("c2", session_id="s2", idempotency_key="k")) == first
    assert await store.accept(record("c3", principal="bob", idempotency_key="k")) is None


async def test_a_call_runs_once_per_attempt(store: CallStore) -> None:
    await store.accept(record())
    assert await store.start("c1", "boot-1", attempt=1, now=1001.0)
    assert not await store.start("c1", "boot-2", attempt=1, now=1001.0)
    assert await store.start("c1", "boot-2", attempt=2, now=1002.0)
    found = await store.find("s1", "r-c1")
    assert found is not None
    assert (found.state, found.owner, found.attempt) == (CallState.RUNNING, "boot-2", 2)


async def test_an_outcome_never_changes(store: CallStore) -> None:
    await store.accept(record())
    await store.start("c1", "boot-1", attempt=1, now=1001.0)
    assert await store.settle("c1", ANSWER, now=1002.0)
    assert not await store.settle("c1", OTHER_ANSWER, now=1003.0)
    assert not await store.start("c1", "boot-1", attempt=2, now=1003.0)
    found = await store.find("s1", "r-c1")
    assert found is not None
    assert found.state is CallState.SETTLED
    assert (found.settlement, found.settled_at) == (ANSWER, 1002.0)


async def test_a_call_may_settle_without_having_run(store: CallStore) -> None:
    await store.accept(record())
    failure = Settlement(Failed(ToolFailed("no").describe()), 0.0, 0.0)
    assert await store.settle("c1", failure, now=1001.0)
    found = await store.find("s1", "r-c1")
    assert found is not None
    assert (found.settlement, found.attempt, found.started_at) == (failure, 0, None)


async def test_what_is_unknown_neither_starts_nor_settles(store: CallStore) -> None:
    assert not await store.start("c9", "boot-1", attempt=1, now=1001.0)
    assert not await store.settle("c9", ANSWER, now=1.0)


async def test_acknowledging_erases_the_payload_and_keeps_the_tombstone(store: CallStore) -> None:
    await store.accept(record())
    await store.settle("c1", ANSWER, now=1001.0)
    assert await store.acknowledge("s1", ["r-c1", "r-unknown"], AMPLE, now=1002.0) == 1
    assert await store.acknowledge("s1", ["r-c1"], AMPLE, now=1003.0) == 0
    found = await store.find("s1", "r-c1")
    assert found is not None
    assert (found.state, found.settlement) == (CallState.ERASED, None)
    assert (found.erased_because, found.erased_at) == ("acknowledged", 1002.0)
    assert found.arguments_digest == record().arguments_digest
    assert store.statistics().result_bytes == 0


async def test_what_is_acknowledged_twice_at_once_is_erased_once_and_so_is_the_rest(
    store: CallStore,
) -> None:
    for call_id in ("c1", "c2"):
        await store.accept(record(call_id))
        await store.settle(call_id, ANSWER, now=1001.0)
    assert await store.acknowledge("s1", ["r-c1", "r-c1", "r-c2"], AMPLE, now=1002.0) == 2
    assert store.statistics().result_bytes == 0


async def test_only_settled_calls_of_ones_own_session_can_be_acknowledged(
    store: CallStore,
) -> None:
    await store.accept(record())
    assert await store.acknowledge("s1", ["r-c1"], AMPLE, now=1001.0) == 0
    await store.settle("c1", ANSWER, now=1001.0)
    assert await store.acknowledge("s2", ["r-c1"], AMPLE, now=1002.0) == 0


async def test_results_expire_and_their_tombstones_are_forgotten(store: CallStore) -> None:
    await store.accept(record())
    await store.accept(record("c2"))
    await store.settle("c1", ANSWER, now=1000.0)
    await store.settle("c2", ANSWER, now=1500.0)
    assert await store.expire(now=1599.9, result_ttl_s=600.0, idempotency_ttl_s=86_400.0) == 0
    assert await store.expire(now=1600.0, result_ttl_s=600.0, idempotency_ttl_s=86_400.0) == 1
    found = await store.find("s1", "r-c1")
    assert found is not None
    assert (found.state, found.erased_because) == (CallState.ERASED, "expired")
    assert await store.expire(now=2200.0, result_ttl_s=600.0, idempotency_ttl_s=86_400.0) == 1
    assert await store.find("s1", "r-c1") is None
    assert store.statistics().record_count == 1


async def test_what_expired_together_is_forgotten_in_the_order_in_which_it_settled(
    store: CallStore,
) -> None:
    for n in (0, 1):
        await store.accept(record(f"c{n}"))
    for n in (1, 0):
        await store.settle(f"c{n}", ANSWER, now=1000.0 - n)
    assert await store.expire(now=2000.0, result_ttl_s=600.0, idempotency_ttl_s=86_400.0) == 2
    await store.mark_sent("s1", [], SessionBounds(9, 10_000, max_tombstones=1), now=2001.0)
    assert await store.find("s1", "r-c1") is None
    assert await store.find("s1", "r-c0") is not None


async def test_what_is_settled_late_expires_by_when_its_outcome_was_reached(
    store: CallStore,
) -> None:
    """It could not be stored at once, or the clock was set back; or it had been set wrongly."""
    settled_at = {"c1": 1500.0, "c2": 1000.0, "c3": 9e9, "c4": 1400.0, "c5": 1400.0, "c6": 1600.0}
    for call_id, at in settled_at.items():
        key = "k" if call_id == "c2" else None
        await store.accept(record(call_id, idempotency_key=key))
        await store.settle(call_id, ANSWER, now=at)
    assert await store.expire(1600.0, result_ttl_s=600.0, idempotency_ttl_s=600.0) == 1
    assert await store.key_count("alice") == 0
    assert await store.expire(2200.0, result_ttl_s=600.0, idempotency_ttl_s=600.0) == 4
    assert store.statistics().record_count == 5
    await store.mark_sent("s1", [], SessionBounds(9, 10**6, max_tombstones=2), now=2200.0)
    left = [call_id for call_id in settled_at if await store.knows("s1", f"r-{call_id}")]
    assert left == ["c1", "c3", "c6"], "the oldest outcomes were forgotten first"


async def test_a_result_of_the_beginning_of_time_expires(store: CallStore) -> None:
    await store.accept(record())
    await store.settle("c1", ANSWER, now=0.0)
    assert await store.expire(600.0, result_ttl_s=600.0, idempotency_ttl_s=600.0) == 1


async def test_a_sessions_oldest_results_make_room(store: CallStore) -> None:
    for n in range(4):
        await store.accept(record(f"c{n}"))
        await store.settle(f"c{n}", ANSWER, now=1000.0 + n)
    await store.accept(record("other", session_id="s2"))
    await store.settle("other", ANSWER, now=999.0)
    assert await store.mark_sent("s1", [], SessionBounds(1, 1, 9), now=1010.0) == 0, (
        "none was sent yet"
    )
    await store.mark_sent("s1", [f"r-c{n}" for n in range(4)] + ["r-unknown"], AMPLE, now=1005.0)
    await store.mark_sent("s1", ["r-c3"], AMPLE, now=1006.0)
    one = store.statistics().result_bytes // 5
    assert await store.mark_sent("s1", [], SessionBounds(3, 10 * one, 9), now=1010.0) == 1
    assert await store.mark_sent("s1", [], SessionBounds(3, 2 * one, 9), now=1010.0) == 1
    assert await store.mark_sent("s1", [], SessionBounds(3, 2 * one, 9), now=1010.0) == 0
    assert await store.mark_sent("s-unknown", [], SessionBounds(1, 1, 1), now=1010.0) == 0
    found = [await store.find("s1", f"r-c{n}") for n in range(4)]
    states = [one.state for one in found if one is not None]
    assert states == [CallState.ERASED, CallState.ERASED, CallState.SETTLED, CallState.SETTLED]
    await store.mark_sent("s1", [], SessionBounds(3, 2 * one, 1), now=1010.0)
    assert await store.find("s1", "r-c0") is None
    assert await store.find("s1", "r-c1") is not None
    other = await store.find("s2", "r-other")
    assert other is not None
    assert other.state is CallState.SETTLED


async def test_what_is_to_be_sent_again_makes_no_room(store: CallStore) -> None:
    for n in range(3):
        await store.accept(record(f"c{n}"))
        await store.settle(f"c{n}", ANSWER, now=1000.0 + n)
    await store.mark_sent("s1", ["r-c0", "r-c1", "r-c2"], AMPLE, now=1005.0)
    await store.forget_sent("s1")
    await store.forget_sent("s-unknown")
    assert await store.mark_sent("s1", [], SessionBounds(1, 1, 9), now=1010.0) == 0
    await store.mark_sent("s1", ["r-c2", "r-c0"], AMPLE, now=1006.0)
    assert await store.mark_sent("s1", [], SessionBounds(1, 10_000, 9), now=1010.0) == 1
    erased = await store.find("s1", "r-c2")
    assert erased is not None
    assert erased.state is CallState.ERASED


async def test_what_a_session_is_owed_is_what_was_accepted_and_is_not_erased(
    store: CallStore,
) -> None:
    for n in range(4):
        await store.accept(record(f"c{n}"))
    await store.accept(record("other", session_id="s2"))
    await store.start("c1", "boot", 1, now=1001.0)
    for n in (2, 3):
        await store.settle(f"c{n}", ANSWER, now=1001.0)
    await store.acknowledge("s1", ["r-c2"], AMPLE, now=1002.0)
    assert await store.owed("s1") == ["r-c0", "r-c1", "r-c3"]
    assert await store.owed("s-unknown") == []
    usage = await store.usage("s1")
    assert usage.result_count == 1
    assert usage.result_bytes == store.statistics().result_bytes
    assert (await store.usage("s-unknown")).result_count == 0


async def test_what_has_not_settled_never_expires(store: CallStore) -> None:
    await store.accept(record())
    assert await store.expire(now=1e12, result_ttl_s=1.0, idempotency_ttl_s=86_400.0) == 0
    assert await store.find("s1", "r-c1") is not None


async def test_a_session_that_ends_is_forgotten_but_for_its_idempotency_keys(
    store: CallStore,
) -> None:
    await store.accept(record())
    await store.accept(record("c2", idempotency_key="k"))
    await store.accept(record("c3", session_id="s2"))
    await store.end_session("s1")
    assert await store.find("s1", "r-c1") is None
    assert await store.find("s2", "r-c3") is not None
    known = await store.accept(record("c4", session_id="s3", idempotency_key="k"))
    assert known is not None
    assert known.call_id == "c2"


async def test_a_session_of_thousands_of_records_ends(store: CallStore) -> None:
    for n in range(2500):
        await store.accept(record(f"c{n}"))
    await store.end_session("s1")
    assert store.statistics().record_count == 0


async def test_what_is_accepted_while_its_session_ends_is_found_or_gone(store: CallStore) -> None:
    for n in range(2500):
        await store.accept(record(f"c{n}"))
    late = [record("late"), record("late-keyed", idempotency_key="k")]
    async with asyncio.TaskGroup() as tasks:
        for _ in range(2):
            tasks.create_task(store.end_session("s1"))
        for each in late:
            tasks.create_task(store.accept(each))
    found = [await store.find("s1", each.request_id) for each in late]
    keyed = await store.find_by_key("alice", "k")
    assert keyed is not None
    assert store.statistics().record_count == 1 + (found[0] is not None)
    await store.end_session("s1")
    assert store.statistics().record_count == 1


async def test_statistics_count_records_and_bytes(store: CallStore) -> None:
    await store.accept(record())
    await store.accept(record("c2"))
    assert (store.statistics().record_count, store.statistics().result_bytes) == (2, 0)
    await store.settle("c1", ANSWER, now=1001.0)
    one = store.statistics().result_bytes
    await store.settle("c2", ANSWER, now=1001.0)
    assert store.statistics().result_bytes == 2 * one > 0
