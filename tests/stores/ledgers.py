"""Ledgers in every condition, as daemons and accidents leave them in a state directory."""

import sqlite3
from contextlib import closing
from pathlib import Path

from exai.core.call_store import CallRecord, Settlement
from exai.core.config import StoreConfig
from exai.core.conversation_store import Conversation, ConversationBounds, Turn
from exai.core.outcomes import Completed, text_block
from exai.core.session_store import SessionRecord
from exai.stores.sqlite_file import FILE_NAME, open_database
from exai.stores.sqlite_schema import MIGRATIONS
from exai.stores.stores import Stores, stores_of

BOUNDS = ConversationBounds(max_bytes=10**6, principal_max_count=100, principal_max_bytes=10**7)


def ledger_in(state_dir: Path) -> Stores:
    state_dir.mkdir(parents=True, exist_ok=True)
    return stores_of(StoreConfig(), state_dir)


async def accept(
    stores: Stores,
    call_id: str,
    *,
    principal: str = "alice",
    key: str | None = None,
    follows: str | None = None,
    accepted_at: float = 1000.0,
) -> None:
    await stores.calls.accept(
        CallRecord(
            call_id=call_id,
            session_id=f"session-of-{principal}",
            principal=principal,
            request_id=f"r-{call_id}",
            tool="echo",
            arguments_digest=b"\x01" * 32,
            accepted_at=accepted_at,
            timeout_s=60.0,
            idempotency_key=key,
            follows=follows,
            request=b"{}",
        )
    )


async def settle(stores: Stores, call_id: str, text: str, now: float) -> None:
    await stores.calls.settle(call_id, Settlement(Completed([text_block(text)]), 0.0, 0.0), now)


async def keep_session(stores: Stores, principal: str) -> None:
    await stores.sessions.keep(SessionRecord(f"session-of-{principal}", principal, b"digest"))


async def talk(stores: Stores, principal: str, name: str, text: str, now: float) -> None:
    turn = Turn("c0", text, "reply", now)
    await stores.conversations.begin(Conversation(name, principal, (turn,)), BOUNDS)


def newer(state_dir: Path) -> None:
    step = "CREATE TABLE novelties (name TEXT) STRICT;"
    open_database(state_dir, migrations=[*MIGRATIONS, step]).close()


def of_another_program(state_dir: Path) -> None:
    with closing(sqlite3.connect(state_dir / FILE_NAME)) as connection:
        connection.executescript("CREATE TABLE bookmarks (url TEXT)")


def no_database(state_dir: Path) -> None:
    (state_dir / FILE_NAME).write_text("Dear diary, " * 1000)


def cut_short(state_dir: Path) -> None:
    open_database(state_dir).close()
    path = state_dir / FILE_NAME
    path.write_bytes(path.read_bytes()[:5000])


def damaged(state_dir: Path) -> None:
    """Spoil what no question about the version would come across."""
    with closing(open_database(state_dir)) as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'turn_of_call'"
        ).fetchone()
    path = state_dir / FILE_NAME
    content = bytearray(path.read_bytes())
    content[(page - 1) * 4096 : page * 4096] = b"\xff" * 4096
    path.write_bytes(content)


SPOILT = {
    newer: "newer EXAI",
    of_another_program: "another program",
    no_database: "file is not a database",
    cut_short: "malformed",
}
"""What spoils a ledger, and what is said of it."""


def kept_files(state_dir: Path) -> dict[str, bytes]:
    """Return what holds data: the database and its log, but not the index of the log."""
    return {
        path.name: path.read_bytes()
        for path in sorted(state_dir.glob(f"{FILE_NAME}*"))
        if not path.name.endswith("-shm")
    }
