"""Looks into the ledger's database, read-only, when its daemon has ended."""

import sqlite3
from collections import defaultdict
from contextlib import closing
from pathlib import Path

from bench.chaos.record import DatabaseState

_FILE_NAME = "ledger.sqlite3"
_COUNTS = {
    "totals.record_count": (
        "SELECT record_count FROM totals",
        "SELECT count(*) FROM calls",
    ),
    "totals.result_bytes": (
        "SELECT result_bytes FROM totals",
        "SELECT coalesce(sum(result_bytes), 0) FROM calls",
    ),
    "calls.result_bytes": (
        "SELECT coalesce(sum(result_bytes), 0) FROM calls",
        "SELECT coalesce(sum(length(encoded)), 0) FROM settlements",
    ),
    "session_usage.result_count": (
        "SELECT coalesce(sum(result_count), 0) FROM session_usage",
        "SELECT count(*) FROM calls WHERE result_bytes > 0 AND session_id IS NOT NULL",
    ),
    "session_usage.result_bytes": (
        "SELECT coalesce(sum(result_bytes), 0) FROM session_usage",
        "SELECT coalesce(sum(result_bytes), 0) FROM calls WHERE session_id IS NOT NULL",
    ),
    "session_usage.tombstone_count": (
        "SELECT coalesce(sum(tombstone_count), 0) FROM session_usage",
        "SELECT count(*) FROM calls WHERE erased_at IS NOT NULL AND idempotency_key IS NULL",
    ),
    "principal_usage.key_count": (
        "SELECT coalesce(sum(key_count), 0) FROM principal_usage",
        "SELECT count(*) FROM calls WHERE idempotency_key IS NOT NULL",
    ),
}
_ROWS = """
    SELECT request_id, number, call_id, state, attempt, idempotent, follows, idempotency_key,
        accepted_at, started_at, settled_at, erased_at, erased_because, summary, result_bytes,
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
        return DatabaseState(
            integrity=[line for (line,) in connection.execute("PRAGMA integrity_check")],
            unsettled=[
                name
                for (name,) in connection.execute(
                    "SELECT request_id FROM calls WHERE state IN ('accepted', 'running')"
                )
            ],
            call_count=_number(connection, "SELECT count(*) FROM calls"),
            result_bytes=_number(connection, "SELECT result_bytes FROM totals"),
            file_bytes=file_bytes,
            wrong_counts=_wrong_counts(connection),
            rows=_rows(connection),
        )


def _number(connection: sqlite3.Connection, question: str) -> int:
    (number,) = connection.execute(question).fetchone()
    return int(number)


def _wrong_counts(connection: sqlite3.Connection) -> list[str]:
    wrong = []
    for name, (kept, counted) in _COUNTS.items():
        is_kept, is_counted = _number(connection, kept), _number(connection, counted)
        if is_kept != is_counted:
            wrong.append(f"{name} is {is_kept}, and {is_counted} are there")
    return wrong


def _rows(connection: sqlite3.Connection) -> dict[str, list[str]]:
    found = defaultdict(list)
    for request_id, *values in connection.execute(_ROWS):
        told = (f"{column}={value}" for column, value in zip(_COLUMNS, values, strict=True))
        found[request_id].append(" ".join(told))
    return dict(found)
