"""What every ledger can be asked across sessions, and whether it knows a request at all."""

import asyncio
from typing import Any

import msgspec

from exai.core.call_store import CallState, CallStore, SessionBounds, Settlement, summary_of
from exai.core.outcomes import Completed, text_block
from tests.contracts.test_call_store import ANSWER, record, store
from tests.contracts.twins import AMPLE

__all__ = ["store"]  # a fixture
RESULT_TTL_S, KEY_TTL_S = 600.0, 86_400.0


async def test_a_call_is_found_by_its_call_id_and_by_its_request_id(store: CallStore) -> None:
    await store.accept(record())
    await store.accept(record("c2"))
    await store.settle("c1", ANSWER, now=1001.0)
    for name in ("c1", "r-c1"):
        assert await found(store, name) == ["c1"]
    assert await found(store, "c3") == []


async def test_what_is_found_by_a_name_is_without_what_was_said(store: CallStore) -> None:
    said: dict[str, Any] = {"request": b"{}", "idempotent": True}
    await store.accept(record("c1", **said))
    await store.start("c1", "boot", 1, now=1001.0)
    (running,) = (await store.find_all("alice", "c1", 1)).records
    assert running == record(
        "c1",
        idempotent=True,
        state=CallState.RUNNING,
        owner="boot",
        attempt=1,
        started_at=1001.0,
    )
    await store.settle("c1", ANSWER, now=1002.0)
    (settled,) = (await store.find_all("alice", "c1", 1)).records
    assert (settled.settlement, settled.summary) == (None, summary_of(ANSWER))
    assert settled.result_bytes == store.statistics().result_bytes > 0
    await store.acknowledge("s1", ["r-c1"], AMPLE, now=1003.0)
    (erased,) = (await store.find_all("alice", "c1", 1)).records
    assert (erased.result_bytes, erased.summary) == (0, summary_of(ANSWER))


async def test_a_call_is_found_whole_by_its_call_id_alone(store: CallStore) -> None:
    await store.accept(record("c1", idempotency_key="k", request=b"{}"))
    await store.accept(record("c2", request_id="c3"))
    known = await store.find_call("c1")
    assert known == record("c1", idempotency_key="k", request=b"{}")
    await store.settle("c1", ANSWER, now=1001.0)
    await store.end_session("s1")
    settled = await store.find_call("c1")
    assert settled is not None
    assert settled.settlement == ANSWER
    assert await store.find_call("c2") is await store.find_call("c3") is None


async def test_one_request_id_is_found_in_all_sessions_newest_first(store: CallStore) -> None:
    accepted_at = {"c0": 1000.0, "c1": 1003.0, "c2": 1001.0, "c3": 1003.0, "c4": 1003.0}
    for n, (call_id, at) in enumerate(accepted_at.items()):
        await store.accept(record(call_id, session_id=f"s{n}", request_id="r", accepted_at=at))
    records = (await store.find_all("alice", "r", 9)).records
    assert [known.call_id for known in records] == ["c4", "c3", "c1", "c2", "c0"]
    assert [known.session_id for known in records] == ["s4", "s3", "s1", "s2", "s0"]


async def test_of_many_only_the_newest_are_found_and_the_others_counted(store: CallStore) -> None:
    for n in range(5):
        key = f"k{n}" if n % 2 else None
        await store.accept(
            record(
                f"c{n}",
                session_id=f"s{n}",
                request_id="r",
                accepted_at=1000.0 + n,
                idempotency_key=key,
            )
        )
    await store.end_session("s1")
    for limit, more_count in ((0, 5), (2, 3), (5, 0), (9, 0)):
        found = await store.find_all("alice", "r", limit)
        assert [known.call_id for known in found.records] == ["c4", "c3", "c2", "c1", "c0"][:limit]
        assert found.more_count == more_count


async def test_what_is_one_calls_id_and_anothers_request_id_finds_both(store: CallStore) -> None:
    await store.accept(record("c1"))
    await store.accept(record("c2", request_id="c1"))
    await store.accept(record("c3", request_id="c3"))
    assert await found(store, "c1") == ["c2", "c1"]
    assert await found(store, "c3") == ["c3"]


async def test_another_principals_calls_are_never_found(store: CallStore) -> None:
    await store.accept(record("c1", request_id="r"))
    await store.accept(record("c2", request_id="r", session_id="s2", principal="bob"))
    await store.accept(
        record("c3", request_id="c1", session_id="s2", principal="bob", idempotency_key="k")
    )
    await store.end_session("s2")
    assert await found(store, "r") == ["c1"]
    assert await found(store, "c1") == ["c1"]
    assert await found(store, "c1", principal="bob") == ["c3"]
    assert await found(store, "c3") == []
    assert await found(store, "r", principal="carol") == []


async def test_what_a_key_keeps_of_an_ended_session_is_found(store: CallStore) -> None:
    for n in range(3):
        key = None if n == 1 else f"k{n}"
        await store.accept(record(f"c{n}", session_id=f"s{n}", request_id="r", idempotency_key=key))
        await store.settle(f"c{n}", ANSWER, now=1001.0)
    for session in ("s0", "s1"):
        await store.end_session(session)
    assert await found(store, "r") == ["c2", "c0"]
    assert await found(store, "c0") == ["c0"]
    assert await found(store, "c1") == []


async def test_what_is_erased_is_found_until_it_is_forgotten(store: CallStore) -> None:
    await store.accept(record())
    await store.settle("c1", ANSWER, now=1000.0)
    await store.acknowledge("s1", ["r-c1"], AMPLE, now=1001.0)
    (known,) = (await store.find_all("alice", "c1", 9)).records
    assert (known.state, known.erased_because) == (CallState.ERASED, "acknowledged")
    await store.expire(1001.0 + RESULT_TTL_S, RESULT_TTL_S, KEY_TTL_S)
    assert await found(store, "c1") == []


async def test_what_is_forgotten_while_it_is_looked_for_is_no_trouble(store: CallStore) -> None:
    large = Settlement(Completed([text_block("x" * 200_000)]), 0.0, 0.0)
    await store.accept(record("c1"))
    await store.settle("c1", large, now=1001.0)
    async with asyncio.TaskGroup() as tasks:
        looking = tasks.create_task(store.find_call("c1"))
        tasks.create_task(store.end_session("s1"))
    known = looking.result()
    assert known is not None
    assert known.settlement == large
    assert await store.find_call("c1") is None


async def test_what_has_not_settled_is_listed_in_the_order_of_acceptance(store: CallStore) -> None:
    for n, at in enumerate([1003.0, 1001.0, 1002.0, 1000.0]):
        key = f"k{n}"
        await store.accept(
            record(f"c{n}", session_id=f"s{n % 2}", idempotency_key=key, accepted_at=at)
        )
    await store.start("c2", "boot", 1, now=1004.0)
    await store.settle("c1", ANSWER, now=1004.0)
    await store.accept(record("c4", state=CallState.RUNNING, owner="boot", attempt=1))
    await store.end_session("s0")
    left = [(known.call_id, known.state, known.owner) for known in await store.unsettled()]
    assert left == [
        ("c0", CallState.ACCEPTED, ""),
        ("c2", CallState.RUNNING, "boot"),
        ("c3", CallState.ACCEPTED, ""),
        ("c4", CallState.RUNNING, "boot"),
    ]


async def test_what_has_not_settled_is_listed_whole(store: CallStore) -> None:
    waiting = record("c1", request=b"{}", idempotent=True, idempotency_key="k", follows="c0")
    await store.accept(waiting)
    await store.accept(record("c2", request=b"[]"))
    await store.start("c2", "boot", 1, now=1001.0)
    running = msgspec.structs.replace(
        record("c2"), state=CallState.RUNNING, owner="boot", attempt=1, started_at=1001.0
    )
    assert await store.unsettled() == [waiting, running]
    for call_id in ("c1", "c2"):
        await store.settle(call_id, ANSWER, now=1002.0)
    assert await store.unsettled() == []
    await store.acknowledge("s1", ["r-c1", "r-c2"], AMPLE, now=1003.0)
    assert await store.unsettled() == []


async def test_a_request_is_known_from_its_acceptance_until_it_is_forgotten(
    store: CallStore,
) -> None:
    assert not await store.knows("s1", "r-c1")
    await store.accept(record())
    assert await store.knows("s1", "r-c1")
    assert not await store.knows("s2", "r-c1")
    assert not await store.knows("s1", "r-c2")
    await store.settle("c1", ANSWER, now=1000.0)
    await store.acknowledge("s1", ["r-c1"], AMPLE, now=1001.0)
    assert await store.knows("s1", "r-c1")
    await store.expire(1001.0 + RESULT_TTL_S, RESULT_TTL_S, KEY_TTL_S)
    assert not await store.knows("s1", "r-c1")


async def test_a_tombstone_that_is_trimmed_is_not_known(store: CallStore) -> None:
    for n in range(3):
        await store.accept(record(f"c{n}"))
        await store.settle(f"c{n}", ANSWER, now=1000.0)
    await store.acknowledge("s1", [f"r-c{n}" for n in range(3)], AMPLE, now=1001.0)
    await store.mark_sent("s1", [], SessionBounds(9, 10**6, max_tombstones=1), now=1002.0)
    assert [await store.knows("s1", f"r-c{n}") for n in range(3)] == [False, False, True]


async def test_a_key_that_expires_takes_its_request_with_it(store: CallStore) -> None:
    await store.accept(record(idempotency_key="k"))
    await store.settle("c1", ANSWER, now=1000.0)
    await store.expire(1000.0 + KEY_TTL_S, RESULT_TTL_S, KEY_TTL_S)
    assert not await store.knows("s1", "r-c1")


async def test_no_request_of_an_ended_session_is_known(store: CallStore) -> None:
    await store.accept(record())
    await store.accept(record("c2", idempotency_key="k"))
    await store.end_session("s1")
    assert [await store.knows("s1", f"r-c{n}") for n in (1, 2)] == [False, False]
    await store.accept(record())
    assert [await store.knows("s1", f"r-c{n}") for n in (1, 2)] == [True, False]


async def test_what_is_stored_while_its_session_ends_is_known(store: CallStore) -> None:
    await store.accept(record("c0"))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(store.end_session("s1"))
        tasks.create_task(store.knows("s1", "r-c9"))
        tasks.create_task(store.accept(record()))
    assert await store.knows("s1", "r-c1")
    assert await store.find("s1", "r-c1") == record()


async def test_what_is_stored_anew_while_it_is_forgotten_is_known(store: CallStore) -> None:
    await store.accept(record())
    await store.settle("c1", ANSWER, now=1000.0)
    await store.acknowledge("s1", ["r-c1"], AMPLE, now=1001.0)
    await store.knows("s1", "r-c1")
    anew = record("c2", request_id="r-c1")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(store.mark_sent("s1", [], SessionBounds(9, 10**6, 0), now=1002.0))
        tasks.create_task(store.accept(anew))
    assert await store.find("s1", "r-c1") == anew


async def test_a_principals_results_count_over_all_its_sessions(store: CallStore) -> None:
    for n, session in enumerate(("s1", "s2", "s3")):
        await store.accept(record(f"c{n}", session_id=session, idempotency_key=f"k{n}"))
        await store.settle(f"c{n}", ANSWER, now=1000.0)
    await store.accept(record("c9", session_id="s1", principal="bob"))
    one = (await store.usage("s1")).result_bytes
    assert await store.principal_result_bytes("alice") == 3 * one
    await store.end_session("s1")
    assert await store.principal_result_bytes("alice") == 3 * one, "its key keeps it"
    await store.acknowledge("s2", ["r-c1"], AMPLE, now=1001.0)
    assert await store.principal_result_bytes("alice") == 2 * one
    await store.expire(1e9, 1.0, 1.0)
    assert await store.principal_result_bytes("alice") == 0
    assert await store.principal_result_bytes("bob") == 0


async def found(store: CallStore, name: str, principal: str = "alice") -> list[str]:
    """Return the ids of a principal's calls of this name."""
    return [known.call_id for known in (await store.find_all(principal, name, 9)).records]
