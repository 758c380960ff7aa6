"""What cannot be stored is taken back or is due, and a ledger knows what its database knows."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec
import pytest

from exai.core.call_store import CallRecord, CallState, CallStore, FoundCalls, SessionBounds
from exai.core.errors import ServiceUnavailable
from exai.stores.sqlite_database import SqliteDatabase
from exai.stores.sqlite_file import open_database
from exai.stores.sqlite_store import SqliteCallStore
from tests.contracts.test_call_store import ANSWER, OTHER_ANSWER, record
from tests.contracts.twins import AMPLE
from tests.stores.ailing import (
    ACCEPT,
    AILMENTS,
    ANY,
    ERASE,
    FORGET,
    LEAVE,
    SETTLE,
    START,
    held_up,
    is_as_stored,
    opened_anew,
    refusing,
)

Ailing = Callable[[SqliteDatabase], AbstractAsyncContextManager[None]]
MANY = 2500
SIZE_BYTES = len(msgspec.json.encode(ANSWER))


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    async with SqliteDatabase(lambda: open_database(tmp_path)) as opened:
        yield opened


@pytest.fixture
async def store(database: SqliteDatabase) -> SqliteCallStore:
    return await opened_anew(database)


@pytest.fixture(params=list(AILMENTS.values()), ids=list(AILMENTS))
def ailing(request: pytest.FixtureRequest) -> Ailing:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
async def narrow_database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    """A database that is overloaded as soon as anything waits."""
    async with SqliteDatabase(lambda: open_database(tmp_path), max_waiting=1) as opened:
        yield opened


def call(n: int, **changes: object) -> CallRecord:
    return record(f"c{n}", **{"request_id": f"r{n}", "principal": "ann", **changes})


async def settled(store: CallStore, *records: CallRecord) -> None:
    for each in records:
        await store.accept(each)
        await store.settle(each.call_id, ANSWER, now=1000.0)


async def kept(database: SqliteDatabase) -> list[str]:
    """Return the calls whose results are in the database, as they were accepted."""
    read = "SELECT call_id FROM calls WHERE settlement IS NOT NULL ORDER BY number"
    return await database.submit(
        lambda connection: [call_id for (call_id,) in connection.execute(read)]
    )


async def test_a_call_that_cannot_be_stored_is_not_accepted(
    narrow_database: SqliteDatabase, ailing: Ailing
) -> None:
    store = await opened_anew(narrow_database)
    async with ailing(narrow_database):
        with pytest.raises(ServiceUnavailable):
            await store.accept(call(1, idempotency_key="k1", request=b"{}"))
        assert not await store.knows("s1", "r1")
        assert await store.find("s1", "r1") is None
        assert await store.find_by_key("ann", "k1") is None
        assert await store.key_count("ann") == 0
        assert store.statistics().record_count == 0
    assert await store.owed("s1") == []
    assert await is_as_stored(store, narrow_database)
    other = call(2, request_id="r1", idempotency_key="k1")
    assert await store.accept(other) is None
    assert await store.find("s1", "r1") == await store.find_by_key("ann", "k1") == other
    assert await is_as_stored(store, narrow_database)


async def test_a_start_that_cannot_be_stored_may_be_made_again(
    narrow_database: SqliteDatabase, ailing: Ailing
) -> None:
    store = await opened_anew(narrow_database)
    accepted = call(1, request=b"{}", idempotent=True)
    await store.accept(accepted)
    async with ailing(narrow_database):
        with pytest.raises(ServiceUnavailable):
            await store.start("c1", "boot", 1, now=1001.0)
    assert await store.find("s1", "r1") == accepted
    assert await is_as_stored(store, narrow_database)
    assert await store.start("c1", "boot", 1, now=1002.0)
    running = await store.find("s1", "r1")
    assert running is not None
    assert (running.state, running.owner, running.attempt) == (CallState.RUNNING, "boot", 1)
    assert (running.started_at, running.request) == (1002.0, b"{}")
    async with ailing(narrow_database):
        with pytest.raises(ServiceUnavailable):
            await store.start("c1", "boot-2", 2, now=1003.0)
    assert await store.find("s1", "r1") == running
    assert await is_as_stored(store, narrow_database)


@pytest.mark.parametrize("has_run", [True, False])
@pytest.mark.parametrize("key", [None, "k1"])
async def test_an_outcome_that_cannot_be_stored_may_be_given_again(
    narrow_database: SqliteDatabase, ailing: Ailing, has_run: bool, key: str | None
) -> None:
    store = await opened_anew(narrow_database)
    await store.accept(call(1, idempotency_key=key, request=b"{}"))
    if has_run:
        await store.start("c1", "boot", 1, now=1000.5)
    before = await store.find("s1", "r1")
    async with ailing(narrow_database):
        with pytest.raises(ServiceUnavailable):
            await store.settle("c1", OTHER_ANSWER, now=1001.0)
        assert (await store.usage("s1")).result_count == 0
        assert store.statistics().result_bytes == 0
    assert await store.find("s1", "r1") == before
    assert await store.expire(1e9, 600.0, 600.0) == 0
    assert await store.acknowledge("s1", ["r1"], AMPLE, now=1001.0) == 0
    assert await is_as_stored(store, narrow_database)
    assert await store.settle("c1", ANSWER, now=1002.0)
    after = await store.find("s1", "r1")
    assert after is not None
    assert (after.settlement, after.settled_at) == (ANSWER, 1002.0)
    assert (await store.usage("s1")).result_bytes == SIZE_BYTES
    assert await is_as_stored(store, narrow_database)


async def test_a_start_that_fails_while_its_call_is_settled_leaves_it_settled(
    store: SqliteCallStore, database: SqliteDatabase
) -> None:
    await store.accept(call(1))
    async with refusing(database, START):
        start, settle = await together(
            database,
            store.start("c1", "boot", 1, now=1001.0),
            store.settle("c1", ANSWER, now=1002.0),
        )
    assert isinstance(start, ServiceUnavailable)
    assert settle is True
    known = await store.find("s1", "r1")
    assert known is not None
    assert (known.state, known.settlement, known.owner) == (CallState.SETTLED, ANSWER, "")
    assert not await store.settle("c1", OTHER_ANSWER, now=1003.0)
    assert await is_as_stored(store, database)


@pytest.mark.parametrize(
    ("refused", "state"), [([SETTLE], CallState.RUNNING), ([START, SETTLE], CallState.ACCEPTED)]
)
async def test_an_outcome_that_fails_after_a_start_leaves_what_was_stored(
    store: SqliteCallStore, database: SqliteDatabase, refused: list[str], state: CallState
) -> None:
    await store.accept(call(1))
    async with refusing(database, *refused):
        _, settle = await together(
            database,
            store.start("c1", "boot", 1, now=1001.0),
            store.settle("c1", ANSWER, now=1002.0),
        )
    assert isinstance(settle, ServiceUnavailable)
    known = await store.find("s1", "r1")
    assert known is not None
    assert known.state is state
    assert await is_as_stored(store, database)
    assert await store.settle("c1", ANSWER, now=1003.0)
    assert await is_as_stored(store, database)


async def test_nothing_happens_to_a_call_whose_acceptance_fails(
    store: SqliteCallStore, database: SqliteDatabase
) -> None:
    async with refusing(database, ACCEPT):
        accept, start, settle, found, all_found, erased = await together(
            database,
            store.accept(call(1, idempotency_key="k1")),
            store.start("c1", "boot", 1, now=1001.0),
            store.settle("c1", ANSWER, now=1002.0),
            store.find("s1", "r1"),
            store.find_all("ann", "r1", 1),
            store.acknowledge("s1", ["r1"], AMPLE, now=1003.0),
        )
    assert isinstance(accept, ServiceUnavailable)
    assert (start, settle, found, all_found) == (False, False, None, FoundCalls([], 0))
    assert erased == 1, "it was not known yet that there is none"
    assert store.statistics().record_count == store.statistics().result_bytes == 0
    assert await is_as_stored(store, database)


async def test_who_comes_second_is_accepted_where_the_first_could_not_be(
    store: SqliteCallStore, database: SqliteDatabase
) -> None:
    first, second = call(1, idempotency_key="k1"), call(2, idempotency_key="k1")
    async with refusing(database, f"{ACCEPT} WHEN NEW.call_id = 'c1'"):
        accept, again = await together(database, store.accept(first), store.accept(second))
    assert isinstance(accept, ServiceUnavailable)
    assert again is None
    assert await store.find_by_key("ann", "k1") == second
    assert await is_as_stored(store, database)


@pytest.mark.parametrize("key", [None, "k1"])
async def test_a_session_may_end_while_an_acceptance_fails(
    store: SqliteCallStore, database: SqliteDatabase, key: str | None
) -> None:
    async with refusing(database, ACCEPT):
        accept, ended = await together(
            database, store.accept(call(1, idempotency_key=key)), store.end_session("s1")
        )
    assert isinstance(accept, ServiceUnavailable)
    assert ended is None
    assert store.statistics().record_count == await store.key_count("ann") == 0
    assert await is_as_stored(store, database)


@pytest.mark.parametrize("key", [None, "k1"])
async def test_a_session_may_end_while_an_outcome_fails(
    store: SqliteCallStore, database: SqliteDatabase, key: str | None
) -> None:
    await store.accept(call(1, idempotency_key=key))
    async with refusing(database, SETTLE):
        settle, _ = await together(
            database, store.settle("c1", ANSWER, now=1001.0), store.end_session("s1")
        )
    assert isinstance(settle, ServiceUnavailable)
    assert store.statistics().result_bytes == 0
    assert await store.trim_keyed("ann", 0, now=1002.0) == 0
    assert await is_as_stored(store, database)
    assert await store.settle("c1", ANSWER, now=1003.0) is (key is not None)
    assert await store.trim_keyed("ann", 0, now=1004.0) == (key is not None)
    assert await is_as_stored(store, database)


@pytest.mark.parametrize("key", [None, "k1"])
async def test_a_result_that_is_erased_while_it_cannot_be_stored_is_erased(
    store: SqliteCallStore, database: SqliteDatabase, key: str | None
) -> None:
    await store.accept(call(1, idempotency_key=key))
    async with refusing(database, SETTLE):
        settle, erased = await together(
            database,
            store.settle("c1", ANSWER, now=1001.0),
            store.acknowledge("s1", ["r1"], AMPLE, now=1002.0),
        )
    assert isinstance(settle, ServiceUnavailable)
    assert erased == 1
    assert not await store.settle("c1", ANSWER, now=1003.0)
    assert await is_as_stored(store, database)
    anew = await opened_anew(database)
    for each in (store, anew):
        known = await each.find("s1", "r1")
        assert known is not None
        assert (known.state, known.settled_at) == (CallState.ERASED, 1001.0)
        assert known.summary is not None
    await anew.expire(1e9, 600.0, 600.0)
    assert anew.statistics().record_count == 0


async def test_who_asks_while_an_outcome_fails_is_told_what_is_stored(
    store: SqliteCallStore, database: SqliteDatabase
) -> None:
    running = call(1, state=CallState.RUNNING, owner="boot", attempt=1, idempotency_key="k1")
    await store.accept(running)
    async with refusing(database, SETTLE):
        _, found, by_key, all_found = await together(
            database,
            store.settle("c1", ANSWER, now=1001.0),
            store.find("s1", "r1"),
            store.find_by_key("ann", "k1"),
            store.find_all("ann", "r1", 1),
        )
    assert (found, by_key, all_found) == (running, running, FoundCalls([running], 0))


async def end(store: CallStore) -> int:
    await store.end_session("s1")
    return 0


ERASURES: dict[str, Callable[[CallStore], Awaitable[int]]] = {
    "acknowledge": lambda store: store.acknowledge("s1", ["r1", "r2"], AMPLE, now=1001.0),
    "trim": lambda store: store.mark_sent(
        "s1", ["r1", "r2", "r3"], SessionBounds(1, 10**6, 0), now=1001.0
    ),
    "trim_keyed": lambda store: store.trim_keyed("ann", SIZE_BYTES, now=1001.0),
    "expire": lambda store: store.expire(2000.0, 600.0, 900.0),
    "end_session": end,
}


@pytest.mark.parametrize("erase", list(ERASURES.values()), ids=list(ERASURES))
async def test_what_cannot_be_erased_is_forgotten_at_once_and_erased_as_soon_as_it_can(
    narrow_database: SqliteDatabase,
    ailing: Ailing,
    erase: Callable[[CallStore], Awaitable[int]],
) -> None:
    store = await opened_anew(narrow_database)
    await settled(store, *(call(n, session_id="s0", idempotency_key=f"k{n}") for n in (4, 5, 6)))
    await store.end_session("s0")
    await settled(store, call(1), call(2, idempotency_key="k2"), call(3))
    before = store.statistics(), await kept(narrow_database)
    async with ailing(narrow_database):
        with pytest.raises(ServiceUnavailable):
            await erase(store)
        after = store.statistics()
    assert after.result_bytes < before[0].result_bytes
    assert await kept(narrow_database) == before[1]
    assert (await opened_anew(narrow_database)).statistics() == before[0]
    for n in range(1, 7):
        for named in (await store.find_all("ann", f"r{n}", 9)).records:
            known = await store.find_call(named.call_id)
            assert known is not None
            assert (known.settlement is None) == (known.state is CallState.ERASED)
    assert await is_as_stored(store, narrow_database)
    assert store.statistics() == after
    assert len(await kept(narrow_database)) * SIZE_BYTES == after.result_bytes
    await erase(store)
    assert await is_as_stored(store, narrow_database)


@pytest.mark.parametrize("erase", list(ERASURES.values()), ids=list(ERASURES))
async def test_what_was_due_when_the_process_ended_is_there_again_and_can_be_erased_again(
    store: SqliteCallStore,
    database: SqliteDatabase,
    erase: Callable[[CallStore], Awaitable[int]],
) -> None:
    await settled(store, *(call(n, session_id="s0", idempotency_key=f"k{n}") for n in (4, 5)))
    await store.end_session("s0")
    await settled(store, call(1), call(2, idempotency_key="k2"), call(3))
    async with refusing(database, *ANY):
        with pytest.raises(ServiceUnavailable):
            await erase(store)
    expected = store.statistics()
    anew = await opened_anew(database)
    assert anew.statistics().record_count == 5
    await erase(anew)
    assert anew.statistics() == expected
    assert await is_as_stored(anew, database)


async def test_the_request_of_what_could_not_be_forgotten_is_not_lost_to_it(
    store: SqliteCallStore, database: SqliteDatabase
) -> None:
    """A name that was given anew stands for the later call, and all can be forgotten."""
    old = [call(1), call(2, idempotency_key="k2"), call(3, idempotency_key="k3")]
    await settled(store, *old)
    async with refusing(database, *ANY):
        with pytest.raises(ServiceUnavailable):
            await store.acknowledge("s1", ["r1", "r2"], SessionBounds(9, 10**6, 0), now=1001.0)
        with pytest.raises(ServiceUnavailable):
            await store.expire(2000.0, 600.0, 900.0)
    new = [call(n, request_id=f"r{n - 10}", idempotency_key=f"k{n - 10}") for n in (11, 12)]
    new.append(call(13, session_id="s2", idempotency_key="k3"))
    for each in new:
        assert await store.accept(each) is None
    anew = await opened_anew(database)
    assert [await anew.find(each.session_id, each.request_id) for each in new] == new
    assert [await anew.find_by_key("ann", f"k{n}") for n in (1, 2, 3)] == new
    assert await anew.key_count("ann") == anew.statistics().record_count == 3
    assert anew.statistics().result_bytes == 0
    assert await is_as_stored(anew, database)
    for each in new:
        await anew.settle(each.call_id, ANSWER, now=3000.0)
    assert await anew.expire(1e9, 600.0, 900.0) == 3
    await anew.expire(2e9, 600.0, 900.0)
    assert anew.statistics().record_count == 0
    assert await is_as_stored(anew, database)


async def test_a_key_whose_session_could_not_be_left_stays_where_its_request_is_made_anew(
    store: SqliteCallStore, database: SqliteDatabase
) -> None:
    await settled(store, call(1, idempotency_key="k1"))
    async with refusing(database, LEAVE):
        with pytest.raises(ServiceUnavailable):
            await store.end_session("s1")
    again = call(2, request_id="r1")
    assert await store.accept(again) is None
    anew = await opened_anew(database)
    assert await anew.find("s1", "r1") == again
    by_key = await anew.find_by_key("ann", "k1")
    assert by_key is not None
    assert by_key.settlement == ANSWER
    assert await anew.trim_keyed("ann", 0, now=1001.0) == 1
    assert await is_as_stored(anew, database)


async def test_a_session_left_late_counts_its_results_after_those_that_left_before(
    store: SqliteCallStore, database: SqliteDatabase
) -> None:
    await store.accept(call(1, session_id="s1", idempotency_key="k1"))
    async with refusing(database, LEAVE):
        with pytest.raises(ServiceUnavailable):
            await store.end_session("s1")
        await settled(store, call(2, session_id="s2", idempotency_key="k2"))
        with pytest.raises(ServiceUnavailable):
            await store.end_session("s2")
        await store.settle("c1", ANSWER, now=1001.0)
    await store.mark_sent("s1", [], AMPLE, now=1002.0)
    assert await (await opened_anew(database)).trim_keyed("ann", SIZE_BYTES, now=1003.0) == 1
    erased = await (await opened_anew(database)).find_by_key("ann", "k2")
    assert erased is not None
    assert erased.state is CallState.ERASED


@pytest.mark.parametrize("event", [ERASE, FORGET], ids=["erasing", "forgetting"])
async def test_nothing_of_very_much_is_lost_where_its_beginning_cannot_be_stored(
    store: SqliteCallStore, database: SqliteDatabase, event: str
) -> None:
    await asyncio.gather(*(settled(store, call(n)) for n in range(MANY)))
    async with refusing(database, event):
        if event == FORGET:
            await store.expire(2000.0, 600.0, 600.0)
        with pytest.raises(ServiceUnavailable):
            await store.expire(3000.0, 600.0, 600.0)
    assert store.statistics().record_count == (0 if event == FORGET else MANY)
    assert await is_as_stored(store, database)
    assert await kept(database) == []


async def test_all_of_a_session_is_forgotten_where_nothing_can_be_stored(
    store: SqliteCallStore, database: SqliteDatabase
) -> None:
    await asyncio.gather(*(store.accept(call(n)) for n in range(MANY)))
    async with refusing(database, *ANY):
        with pytest.raises(ServiceUnavailable):
            await store.end_session("s1")
    assert store.statistics().record_count == 0
    assert await is_as_stored(store, database)


async def test_who_is_told_that_a_result_is_erased_is_told_once_that_is_stored(
    store: SqliteCallStore, database: SqliteDatabase
) -> None:
    """Else a process that is killed then would have the result again."""
    await settled(store, call(1))
    async with held_up(database):
        erasing = asyncio.ensure_future(store.acknowledge("s1", ["r1"], AMPLE, now=1001.0))
        asking = asyncio.ensure_future(store.find("s1", "r1"))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not asking.done()
    known = await asking
    assert known is not None
    assert known.state is CallState.ERASED
    assert await erasing == 1
    assert await kept(database) == []


async def test_what_is_erased_and_forgotten_in_one_step_is_stored_in_one_step(
    store: SqliteCallStore, database: SqliteDatabase
) -> None:
    await settled(store, call(1), call(2))
    await store.acknowledge("s1", ["r1"], AMPLE, now=1001.0)
    commits: list[str] = []
    await database.submit(lambda connection: connection.set_trace_callback(commits.append))
    await store.acknowledge("s1", ["r2"], SessionBounds(9, 10**6, 1), now=1002.0)
    await database.submit(lambda connection: connection.set_trace_callback(None))
    first = commits[: commits.index("COMMIT", 1 + commits.index("COMMIT"))]
    assert any("UPDATE" in each for each in first)
    assert any("DELETE" in each for each in first)


CHANGES: dict[str, Callable[[CallStore], Awaitable[object]]] = {
    "accept": lambda store: store.accept(call(9, idempotency_key="k3")),
    "start": lambda store: store.start("c2", "boot", 1, now=1001.0),
    "settle": lambda store: store.settle("c2", ANSWER, now=1001.0),
    **ERASURES,
}


@pytest.mark.parametrize("fails", [False, True], ids=["it can be stored", "it cannot"])
@pytest.mark.parametrize("change", list(CHANGES.values()), ids=list(CHANGES))
async def test_a_change_whose_caller_is_gone_is_stored_or_taken_back_all_the_same(
    store: SqliteCallStore,
    database: SqliteDatabase,
    change: Callable[[CallStore], Awaitable[object]],
    fails: bool,
) -> None:
    for n in (0, 1):
        await settled(store, call(5 + n, session_id="s0", idempotency_key=f"k{n}"))
    await store.end_session("s0")
    await settled(store, call(3), call(1))
    await store.accept(call(2, idempotency_key="k2"))
    count = store.statistics().record_count
    async with refusing(database, *ANY if fails else ()):
        async with held_up(database):
            changing = asyncio.ensure_future(change(store))
            await asyncio.sleep(0)
            changing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await changing
    assert await is_as_stored(store, database)
    if change in (CHANGES["accept"], CHANGES["start"], CHANGES["settle"]):
        assert store.statistics().record_count == count + (
            change is CHANGES["accept"] and not fails
        )
        is_done = (await again(change, store)) in (False, "known")
        assert is_done is not fails
    assert await is_as_stored(store, database)


async def again(change: Callable[[CallStore], Awaitable[object]], store: CallStore) -> object:
    answer = await change(store)
    return "known" if isinstance(answer, CallRecord) else answer


async def test_nothing_of_very_much_is_lost_where_its_caller_is_gone(
    store: SqliteCallStore, database: SqliteDatabase
) -> None:
    await asyncio.gather(*(settled(store, call(n)) for n in range(MANY)))
    async with held_up(database):
        expiring = asyncio.ensure_future(store.expire(2000.0, 600.0, 600.0))
        await asyncio.sleep(0)
        expiring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await expiring
    assert store.statistics().result_bytes == 0
    assert await is_as_stored(store, database)
    assert await kept(database) == []


async def together(database: SqliteDatabase, *asked: Awaitable[object]) -> list[object]:
    """Ask all before any is told of its answer."""
    async with held_up(database):
        tasks = [asyncio.ensure_future(each) for each in asked]
        await asyncio.sleep(0)
    return list(await asyncio.gather(*tasks, return_exceptions=True))
