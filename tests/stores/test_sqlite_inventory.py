"""What a ledger's file is counted to hold."""

from pathlib import Path

from exai.stores.sqlite_file import FILE_NAME, open_database
from exai.stores.sqlite_inventory import Share, file_bytes, take_inventory
from tests.stores.ledgers import accept, keep_session, kept_files, ledger_in, settle, talk


async def test_everything_is_counted_and_nothing_is_written(tmp_path: Path) -> None:
    async with ledger_in(tmp_path) as stores:
        await accept(stores, "a1", key="k")
        await settle(stores, "a1", "x" * 5000, now=1001.0)
        await accept(stores, "a2", accepted_at=1002.0)
        await keep_session(stores, "bob")
        await talk(stores, "carol", "t1", "é", now=1000.0)
        before = kept_files(tmp_path)
        inventory = take_inventory(tmp_path)
        assert kept_files(tmp_path) == before
        assert inventory is not None
        assert inventory.ledger_id == stores.calls.ledger_id
        result_bytes = stores.calls.statistics().result_bytes
        text_bytes = stores.conversations.statistics().text_bytes
    assert inventory.calls == {"accepted": 1, "settled": 1}
    assert inventory.oldest_open is not None
    assert inventory.oldest_open.call_id == "a2"
    assert inventory.log_bytes == len(before[f"{FILE_NAME}-wal"])
    assert inventory.principals == {
        "alice": Share(call_count=2, open_count=1, key_count=1, result_bytes=result_bytes),
        "bob": Share(session_count=1),
        "carol": Share(conversation_count=1, conversation_bytes=text_bytes),
    }
    assert inventory.total("call_count") == 2


def test_where_there_is_no_ledger_none_is_made(tmp_path: Path) -> None:
    assert take_inventory(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_new_ledger_holds_nothing(tmp_path: Path) -> None:
    open_database(tmp_path).close()
    inventory = take_inventory(tmp_path)
    assert inventory is not None
    assert (inventory.calls, inventory.oldest_open, inventory.principals) == ({}, None, {})
    assert file_bytes(tmp_path) == (inventory.size_bytes, 0)
