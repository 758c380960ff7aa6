"""Databases that do not do what they are asked, and what stands in them then."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

from exai.stores.sqlite_database import SqliteDatabase
from exai.stores.sqlite_store import SqliteCallStore
from tests.contracts.test_twins_agree import agree, all_of_calls
from tests.contracts.twins import AMPLE


@asynccontextmanager
async def held_up(database: SqliteDatabase) -> AsyncIterator[None]:
    """Keep the thread busy, so that all that is asked for within waits together.

    A database where only one may wait takes nothing meanwhile.
    """
    is_busy, go_on = threading.Event(), threading.Event()

    def wait(_: sqlite3.Connection) -> None:
        is_busy.set()
        go_on.wait(10)

    waiting = database.submit(wait)
    await asyncio.to_thread(is_busy.wait, 10)
    try:
        yield
    finally:
        go_on.set()
    await waiting


@asynccontextmanager
async def refusing(database: SqliteDatabase, *events: str) -> AsyncIterator[None]:
    """Let each change of this kind fail when its turn has come; a kind is as a trigger names it."""
    await database.submit(partial(refuse, events))
    try:
        yield
    finally:
        await database.submit(refuse_no_more)


def refuse(events: Iterable[str], connection: sqlite3.Connection) -> None:
    for n, event in enumerate(events):
        connection.execute(
            f"CREATE TRIGGER refused_{n} BEFORE {event} BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )


def refuse_no_more(connection: sqlite3.Connection) -> None:
    triggers = "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND name LIKE 'refused_%'"
    for (name,) in connection.execute(triggers).fetchall():
        connection.execute(f"DROP TRIGGER {name}")


ACCEPT = "INSERT ON calls"
START = "UPDATE OF owner ON calls"
SETTLE = "UPDATE OF settlement ON calls WHEN NEW.state = 'settled'"
ERASE = "UPDATE OF settlement ON calls WHEN NEW.state = 'erased'"
LEAVE = "UPDATE OF session_id ON calls"
FORGET = "DELETE ON calls"
ANY = (ACCEPT, "UPDATE ON calls", FORGET)

AILMENTS: dict[str, Callable[[SqliteDatabase], AbstractAsyncContextManager[None]]] = {
    "overloaded": held_up,
    "out of order": lambda database: refusing(database, *ANY),
}


async def opened_anew(database: SqliteDatabase) -> SqliteCallStore:
    """Return what another process would make of a database."""
    store = SqliteCallStore(database)
    await store.load()
    return store


async def is_as_stored(store: SqliteCallStore, database: SqliteDatabase) -> bool:
    """Tell whether a ledger knows what is stored, once nothing is due any more."""
    await store.mark_sent("s0", [], AMPLE, now=0.0)
    anew = await opened_anew(database)
    return agree(await all_of_calls(store), await all_of_calls(anew))
