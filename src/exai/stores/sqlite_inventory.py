"""What a ledger's database holds, as numbers: counts, sizes and whose; nothing that was said."""

import sqlite3
from pathlib import Path

import msgspec

from exai.stores.sqlite_file import FILE_NAME, LOG_NAME, reading_database

_IDENTITY = "SELECT ledger_id FROM identity"
_FREE_BYTES = "SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size"
_CALLS = """
    SELECT principal, state, count(*), count(idempotency_key), ifnull(sum(length(settlement)), 0)
    FROM calls GROUP BY principal, state
"""
_OLDEST_OPEN = """
    SELECT call_id, principal, tool, state, accepted_at FROM calls
    WHERE settled_at IS NULL ORDER BY number LIMIT 1
"""
_SESSIONS = "SELECT principal, count(*) FROM sessions GROUP BY principal"
_CONVERSATIONS = "SELECT principal, conversation_count, text_bytes FROM conversation_usage"


class OpenCall(msgspec.Struct, frozen=True):
    """A call whose outcome is still to come."""

    call_id: str
    principal: str
    tool: str
    state: str
    accepted_at: float


class Share(msgspec.Struct, kw_only=True):
    """What there is of one principal; `open_count` are its calls without an outcome."""

    call_count: int = 0
    open_count: int = 0
    key_count: int = 0
    result_bytes: int = 0
    session_count: int = 0
    conversation_count: int = 0
    conversation_bytes: int = 0


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """A ledger. `calls` counts by state; `free_bytes` are within the file, for what comes."""

    path: str
    ledger_id: str
    version: int
    size_bytes: int
    log_bytes: int
    free_bytes: int
    calls: dict[str, int]
    oldest_open: OpenCall | None
    principals: dict[str, Share]

    def total(self, field: str) -> int:
        """Return the sum of a field of all shares."""
        return sum(getattr(share, field) for share in self.principals.values())


def take_inventory(directory: Path) -> Inventory | None:
    """Count what the ledger of a state directory holds, also while a daemon uses it.

    None where there is no ledger. Raises `DatabaseUnusable`.
    """
    with reading_database(directory) as connection:
        return None if connection is None else _count(connection, directory / FILE_NAME)


def file_bytes(directory: Path) -> tuple[int, int]:
    """Return the sizes of the database and of its log. Raises `OSError`."""
    log = directory / LOG_NAME
    return (directory / FILE_NAME).stat().st_size, log.stat().st_size if log.exists() else 0


def _count(connection: sqlite3.Connection, path: Path) -> Inventory:
    size_bytes, log_bytes = file_bytes(path.parent)
    calls: dict[str, int] = {}
    principals: dict[str, Share] = {}
    for principal, state, count, key_count, result_bytes in connection.execute(_CALLS):
        share = principals.setdefault(principal, Share())
        calls[state] = calls.get(state, 0) + count
        share.call_count += count
        share.open_count += count if state in ("accepted", "running") else 0
        share.key_count += key_count
        share.result_bytes += result_bytes
    for principal, count in connection.execute(_SESSIONS):
        principals.setdefault(principal, Share()).session_count = count
    for principal, count, text_bytes in connection.execute(_CONVERSATIONS):
        share = principals.setdefault(principal, Share())
        share.conversation_count, share.conversation_bytes = count, text_bytes
    oldest = connection.execute(_OLDEST_OPEN).fetchone()
    return Inventory(
        path=str(path),
        ledger_id=connection.execute(_IDENTITY).fetchone()[0],
        version=connection.execute("PRAGMA user_version").fetchone()[0],
        size_bytes=size_bytes,
        log_bytes=log_bytes,
        free_bytes=connection.execute(_FREE_BYTES).fetchone()[0],
        calls=calls,
        oldest_open=None if oldest is None else OpenCall(*oldest),
        principals=principals,
    )
