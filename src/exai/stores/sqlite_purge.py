"""Erasing and forgetting what a ledger need not keep, while no daemon uses it.

What has not settled is never touched, nor what it rests on: the call that it follows by its
key, which may hold its outcome, and the conversations of its principal.
"""

from pathlib import Path
from typing import NamedTuple

from exai.stores.sqlite_file import open_database, reading_database

_ENDED = """
    settled_at <= :ended_before AND call_id NOT IN
        (SELECT follows FROM calls WHERE settled_at IS NULL AND follows IS NOT NULL)
"""
_FORGOTTEN = f"{_ENDED} AND (:with_keys OR idempotency_key IS NULL)"
_UNUSED = """
    :with_keys AND last_turn_at <= :ended_before AND principal NOT IN
        (SELECT principal FROM calls WHERE settled_at IS NULL)
"""
_COUNT = f"""
    SELECT
        (SELECT count(settlement) FROM calls WHERE {_ENDED}),
        (SELECT ifnull(sum(length(settlement)), 0) FROM calls WHERE {_ENDED}),
        (SELECT count(*) FROM calls WHERE {_FORGOTTEN}),
        (SELECT count(*) FROM conversations WHERE {_UNUSED})
"""
_FORGET = f"DELETE FROM calls WHERE {_FORGOTTEN}"
_ERASE = f"""
    UPDATE calls SET state = 'erased', erased_because = 'expired', erased_at = :now,
        settlement = NULL
    WHERE {_ENDED} AND settlement IS NOT NULL
"""
_FORGET_CONVERSATIONS = f"DELETE FROM conversations WHERE {_UNUSED}"


class PurgeOrder(NamedTuple):
    """What is to go: what ended before `ended_before`, unix seconds.

    Without `with_keys`, calls with an idempotency key lose their results alone, and
    conversations stay.
    """

    ended_before: float
    with_keys: bool


class Waste(NamedTuple):
    """What goes, or has gone: results, and calls and conversations that are forgotten."""

    result_count: int
    result_bytes: int
    call_count: int
    conversation_count: int


def find_waste(directory: Path, order: PurgeOrder) -> Waste | None:
    """Count what a purge would take; None where there is no ledger. Raises `DatabaseUnusable`."""
    with reading_database(directory) as connection:
        if connection is None:
            return None
        return Waste(*connection.execute(_COUNT, order._asdict()).fetchone())


def purge(directory: Path, order: PurgeOrder, now: float) -> Waste:
    """Erase and forget, and give the room back to the file system; return what has gone.

    Whoever calls this holds the directory's lock. Raises `DatabaseUnusable`, and
    `sqlite3.Error` where the file cannot be made smaller, as on a full disk.
    """
    connection = open_database(directory)
    try:
        values = {**order._asdict(), "now": now}
        connection.execute("BEGIN IMMEDIATE")
        waste = Waste(*connection.execute(_COUNT, order._asdict()).fetchone())
        for statement in (_FORGET, _ERASE, _FORGET_CONVERSATIONS):
            connection.execute(statement, values)
        connection.execute("COMMIT")
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return waste
    finally:
        connection.close()
