"""What a purge takes out of a ledger's file, and what it leaves."""

import sqlite3
from pathlib import Path

import pytest

from exai.core.call_store import CallState
from exai.stores import sqlite_purge
from exai.stores.sqlite_purge import PurgeOrder, Waste, find_waste, purge
from tests.stores.ledgers import accept, kept_files, ledger_in, settle, talk

NOW = 9000.0


async def fill(directory: Path) -> int:
    """Leave a call of each kind; return how many bytes a result has."""
    async with ledger_in(directory) as stores:
        for call_id, key in (("plain", None), ("keyed", "k1"), ("followed", "k2")):
            await accept(stores, call_id, key=key)
            await settle(stores, call_id, "swordfish", now=1000.0)
        size_bytes = stores.calls.statistics().result_bytes // 3
        await accept(stores, "late")
        await settle(stores, "late", "swordfish", now=2000.0)
        await accept(stores, "open", principal="bob", follows="followed")
        await talk(stores, "alice", "t1", "swordfish", now=1000.0)
        await talk(stores, "alice", "t2", "x", now=2000.0)
        await talk(stores, "bob", "t3", "x", now=1000.0)
        return size_bytes


async def states(directory: Path) -> dict[str, str | None]:
    async with ledger_in(directory) as stores:
        found = {
            name: await stores.calls.find_call(name)
            for name in ("plain", "keyed", "followed", "late", "open")
        }
    return {name: None if each is None else each.state.value for name, each in found.items()}


async def test_results_go_and_keys_stay(tmp_path: Path) -> None:
    size_bytes = await fill(tmp_path)
    order = PurgeOrder(1000.0, with_keys=False)
    waste = Waste(2, 2 * size_bytes, 1, 0)
    assert find_waste(tmp_path, order) == waste
    assert purge(tmp_path, order, NOW) == waste
    assert find_waste(tmp_path, order) == Waste(0, 0, 0, 0)
    assert await states(tmp_path) == {
        "plain": None,
        "keyed": "erased",
        "followed": "settled",
        "late": "settled",
        "open": "accepted",
    }
    async with ledger_in(tmp_path) as stores:
        keyed = await stores.calls.find_by_key("alice", "k1")
        assert keyed is not None
        assert (keyed.state, keyed.erased_at) == (CallState.ERASED, NOW)


async def test_keys_and_conversations_go_too(tmp_path: Path) -> None:
    size_bytes = await fill(tmp_path)
    order = PurgeOrder(2000.0, with_keys=True)
    assert purge(tmp_path, order, NOW) == Waste(3, 3 * size_bytes, 3, 2)
    assert await states(tmp_path) == {
        "plain": None,
        "keyed": None,
        "followed": "settled",
        "late": None,
        "open": "accepted",
    }
    async with ledger_in(tmp_path) as stores:
        assert stores.conversations.statistics().conversation_count == 1
        assert await stores.conversations.find("bob", "t3") is not None


async def test_what_cannot_be_taken_out_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(tmp_path)
    before = await states(tmp_path)
    monkeypatch.setattr(sqlite_purge, "_FORGET_CONVERSATIONS", "DELETE FROM nowhere")
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        purge(tmp_path, PurgeOrder(NOW, with_keys=True), NOW)
    assert await states(tmp_path) == before


async def test_what_was_taken_out_is_in_no_file(tmp_path: Path) -> None:
    await fill(tmp_path)
    async with ledger_in(tmp_path) as stores:
        await settle(stores, "open", "x", now=1000.0)
    purge(tmp_path, PurgeOrder(NOW, with_keys=True), NOW)
    assert not any(b"swordfish" in content for content in kept_files(tmp_path).values())


def test_where_there_is_no_ledger_nothing_goes(tmp_path: Path) -> None:
    assert find_waste(tmp_path, PurgeOrder(NOW, with_keys=True)) is None
    assert list(tmp_path.iterdir()) == []
