"""The index holds what is known of calls, no more, and is the same however it came by it."""

import pickle
import random

import msgspec
import pytest

from exai.core.call_store import CallRecord, CallState, SessionBounds, summary_of
from exai.stores.by_time import ByTime
from exai.stores.call_index import CallIndex, StoredCall
from tests.contracts.test_call_store import ANSWER, record
from tests.contracts.twins import AMPLE

SUMMARY = summary_of(ANSWER)


def accepted(*records: CallRecord) -> CallIndex:
    index = CallIndex()
    for each in records:
        assert index.accept(each) is None
    return index


def test_an_index_that_forgot_all_is_as_good_as_new() -> None:
    """Else a daemon would grow with every session and principal that ever was."""
    index = accepted(
        record("c1"),
        record("c2", idempotency_key="k2"),
        record("c3", session_id="s2", idempotency_key="k3"),
        record("c4", session_id="s3"),
        record("c5", session_id="s4", principal="bob"),
    )
    for n in range(1, 5):
        index.settle(f"c{n}", SUMMARY, 10, now=1000.0)
    index.mark_sent("s1", ["r-c1", "r-c2"], AMPLE, now=1001.0)
    index.acknowledge("s1", ["r-c1"], AMPLE, now=1001.0)
    index.end_session("s1", most=10)
    index.withdraw("c5")
    for now in (2000.0, 9000.0):
        index.expire(now, 600.0, 600.0)
    assert len(index) == 0
    assert pickle.dumps(index) == pickle.dumps(CallIndex())


def test_a_session_ends_in_turns_of_as_many_as_are_wanted() -> None:
    index = accepted(*(record(f"c{n}", idempotency_key=f"k{n % 2 or n}") for n in (2, 3, 4)))
    assert [len(index.end_session("s1", most=2)) for _ in range(3)] == [2, 1, 0]
    assert index.key_count("alice") == 3


def test_nothing_that_is_not_known_is_undone() -> None:
    index = accepted(record("c1"))
    before = pickle.dumps(index)
    index.undo_start(record("c2"), attempt=1)
    index.undo_start(record("c1"), attempt=1)
    index.undo_settle("c2")
    index.undo_settle("c1")
    index.withdraw("c2")
    assert pickle.dumps(index) == before


def test_a_start_is_undone_only_while_it_is_the_last() -> None:
    index = accepted(record("c1"))
    for attempt in (1, 2):
        index.start("c1", f"boot-{attempt}", attempt, now=1000.0)
    index.undo_start(record("c1"), attempt=1)
    known = index.get("c1")
    assert known is not None
    assert (known.state, known.owner, known.attempt) == (CallState.RUNNING, "boot-2", 2)


def test_a_result_that_was_sent_before_it_was_undone_makes_no_room_later() -> None:
    index = accepted(record("c1"), record("c2"))
    index.settle("c1", SUMMARY, 10, now=1000.0)
    index.mark_sent("s1", ["r-c1"], AMPLE, now=1001.0)
    index.undo_settle("c1")
    index.settle("c1", SUMMARY, 10, now=1002.0)
    assert len(index.mark_sent("s1", [], SessionBounds(0, 0, 0), now=1003.0)) == 0
    known = index.get("c1")
    assert known is not None
    assert known.sent_at is None


def test_calls_are_loaded_in_the_order_in_which_they_were_accepted_and_then_ranked() -> None:
    """Ranks decide what is trimmed first, times what expires first."""
    stored = [
        StoredCall(as_settled(f"c{n}", at), rank)
        for n, (at, rank) in enumerate([(1000.0, 3), (1002.0, 1), (1001.0, 2)])
    ]
    stored += [
        StoredCall(as_erased(f"d{n}", at), rank)
        for n, (at, rank) in enumerate([(1005.0, 6), (1005.0, 4), (1005.0, 5)])
    ]
    index = CallIndex()
    assert len(index.load(stored)) == 0
    assert [each.request_id for each in index.owed("s1")] == ["r-c0", "r-c1", "r-c2"]
    assert index.result_bytes == index.usage("s1").result_bytes == 30
    assert index.mark_sent("s1", [], SessionBounds(9, 99, 1), now=1.0).forgotten == ["d1", "d2"]
    erased = index.expire(1602.0, 600.0, 600.0).erased
    assert [each.call_id for each in erased] == ["c0", "c2", "c1"]


def test_of_two_stored_calls_with_one_name_the_later_is_loaded() -> None:
    stored = [
        StoredCall(as_settled("c1", 1000.0, request_id="r"), 1),
        StoredCall(as_settled("c2", 1000.0, request_id="r", idempotency_key="k"), 2),
        StoredCall(record("c3", request_id="r"), 0),
        StoredCall(record("c4", session_id="s2", idempotency_key="k"), 0),
    ]
    index = CallIndex()
    changes = index.load(stored)
    assert (changes.forgotten, changes.left, changes.erased) == (["c1", "c2"], ["c2"], [])
    assert [each.call_id for each in index.unsettled()] == ["c3", "c4"]
    assert index.result_bytes == 0
    assert index.key_count("alice") == 1


def as_settled(call_id: str, at: float, **changes: object) -> CallRecord:
    done = {
        "state": CallState.SETTLED,
        "settled_at": at,
        "summary": SUMMARY,
        "result_bytes": 10,
    }
    return record(call_id, **done, **changes)


def as_erased(call_id: str, at: float) -> CallRecord:
    gone = {"state": CallState.ERASED, "erased_at": at, "erased_because": "expired"}
    return msgspec.structs.replace(as_settled(call_id, 1000.0), **gone)


@pytest.mark.parametrize("seed", range(20))
def test_ids_by_time_are_as_a_list_that_is_sorted(seed: int) -> None:
    chance, by_time = random.Random(seed), ByTime()
    kept: list[tuple[str, float]] = []
    now = 0.0
    for n in range(200):
        now += chance.choice([0.0, 0.0, 1.0, 1.0, 1.0, -3.0])
        by_time.add(f"c{n}", now)
        kept.append((f"c{n}", now))
        if chance.random() < 0.3:
            gone = f"c{chance.randint(0, n)}"
            by_time.discard(gone)
            kept = [each for each in kept if each[0] != gone]
        horizon = now - chance.choice([-5.0, 0.0, 2.0, 10.0])
        old = sorted((each for each in kept if each[1] <= horizon), key=lambda each: each[1])
        assert by_time.until(horizon) == [name for name, _ in old]
        assert all((f"c{m}" in by_time) == any(f"c{m}" == name for name, _ in kept) for m in (0, n))
