"""Nothing that is asked of SQLite takes longer the more there is."""

import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
import pytest

from exai.core.call_store import SessionBounds
from exai.core.conversation_store import Conversation, ConversationBounds, Turn
from exai.core.session_store import SessionRecord
from exai.stores import sqlite_store
from exai.stores.sqlite_conversations import SqliteConversationStore
from exai.stores.sqlite_database import SqliteDatabase
from exai.stores.sqlite_file import open_database
from exai.stores.sqlite_sessions import SqliteSessionStore
from exai.stores.sqlite_store import SqliteCallStore
from tests.contracts.test_call_store import ANSWER, record
from tests.contracts.twins import AMPLE

BY_ROW_NUMBER = "SEARCH calls USING INTEGER PRIMARY KEY (rowid=?)"
ALLOWED_SCANS = {
    "SCAN totals",  # one row
    "SCAN sessions",  # all are wanted, when the daemon begins
    "SCAN conversations USING INDEX conversations_by_age",  # as far as its limit
}


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    async with SqliteDatabase(lambda: open_database(tmp_path)) as opened:
        yield opened


async def test_every_statement_about_calls_goes_by_the_row_number(database: SqliteDatabase) -> None:
    store = SqliteCallStore(database)
    async with listening(database) as asked:
        for n in range(4):
            await store.accept(record(f"c{n}", idempotency_key=f"k{n}"))
            await store.accept(record(f"d{n}"))
            await store.start(f"c{n}", "boot", 1, now=1000.0)
            await store.settle(f"c{n}", ANSWER, now=1000.0 + n)
            await store.settle(f"d{n}", ANSWER, now=1000.0 + n)
        await store.accept(record("c9", request_id="r-c1", idempotency_key="k2"))
        await store.knows("s1", "r-c0")
        await store.find("s1", "r-c0")
        await store.find_by_key("alice", "k0")
        await store.find_all("alice", "r-c0", 9)
        await store.find_call("c0")
        await store.unsettled()
        await store.key_count("alice")
        await store.owed("s1")
        await store.usage("s1")
        await store.mark_sent("s1", ["r-c0", "r-d0", "r-d1"], AMPLE, now=1005.0)
        await store.forget_sent("s1")
        await store.mark_sent("s1", ["r-c0", "r-d0", "r-d1", "r-d2"], AMPLE, now=1006.0)
        await store.acknowledge("s1", ["r-d0", "r-d3"], AMPLE, now=1010.0)
        assert await store.mark_sent("s1", [], SessionBounds(1, 10**6, 1), now=1011.0) == 2
        await store.expire(1001.0, 1.0, 1.0)
        await store.end_session("s1")
        assert await store.trim_keyed("alice", 0, now=1012.0) == 3
    assert unasked(asked) == ["_ALL"], (
        "this test asks all that there is to ask but at the beginning"
    )
    assert await plans_of(database, asked) == {BY_ROW_NUMBER}


async def test_all_calls_are_looked_at_once_when_the_daemon_begins(
    database: SqliteDatabase,
) -> None:
    store = SqliteCallStore(database)
    for n in range(3):
        await store.accept(record(f"c{n}", idempotency_key=f"k{n}" if n else None))
        await store.settle(f"c{n}", ANSWER, now=1000.0)
    await store.acknowledge("s1", ["r-c1"], AMPLE, now=1001.0)
    anew = SqliteCallStore(database)
    async with listening(database) as asked:
        await anew.load()
    about_calls = [each for each in asked if "calls" in each]
    assert len(about_calls) == 1
    assert await plans_of(database, about_calls) == {"SCAN calls"}


async def test_what_is_not_said_in_a_call_is_known_without_the_database(
    database: SqliteDatabase,
) -> None:
    store = SqliteCallStore(database)
    for n in range(3):
        await store.accept(record(f"c{n}", idempotency_key=f"k{n}"))
        await store.settle(f"c{n}", ANSWER, now=1000.0)
    await store.acknowledge("s1", ["r-c0"], AMPLE, now=1001.0)
    async with listening(database) as asked:
        assert await store.find("s1", "r-unknown") is None
        assert await store.knows("s1", "r-c1")
        assert await store.key_count("alice") == 3
        assert (await store.usage("s1")).result_count == 2
        await store.mark_sent("s1", ["r-c1"], AMPLE, now=1002.0)
        await store.forget_sent("s1")
        assert await store.expire(1003.0, 600.0, 600.0) == 0
        assert not await store.settle("c1", ANSWER, now=1003.0)
    assert [each for each in asked if "calls" in each] == []


async def test_no_question_about_conversations_looks_at_all(database: SqliteDatabase) -> None:
    store = SqliteConversationStore(database)
    bounds = ConversationBounds(max_bytes=15, principal_max_count=2, principal_max_bytes=1000)
    async with listening(database) as asked:
        for n in range(4):
            turn = Turn(f"c{n}", "p", "r", 1000.0 + n)
            await store.begin(Conversation(f"t{n}", "ann", (turn,)), bounds)
            for _ in range(2):
                for m in range(5):
                    await store.append(
                        "ann", f"t{n}", msgspec.structs.replace(turn, call_id=f"{m}"), bounds
                    )
        await store.find("ann", "t3")
        assert await store.expire(2000.0, 1.0) == 2
    assert await scans(database, asked) == set()


async def test_no_question_about_one_session_looks_at_all(database: SqliteDatabase) -> None:
    store = SqliteSessionStore(database)
    async with listening(database) as asked:
        for _ in range(2):
            await store.keep(SessionRecord("s1", "ann", b"digest"))
        await store.load()
        await store.forget("s1")
    assert len(asked) >= 4
    assert await scans(database, asked) == set()


async def test_nothing_is_kept_of_who_has_nothing_any_more(database: SqliteDatabase) -> None:
    calls = SqliteCallStore(database)
    for n in range(4):
        await calls.accept(record(f"c{n}", idempotency_key="k" if n == 1 else None, request=b"{}"))
        await calls.settle(f"c{n}", ANSWER, now=1000.0)
    await calls.mark_sent("s1", ["r-c0", "r-c1"], AMPLE, now=1001.0)
    await calls.acknowledge("s1", ["r-c2"], AMPLE, now=1001.0)
    sessions, talks = SqliteSessionStore(database), SqliteConversationStore(database)
    await sessions.keep(SessionRecord("s1", "alice", b"digest"))
    turn = Turn("c1", "p", "r", 1000.0)
    await talks.begin(Conversation("t", "alice", (turn,)), ConversationBounds(99, 9, 99))
    before = await database.submit(rows_of_all_tables)
    assert {name for name, rows in before.items() if not rows} == set()
    await calls.end_session("s1")
    await sessions.forget("s1")
    await calls.expire(1e9, 1.0, 1.0)
    await talks.expire(1e9, 1.0)
    left = await database.submit(rows_of_all_tables)
    assert left.pop("identity") == before["identity"]
    assert left.pop("totals") == [(0, 0, 1)]
    assert {name for name, rows in left.items() if rows} == set()


def rows_of_all_tables(connection: sqlite3.Connection) -> dict[str, list[object]]:
    names = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    return {name: connection.execute(f"SELECT * FROM {name}").fetchall() for (name,) in names}


@asynccontextmanager
async def listening(database: SqliteDatabase) -> AsyncIterator[list[str]]:
    """Write down what is asked of a database."""
    asked: list[str] = []
    await database.submit(lambda connection: connection.set_trace_callback(asked.append))
    yield asked
    await database.submit(lambda connection: connection.set_trace_callback(None))


def unasked(asked: list[str]) -> list[str]:
    """Return the names of statements about calls that were not asked."""
    statements = {
        name: re.compile(".+".join(map(re.escape, re.split(r"\?\d?", text.strip()))), re.DOTALL)
        for name, text in vars(sqlite_store).items()
        if isinstance(text, str) and re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE)", text)
    }
    return [
        name
        for name, statement in statements.items()
        if not any(statement.fullmatch(each.strip()) for each in asked)
    ]


async def plans_of(database: SqliteDatabase, statements: list[str]) -> set[str]:
    """Return how tables are gone through, in all ways."""
    return {plan for plan, _ in await explained(database, statements)}


async def scans(database: SqliteDatabase, statements: list[str]) -> set[tuple[str, str]]:
    """Return each plan that goes through a whole table, with its statement."""
    return {
        (plan, statement)
        for plan, statement in await explained(database, statements)
        if plan.startswith("SCAN") and plan not in ALLOWED_SCANS
    }


async def explained(database: SqliteDatabase, statements: list[str]) -> set[tuple[str, str]]:
    return await database.submit(partial(explain, statements))


def explain(statements: list[str], connection: sqlite3.Connection) -> set[tuple[str, str]]:
    return {
        (plan, statement)
        for statement in statements
        if not statement.startswith(("--", "PRAGMA"))
        for *_, plan in connection.execute(f"EXPLAIN QUERY PLAN {statement}")
    }
