"""Whatever fails, a ledger knows what its database knows, and no caller is told otherwise."""

import asyncio
import random
import sqlite3
from collections.abc import Awaitable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest

from exai.core.call_store import CallStore
from exai.core.errors import ServiceUnavailable
from exai.stores.memory_store import MemoryCallStore
from exai.stores.sqlite_database import SqliteDatabase
from exai.stores.sqlite_file import FILE_NAME, open_database
from exai.stores.sqlite_store import SqliteCallStore
from tests.contracts.test_twins_agree import Calls, Step, agree, all_of_calls, forget_all_sent
from tests.contracts.twins import AMPLE
from tests.stores.ailing import AILMENTS, ANY, is_as_stored, opened_anew, refuse, refuse_no_more

STEPS_UNTIL_ALL_IS_COMPARED = 30
STEPS_UNTIL_IT_IS_REOPENED = 150
REOPENINGS = 6
FAILING = 0.1
TAKEN_BACK = {"accept", "start", "settle"}
DONE_ALL_THE_SAME = {"acknowledge", "mark_sent", "trim_keyed", "expire", "end_session"}


@pytest.mark.parametrize("seed", range(6))
async def test_what_fails_is_as_if_it_was_never_asked_or_is_done_later(
    tmp_path: Path, seed: int
) -> None:
    """By the memory twin, which is asked only what could be stored."""
    chance, memory = random.Random(seed), MemoryCallStore()
    calls = Calls(chance)
    for _ in range(REOPENINGS):
        async with SqliteDatabase(lambda: open_database(tmp_path), max_waiting=1) as database:
            store = await opened_anew(database)
            for n in range(STEPS_UNTIL_IT_IS_REOPENED):
                await take(calls.next_step(), memory, store, database, chance)
                if n % STEPS_UNTIL_ALL_IS_COMPARED == 0:
                    assert agree(await all_of_calls(memory), await all_of_calls(store))
                    assert await is_as_stored(store, database)
            await carry_out_what_is_due(store)
        await forget_all_sent(memory)


async def take(
    step: Step,
    memory: CallStore,
    store: SqliteCallStore,
    database: SqliteDatabase,
    chance: random.Random,
) -> None:
    """Let a step happen to both, or fail."""
    if chance.random() > FAILING:
        assert agree(await step(memory), await step(store))
        return
    name, ailing = await name_of(step), chance.choice(list(AILMENTS.values()))
    async with ailing(database):
        (answer,) = await asyncio.gather(step(store), return_exceptions=True)
    if isinstance(answer, ServiceUnavailable):
        if name in DONE_ALL_THE_SAME:
            await step(memory)
        return
    assert agree(await step(memory), answer)


async def name_of(step: Step) -> str:
    """Return which method a step calls."""
    asked = AsyncMock()
    await step(asked)
    (((name, *_),),) = [asked.method_calls]
    return str(name)


class CallsOfOneBoot(Calls):
    """No call is started twice at once: an attempt is made by the process that has none."""

    def _start(self) -> Step:
        call_id, now = self._call(), self._now
        return lambda store: store.start(call_id, "boot", 1, now)


@pytest.mark.parametrize("most_at_once", [3, 30], ids="{} at once".format)
@pytest.mark.parametrize("seed", range(4))
async def test_a_ledger_knows_what_is_stored_whoever_waits_and_whatever_fails(
    tmp_path: Path, seed: int, most_at_once: int
) -> None:
    """Also what is yet to come happens to it as to one that was opened on a copy."""
    chance = random.Random(seed)
    calls = CallsOfOneBoot(chance, is_waited_for=False)
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    async with SqliteDatabase(lambda: open_database(here)) as database:
        store = await opened_anew(database)
        for round_number in range(8):
            for _ in range(15):
                await at_once(calls, store, database, chance, most_at_once)
                assert await is_as_stored(store, database)
            await forget_all_sent(store)
            copy_of = there / str(round_number)
            await database.submit(partial(copy, copy_of))
            async with SqliteDatabase(partial(open_database, copy_of)) as copied:
                twin = await opened_anew(copied)
                for _ in range(100):
                    step = calls.next_step()
                    assert agree(await step(store), await step(twin))


async def at_once(
    calls: Calls,
    store: SqliteCallStore,
    database: SqliteDatabase,
    chance: random.Random,
    count: int,
) -> None:
    """Ask much without waiting; some of it fails, some callers go away."""
    asked: list[asyncio.Future[Any]] = []
    for _ in range(count):
        is_failing = chance.random() < FAILING
        if is_failing:
            asked.append(database.submit(partial(refuse, ANY)))
        asked.append(asyncio.ensure_future(awaited(calls.next_step()(store))))
        await asyncio.sleep(0)
        if chance.random() < FAILING:
            asked[-1].cancel()
        if is_failing:
            asked.append(database.submit(refuse_no_more))
    answers = await asyncio.gather(*asked, return_exceptions=True)
    failures = [answer for answer in answers if isinstance(answer, BaseException)]
    assert {type(failure) for failure in failures} <= {ServiceUnavailable, asyncio.CancelledError}


async def awaited(answer: Awaitable[Any]) -> Any:
    return await answer


async def carry_out_what_is_due(store: CallStore) -> None:
    await store.mark_sent("s0", [], AMPLE, now=0.0)


def copy(directory: Path, connection: sqlite3.Connection) -> None:
    directory.mkdir(parents=True)
    connection.execute("COMMIT")  # a copy is made between transactions
    with closing(sqlite3.connect(directory / FILE_NAME)) as target:
        connection.backup(target)
    connection.execute("BEGIN IMMEDIATE")
