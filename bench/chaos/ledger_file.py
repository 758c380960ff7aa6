"""Looks into the ledger's database, read-only, when its daemon has ended."""

import sqlite3
from collections import defaultdict
from contextlib import closing
from pathlib import Path

from bench.chaos.record import DatabaseState

_FILE_NAME = "ledger.sqlite3"
_ODDITIES = {
    "settled without a result": "state = 'settled' AND (settlement IS NULL OR summary IS NULL)",
    "a result that is not settled": "state <> 'settled' AND settlement IS NOT NULL",
    "a request that will not run": "state IN ('settled', 'erased') AND request IS NOT NULL",
    "a request that may run no more": """
        state = 'running' AND NOT idempotent AND request IS NOT NULL""",
    "one that cannot run": "state = 'accepted' AND request IS NULL",
    "of a session that is not there": """
        session_id IS NOT NULL AND session_id NOT IN (SELECT session_id FROM sessions)""",
    "without a session and without a key": "session_id IS NULL AND idempotency_key IS NULL",
    "two of one request id": """
        session_id IS NOT NULL AND number NOT IN (
            SELECT min(number) FROM calls GROUP BY session_id, request_id)""",
    "two of one key": """
        idempotency_key IS NOT NULL AND number NOT IN (
            SELECT min(number) FROM calls GROUP BY principal, idempotency_key)""",
}
"""What no call may be, as a condition on its row."""
_ROWS = """
    SELECT request_id, number, call_id, state, attempt, idempotent, follows, idempotency_key,
        accepted_at, started_at, settled_at, erased_at, erased_because, summary, length(settlement),
        request IS NOT NULL
    FROM calls ORDER BY number
"""
_COLUMNS = (
    "number",
    "call_id",
    "state",
    "attempt",
    "idempotent",
    "follows",
    "key",
    "accepted_at",
    "started_at",
    "settled_at",
    "erased_at",
    "erased_because",
    "summary",
    "result_bytes",
    "has_request",
)


def look_into(state_dir: Path) -> DatabaseState:
    """Return what is in the database of a daemon that has ended."""
    path = state_dir / _FILE_NAME
    file_bytes = sum(each.stat().st_size for each in state_dir.glob(f"{_FILE_NAME}*"))
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:

        def names(condition: str) -> list[str]:
            found = connection.execute(f"SELECT request_id FROM calls WHERE {condition}")
            return [name for (name,) in found]

        (call_count, result_bytes) = connection.execute(
            "SELECT count(*), coalesce(sum(length(settlement)), 0) FROM calls"
        ).fetchone()
        return DatabaseState(
            integrity=[line for (line,) in connection.execute("PRAGMA integrity_check")],
            unsettled=names("state IN ('accepted', 'running')"),
            call_count=call_count,
            result_bytes=result_bytes,
            file_bytes=file_bytes,
            odd={what: names(condition) for what, condition in _ODDITIES.items()},
            rows=_rows(connection),
        )


def _rows(connection: sqlite3.Connection) -> dict[str, list[str]]:
    found = defaultdict(list)
    for request_id, *values in connection.execute(_ROWS):
        told = (f"{column}={value}" for column, value in zip(_COLUMNS, values, strict=True))
        found[request_id].append(" ".join(told))
    return dict(found)
