"""What every ledger's record says of a call: its request, its run, and what stays of both."""

from typing import Any

import pytest

from exai.core.call_store import CallRecord, CallState, CallStore, Settlement, Summary
from exai.core.errors import ToolFailed
from exai.core.outcomes import Completed, ExecutionFacts, Failed, Outcome, text_block
from tests.contracts.test_call_store import ANSWER, record, store
from tests.contracts.twins import AMPLE

__all__ = ["store"]  # a fixture
REQUEST = b'{"name":"echo","arguments":{"text":"swordfish"}}'
FACTS = ExecutionFacts(attempts=3, provider="openai", model="gpt-9")


async def test_a_call_may_be_accepted_as_running_at_once(store: CallStore) -> None:
    running = record(
        state=CallState.RUNNING,
        owner="boot-1",
        attempt=1,
        started_at=1000.0,
        idempotent=True,
        request=REQUEST,
        follows="c0",
    )
    assert await store.accept(running) is None
    assert await store.find("s1", "r-c1") == running
    assert await store.owed("s1") == ["r-c1"]
    assert not await store.start("c1", "boot-2", attempt=1, now=1001.0)
    assert await found(store) == running
    assert await store.settle("c1", ANSWER, now=1002.0)
    assert (await found(store)).state is CallState.SETTLED


async def test_a_call_accepted_as_running_may_be_started_again(store: CallStore) -> None:
    await store.accept(
        record(state=CallState.RUNNING, owner="boot-1", attempt=1, started_at=1000.0)
    )
    assert await store.start("c1", "boot-2", attempt=2, now=1003.0)
    known = await found(store)
    assert (known.state, known.owner, known.attempt) == (CallState.RUNNING, "boot-2", 2)
    assert known.started_at == 1003.0


async def test_a_call_that_may_run_only_once_loses_its_request_as_it_starts(
    store: CallStore,
) -> None:
    await store.accept(record(request=REQUEST))
    assert (await found(store)).request == REQUEST
    await store.start("c1", "boot-1", attempt=1, now=1001.0)
    assert (await found(store)).request is None


async def test_an_idempotent_call_keeps_its_request_for_one_more_attempt(
    store: CallStore,
) -> None:
    await store.accept(record(request=REQUEST, idempotent=True))
    await store.start("c1", "boot-1", attempt=1, now=1001.0)
    assert (await found(store)).request == REQUEST
    assert not await store.start("c1", "boot-2", attempt=1, now=1002.0)
    assert (await found(store)).request == REQUEST
    await store.start("c1", "boot-2", attempt=2, now=1002.0)
    assert (await found(store)).request is None


async def test_an_idempotent_call_accepted_as_running_loses_its_request_as_it_starts_again(
    store: CallStore,
) -> None:
    changes: dict[str, Any] = {"state": CallState.RUNNING, "attempt": 1, "idempotent": True}
    await store.accept(record(request=REQUEST, **changes))
    assert (await found(store)).request == REQUEST
    await store.start("c1", "boot-2", attempt=2, now=1002.0)
    assert (await found(store)).request is None


@pytest.mark.parametrize("attempts", [0, 1])
@pytest.mark.parametrize("is_idempotent", [False, True])
async def test_no_settled_call_has_a_request(
    store: CallStore, attempts: int, is_idempotent: bool
) -> None:
    await store.accept(record(request=REQUEST, idempotent=is_idempotent, idempotency_key="k"))
    for attempt in range(1, attempts + 1):
        await store.start("c1", "boot-1", attempt, now=1001.0)
    await store.settle("c1", ANSWER, now=1002.0)
    assert (await found(store)).request is None
    by_key = await store.find_by_key("alice", "k")
    assert by_key is not None
    assert by_key.request is None
    by_id = await store.find_call("c1")
    assert by_id is not None
    assert by_id.request is None


async def test_a_call_remembers_the_call_that_it_follows(store: CallStore) -> None:
    await store.accept(record("c1", idempotency_key="k"))
    await store.accept(record("c2", follows="c1"))
    await store.settle("c2", ANSWER, now=1001.0)
    await store.acknowledge("s1", ["r-c2"], AMPLE, now=1002.0)
    follower = await found(store, "c2")
    assert (follower.follows, follower.state) == ("c1", CallState.ERASED)
    assert (await found(store, "c1")).follows is None


async def test_when_a_call_started_is_when_its_last_attempt_did_and_stays_known(
    store: CallStore,
) -> None:
    await store.accept(record())
    assert (await found(store)).started_at is None
    await store.start("c1", "boot-1", attempt=1, now=1001.5)
    assert (await found(store)).started_at == 1001.5
    await store.start("c1", "boot-2", attempt=1, now=1002.0)
    assert (await found(store)).started_at == 1001.5, "that was no attempt"
    await store.start("c1", "boot-2", attempt=2, now=1003.5)
    await store.settle("c1", ANSWER, now=1004.0)
    await store.start("c1", "boot-2", attempt=3, now=1005.0)
    await store.acknowledge("s1", ["r-c1"], AMPLE, now=1006.0)
    assert (await found(store)).started_at == 1003.5


@pytest.mark.parametrize(
    ("outcome", "how", "summary"),
    [
        (Completed([text_block("yes")]), {}, Summary("ok", 0.25, 1.5)),
        (
            Completed([text_block("yes")], facts=FACTS),
            {},
            Summary("ok", 0.25, 1.5, attempts=3, provider="openai", model="gpt-9"),
        ),
        (
            Failed(ToolFailed("no").describe(), facts=FACTS),
            {},
            Summary(
                ToolFailed.code.value,
                0.25,
                1.5,
                attempts=3,
                provider="openai",
                model="gpt-9",
            ),
        ),
        (Completed([]), {"cached": True}, Summary("ok", 0.25, 1.5, cached=True)),
        (Completed([]), {"joined": True}, Summary("ok", 0.25, 1.5, joined=True)),
    ],
    ids=["success", "a model's success", "failure", "cached", "joined"],
)
async def test_a_summary_outlives_what_it_sums_up(
    store: CallStore, outcome: Outcome, how: dict[str, bool], summary: Summary
) -> None:
    await store.accept(record())
    assert (await found(store)).summary is None
    settlement = Settlement(outcome, 0.25, 1.5, **how)
    await store.settle("c1", settlement, now=1001.0)
    known = await found(store)
    assert (known.settlement, known.summary) == (settlement, summary)
    await store.acknowledge("s1", ["r-c1"], AMPLE, now=1002.0)
    known = await found(store)
    assert (known.settlement, known.summary) == (None, summary)
    assert summary.succeeded is isinstance(outcome, Completed)


async def test_a_second_settlement_leaves_the_summary(store: CallStore) -> None:
    await store.accept(record())
    await store.settle("c1", ANSWER, now=1001.0)
    await store.settle("c1", Settlement(Failed(ToolFailed("no").describe()), 9.0, 9.0), now=1002.0)
    assert (await found(store)).summary == Summary("ok", 0.25, 1.5)


async def test_a_result_is_first_sent_once(store: CallStore) -> None:
    await store.accept(record())
    await store.mark_sent("s1", ["r-c1"], AMPLE, now=1000.5)
    assert (await found(store)).sent_at is None, "there was nothing to send yet"
    await store.settle("c1", ANSWER, now=1001.0)
    await store.mark_sent("s2", ["r-c1"], AMPLE, now=1001.5)
    assert (await found(store)).sent_at is None, "that was another session"
    await store.mark_sent("s1", ["r-c1"], AMPLE, now=1002.0)
    await store.mark_sent("s1", ["r-c1", "r-c1"], AMPLE, now=1003.0)
    assert (await found(store)).sent_at == 1002.0
    await store.forget_sent("s1")
    assert (await found(store)).sent_at == 1002.0
    await store.mark_sent("s1", ["r-c1"], AMPLE, now=1004.0)
    await store.acknowledge("s1", ["r-c1"], AMPLE, now=1005.0)
    await store.mark_sent("s1", ["r-c1"], AMPLE, now=1006.0)
    assert (await found(store)).sent_at == 1002.0


async def found(store: CallStore, call_id: str = "c1") -> CallRecord:
    known = await store.find("s1", f"r-{call_id}")
    assert known is not None
    return known
