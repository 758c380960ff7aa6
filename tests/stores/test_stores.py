"""The stores of a daemon are opened and closed together, and are what was configured."""

import os
from contextlib import closing
from pathlib import Path
from typing import Literal

import pytest

from exai.core.call_store import CallState
from exai.core.config import StoreConfig
from exai.core.conversation_store import Conversation, ConversationBounds, Turn
from exai.core.errors import ServiceUnavailable
from exai.core.session_store import SessionRecord
from exai.stores.sqlite_file import FILE_NAME, DatabaseUnusable, open_database
from exai.stores.stores import stores_of
from tests.contracts.test_call_store import ANSWER, record

ROOMY = ConversationBounds(max_bytes=10_000, principal_max_count=100, principal_max_bytes=10**6)
SESSIONS = [SessionRecord("s2", "ann", b"\x00\xff"), SessionRecord("s1", "bob", b"")]
TALK = Conversation("t", "ann", (Turn("c1", "p", "r", 1000.0),))


async def test_what_sqlite_keeps_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    running = record("c2", state=CallState.RUNNING, owner="boot", attempt=1, started_at=1.0)
    async with stores_of(StoreConfig(kind="sqlite"), tmp_path) as stores:
        assert stores.calls.durable
        ledger_id = stores.calls.ledger_id
        for session in (*SESSIONS, SessionRecord("s3", "ann", b"")):
            await stores.sessions.keep(session)
        await stores.sessions.forget("s3")
        await stores.calls.accept(record())
        await stores.calls.settle("c1", ANSWER, now=1001.0)
        await stores.calls.accept(running)
        await stores.conversations.begin(TALK, ROOMY)
    async with stores_of(StoreConfig(kind="sqlite"), tmp_path) as stores:
        assert stores.calls.ledger_id == ledger_id
        assert await stores.sessions.load() == SESSIONS
        assert await stores.calls.knows("s1", "r-c1")
        assert not await stores.calls.knows("s1", "r-c3")
        assert await stores.calls.unsettled() == [running]
        assert stores.conversations.statistics().conversation_count == 1
        assert await stores.conversations.find("ann", "t") == TALK


async def test_what_memory_keeps_is_gone_and_touches_no_file(tmp_path: Path) -> None:
    for _ in range(2):
        async with stores_of(StoreConfig(kind="memory"), tmp_path) as stores:
            assert not stores.calls.durable
            assert await stores.sessions.load() == []
            await stores.sessions.keep(SESSIONS[0])
    assert os.listdir(tmp_path) == []


async def test_nothing_is_opened_before_it_is_needed_nor_left_open(tmp_path: Path) -> None:
    stores = stores_of(StoreConfig(kind="sqlite"), tmp_path)
    assert os.listdir(tmp_path) == []
    with pytest.raises(ServiceUnavailable, match="closed"):
        await stores.sessions.load()
    async with stores:
        assert await stores.sessions.load() == []
    assert os.listdir(tmp_path) == [FILE_NAME]
    with pytest.raises(ServiceUnavailable, match="closed"):
        await stores.calls.accept(record())


async def test_what_cannot_be_opened_is_told_to_who_opens_it(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("Dear diary, " * 1000)
    with pytest.raises(DatabaseUnusable, match="not a database"):
        async with stores_of(StoreConfig(kind="sqlite"), tmp_path):
            pass


@pytest.mark.parametrize("synchronous", ["normal", "full"])
async def test_what_was_asked_for_is_done_before_they_are_closed(
    tmp_path: Path, synchronous: Literal["normal", "full"]
) -> None:
    config = StoreConfig(kind="sqlite", synchronous=synchronous)
    with pytest.raises(ZeroDivisionError):
        async with stores_of(config, tmp_path) as stores:
            await stores.calls.accept(record())
            raise ZeroDivisionError
    with closing(open_database(tmp_path)) as connection:
        assert connection.execute("SELECT call_id FROM calls").fetchall() == [("c1",)]
