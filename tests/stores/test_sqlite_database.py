"""What is asked for at once is committed together, and one who fails fails alone."""

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path

import pytest

from exai.core.call_store import Settlement
from exai.core.config import StoreConfig
from exai.core.errors import ServiceUnavailable
from exai.core.outcomes import Completed, text_block
from exai.stores.sqlite_database import Operation, SqliteDatabase
from exai.stores.sqlite_file import FILE_NAME, DatabaseUnusable, open_database
from exai.stores.stores import Stores, stores_of
from tests.contracts.test_call_store import record
from tests.stores.ailing import held_up, refusing


@pytest.fixture
def connection(tmp_path: Path) -> sqlite3.Connection:
    return open_with_cities(tmp_path)


@asynccontextmanager
async def opened(connection: sqlite3.Connection, **bounds: int) -> AsyncIterator[SqliteDatabase]:
    async with SqliteDatabase(lambda: connection, **bounds) as database:
        yield database


def build(name: str, map_bytes: int = 0) -> Operation[int]:
    """Return an operation that adds a city, and says how many there are then."""

    def add(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO cities VALUES (?, zeroblob(?))", (name, map_bytes))
        (count,) = connection.execute("SELECT count(*) FROM cities").fetchone()
        return int(count)

    return add


def names(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM cities ORDER BY rowid")]


async def test_what_waits_together_is_one_transaction_in_order(
    connection: sqlite3.Connection,
) -> None:
    statements: list[str] = []
    async with opened(connection) as database:
        async with held_up(database):
            connection.set_trace_callback(statements.append)
            built = [database.submit(build(f"c{n}")) for n in range(50)]
        assert await asyncio.gather(*built) == list(range(1, 51))
        connection.set_trace_callback(None)
    assert statements.count("COMMIT") == 2, "of what held it up, and of all else"


async def test_who_asks_sees_what_was_asked_for_before(connection: sqlite3.Connection) -> None:
    async with opened(connection) as database:
        building = database.submit(build("Ur"))
        assert await database.submit(names) == ["Ur"]
        assert await building == 1


async def test_one_that_fails_fails_alone(connection: sqlite3.Connection) -> None:
    def burn(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM cities")
        raise ZeroDivisionError

    async with opened(connection) as database:
        await database.submit(build("Ur"))
        async with held_up(database):
            asked = [database.submit(each) for each in (build("Uruk"), burn, build("Ur"), names)]
        uruk, burnt, second_ur, found = await asyncio.gather(*asked, return_exceptions=True)
    assert (uruk, found) == (2, ["Ur", "Uruk"])
    assert isinstance(burnt, ZeroDivisionError)
    assert isinstance(second_ur, ServiceUnavailable)
    assert "UNIQUE" in str(second_ur)
    assert isinstance(second_ur.__cause__, sqlite3.IntegrityError)


async def test_nobody_is_told_of_what_is_undone(connection: sqlite3.Connection) -> None:
    """One that succeeded beside one that failed is carried out again, and counted once."""
    async with opened(connection) as database:
        async with held_up(database):
            building = database.submit(build("Ur"))
            failing = database.submit(lambda connection: connection.execute("DROP TABLE towns"))
        assert await building == 1
        with pytest.raises(ServiceUnavailable, match="no such table"):
            await failing
        assert await database.submit(names) == ["Ur"]


async def test_a_full_disk_refuses_what_needs_room_and_does_the_rest(
    connection: sqlite3.Connection,
) -> None:
    async with opened(connection) as database:
        await database.submit(build("Ur", map_bytes=100_000))
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        async with held_up(database):
            asked = [
                database.submit(each)
                for each in (build("Eridu"), build("Kish", map_bytes=1_000_000), names)
            ]
        small, large, found = await asyncio.gather(*asked, return_exceptions=True)
        assert (small, found) == (2, ["Ur", "Eridu"])
        assert isinstance(large, ServiceUnavailable)
        assert "full" in str(large)
        await database.submit(lambda connection: connection.execute("DELETE FROM cities"))
        assert await database.submit(build("Nippur", map_bytes=50_000)) == 1
        connection.execute("PRAGMA max_page_count = 10000")
        assert await database.submit(build("Kish", map_bytes=1_000_000)) == 2
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_what_was_asked_for_happens_whoever_still_waits(
    connection: sqlite3.Connection,
) -> None:
    async with opened(connection) as database:
        async with held_up(database):
            impatient = database.submit(build("Ur"))
            patient = database.submit(build("Uruk"))
            impatient.cancel()
        assert await patient == 2
        assert impatient.cancelled()


async def test_what_is_not_carried_out_is_undone_before_anybody_is_told(
    connection: sqlite3.Connection,
) -> None:
    told: list[str] = []
    async with opened(connection) as database:
        async with refusing(database, "INSERT ON cities"), held_up(database):
            failing = [
                database.submit(build(name), undo=partial(told.append, f"undo {name}"))
                for name in ("Ur", "Uruk", "Kish")
            ]
            later = database.submit(names)
            failing[0].add_done_callback(lambda _: told.append("told"))
            later.add_done_callback(lambda _: told.append("told later"))
            failing[2].cancel()
        assert await later == []
    assert told == ["undo Ur", "undo Uruk", "undo Kish", "told", "told later"]
    assert [type(each.exception()) for each in failing[:2]] == [ServiceUnavailable] * 2


async def test_what_is_carried_out_is_not_undone(connection: sqlite3.Connection) -> None:
    told: list[str] = []
    async with opened(connection) as database:
        async with held_up(database):
            patient = database.submit(build("Ur"), undo=lambda: told.append("undo"))
            impatient = database.submit(build("Uruk"), undo=lambda: told.append("undo"))
            impatient.cancel()
        assert await patient == 1
        assert await database.submit(names) == ["Ur", "Uruk"]
    assert told == []


async def test_what_is_not_even_taken_is_undone_at_once(connection: sqlite3.Connection) -> None:
    told: list[str] = []
    async with opened(connection, max_waiting=1) as database, held_up(database):
        with pytest.raises(ServiceUnavailable, match="cannot keep up"):
            database.submit(names, undo=lambda: told.append("overloaded"))
    with pytest.raises(ServiceUnavailable, match="closed"):
        database.submit(names, undo=lambda: told.append("closed"))
    assert told == ["overloaded", "closed"]


async def test_what_waits_is_bounded_in_number(connection: sqlite3.Connection) -> None:
    async with opened(connection, max_waiting=3) as database:
        async with held_up(database):
            built = [database.submit(build(name)) for name in ("Ur", "Uruk")]
            with pytest.raises(ServiceUnavailable, match="cannot keep up: 3 operations"):
                database.submit(build("Kish"))
        assert await asyncio.gather(*built) == [1, 2]
        assert await database.submit(build("Kish")) == 3


async def test_what_waits_is_bounded_in_bytes_but_never_too_small_for_one(
    connection: sqlite3.Connection,
) -> None:
    async with opened(connection, max_waiting_bytes=10) as database:
        async with held_up(database):
            built = [database.submit(build("Ur"), 10), database.submit(build("Uruk"))]
            with pytest.raises(ServiceUnavailable, match="of 10 bytes wait"):
                database.submit(build("Kish"), 1)
        assert await asyncio.gather(*built) == [1, 2]
        assert await database.submit(build("Kish"), 1000) == 3


async def test_closing_does_what_waits_and_takes_nothing_more(tmp_path: Path) -> None:
    async with opened(open_with_cities(tmp_path)) as database:
        built = [database.submit(build(f"c{n}")) for n in range(50)]
    assert [each.result() for each in built] == list(range(1, 51))
    with pytest.raises(ServiceUnavailable, match="closed"):
        database.submit(names)
    with closing(open_database(tmp_path)) as connection:
        assert len(names(connection)) == 50


async def test_what_is_not_open_yet_takes_nothing(tmp_path: Path) -> None:
    database = SqliteDatabase(lambda: open_with_cities(tmp_path))
    with pytest.raises(ServiceUnavailable, match="closed"):
        database.submit(names)
    assert os.listdir(tmp_path) == [], "nothing is opened before it is needed"


async def test_what_cannot_be_opened_is_told_to_who_opens_it(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("Dear diary, " * 1000)
    with pytest.raises(DatabaseUnusable, match="not a database"):
        async with SqliteDatabase(lambda: open_database(tmp_path)):
            pass


def test_a_loop_that_ends_without_closing_loses_nothing(tmp_path: Path) -> None:
    database = SqliteDatabase(lambda: open_with_cities(tmp_path))
    go_on = threading.Event()

    async def leave() -> None:
        await database.__aenter__()
        database.submit(lambda _: go_on.wait(10))
        database.submit(build("Ur"))

    asyncio.run(leave())
    go_on.set()
    asyncio.run(database.__aexit__(None, None, None))
    with closing(open_database(tmp_path)) as connection:
        assert names(connection) == ["Ur"]


def open_with_cities(directory: Path) -> sqlite3.Connection:
    connection = open_database(directory)
    connection.execute("CREATE TABLE cities (name TEXT UNIQUE, map BLOB)")
    return connection


async def test_the_log_is_moved_into_the_file_before_it_is_long(tmp_path: Path) -> None:
    log = tmp_path / f"{FILE_NAME}-wal"
    async with stores_of(StoreConfig(), tmp_path) as stores:
        await keep_many(stores, 0)
        with closing(sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM calls").fetchone()
            await keep_many(stores, 1000)  # who reads keeps the log from beginning anew
        for first in range(2000, 6000, 1000):
            await keep_many(stores, first)
        assert log.stat().st_size < 150_000_000, "of 360 MB that were written"
        found = await stores.calls.find("s1", "r-c3999")
    assert found is not None
    assert not log.exists()


async def keep_many(stores: Stores, first: int) -> None:
    """Write some 60 MB, a few calls at a time."""
    answer = Settlement(Completed([text_block("x" * 60_000)]), 0.0, 0.0)
    for n in range(first, first + 1000, 20):
        calls = [record(f"c{m}") for m in range(n, n + 20)]
        await asyncio.gather(*map(stores.calls.accept, calls))
        await asyncio.gather(*(stores.calls.settle(call.call_id, answer, 1.0) for call in calls))
