"""Nothing that is asked of SQLite takes longer the more there is."""

import sqlite3
from pathlib import Path

import msgspec

from exai.core.call_store import SessionBounds
from exai.core.conversation_store import Conversation, ConversationBounds, Turn
from exai.stores.sqlite_conversations import SqliteConversationStore
from exai.stores.sqlite_database import SqliteDatabase
from exai.stores.sqlite_file import open_database
from exai.stores.sqlite_store import SqliteCallStore
from tests.contracts.test_call_store import ANSWER, record

ALLOWED_SCANS = {
    "SCAN totals",  # one row
    "SCAN conversations USING INDEX conversations_by_age",  # as far as its limit
}


async def test_no_question_about_calls_looks_at_all(tmp_path: Path) -> None:
    connection, asked = open_and_listen(tmp_path)
    store = SqliteCallStore(SqliteDatabase(connection))
    for n in range(4):
        await store.accept(record(f"c{n}", idempotency_key=f"k{n}"))
        await store.accept(record(f"d{n}"))
        await store.start(f"c{n}", "boot", 1)
        await store.settle(f"c{n}", ANSWER, now=1000.0 + n)
        await store.settle(f"d{n}", ANSWER, now=1000.0 + n)
    await store.accept(record("c9", request_id="r-c1", idempotency_key="k2"))
    await store.find_by_key("alice", "k0")
    await store.key_count("alice")
    await store.owed("s1")
    await store.usage("s1")
    await store.mark_sent("s1", ["r-c0", "r-d0", "r-d1"])
    await store.forget_sent("s1")
    await store.mark_sent("s1", ["r-c0", "r-d0", "r-d1", "r-d2"])
    await store.acknowledge("s1", ["r-d0", "r-d3"], now=1010.0)
    assert await store.trim("s1", SessionBounds(1, 10**6, 1), now=1011.0) == 2
    await store.expire(1001.0, 1.0, 1.0)
    await store.end_session("s1")
    assert await store.trim_keyed("alice", 0, now=1012.0) == 3
    assert scans(connection, asked) == set()
    await store.close()


async def test_no_question_about_conversations_looks_at_all(tmp_path: Path) -> None:
    connection, asked = open_and_listen(tmp_path)
    store = SqliteConversationStore(SqliteDatabase(connection))
    bounds = ConversationBounds(max_bytes=15, principal_max_count=2, principal_max_bytes=1000)
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
    assert scans(connection, asked) == set()
    await store.close()


async def test_nothing_is_kept_of_who_has_nothing_any_more(tmp_path: Path) -> None:
    connection = open_database(tmp_path)
    store = SqliteCallStore(SqliteDatabase(connection))
    for n in range(2):
        await store.accept(record(f"c{n}", idempotency_key="k" if n else None))
        await store.settle(f"c{n}", ANSWER, now=1000.0)
    await store.mark_sent("s1", ["r-c0", "r-c1"])
    await store.end_session("s1")
    await store.expire(1e9, 1.0, 1.0)
    for table in ("calls", "settlements", "session_usage", "principal_usage"):
        assert connection.execute(f"SELECT * FROM {table}").fetchall() == [], table
    await store.close()


def open_and_listen(directory: Path) -> tuple[sqlite3.Connection, list[str]]:
    """Open a database; return it with the list of what will be asked of it."""
    asked: list[str] = []
    connection = open_database(directory)
    connection.set_trace_callback(asked.append)
    return connection, asked


def scans(connection: sqlite3.Connection, statements: list[str]) -> set[tuple[str, str]]:
    """Return each plan that goes through a whole table, with its statement."""
    found = set()
    for statement in [each for each in statements if not each.startswith(("--", "PRAGMA"))]:
        for *_, plan in connection.execute(f"EXPLAIN QUERY PLAN {statement}"):
            if plan.startswith("SCAN") and plan not in ALLOWED_SCANS:
                found.add((plan, statement))
    return found
