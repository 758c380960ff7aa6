"""The ledger in SQLite: it outlives the daemon. Behaves as `memory_store` does."""

import sqlite3
from collections.abc import Iterable
from typing import Any

import msgspec

from exai.core.call_store import (
    CallRecord,
    CallState,
    CallStore,
    ErasedBecause,
    SessionBounds,
    SessionUsage,
    Settlement,
    StoreStatistics,
    Summary,
    summary_of,
)
from exai.stores.request_names import RequestNames
from exai.stores.sqlite_database import SqliteDatabase

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Settlement).decode
_decode_summary = msgspec.json.Decoder(Summary).decode
_CALLS_PER_TURN = 1000

_AS_ACCEPTED = """
    call_id, session_id, principal, request_id, tool, arguments_digest, accepted_at, timeout_s,
    idempotency_key, idempotent, follows, request, state, owner, attempt, started_at
"""
_LATER = "settled_at, summary, sent_at, erased_at, erased_because"
_INSERT = f"""
    INSERT INTO calls ({_AS_ACCEPTED})
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (session_id, request_id) DO NOTHING
    ON CONFLICT (principal, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
"""
_SELECT = f"""
    SELECT encoded, {_AS_ACCEPTED}, {_LATER} FROM calls LEFT JOIN settlements USING (number)
"""
_FIND = f"{_SELECT} WHERE session_id = ? AND request_id = ?"
_FIND_BY_KEY = f"{_SELECT} WHERE principal = ? AND idempotency_key = ?"
_FIND_ALL = f"""
    {_SELECT} WHERE principal = ?1 AND (request_id = ?2 OR call_id = ?2)
    ORDER BY accepted_at, number
"""

_START = """
    UPDATE calls SET state = 'running', owner = ?1, attempt = ?2, started_at = ?3,
        request = iif(idempotent AND ?2 = 1, request, NULL)
    WHERE call_id = ?4 AND settled_at IS NULL AND attempt < ?2
"""
_NEXT_RANK = "(SELECT last_rank + 1 FROM totals)"
_SETTLE = f"""
    UPDATE calls
    SET state = 'settled', settled_at = ?, summary = ?, result_bytes = ?, request = NULL,
        rank = {_NEXT_RANK}
    WHERE call_id = ? AND settled_at IS NULL
"""
_KEEP = "INSERT INTO settlements SELECT number, ? FROM calls WHERE call_id = ?"
_ERASE = f"""
    UPDATE calls
    SET state = 'erased', erased_because = ?, erased_at = ?, result_bytes = 0, sent_bytes = 0,
        rank = {_NEXT_RANK}
"""
_ERASE_ONE = f"{_ERASE} WHERE number = ?"
_ERASE_ACKNOWLEDGED = f"{_ERASE} WHERE session_id = ? AND request_id = ? AND result_bytes > 0"

_KEY_COUNT = "SELECT key_count FROM principal_usage WHERE principal = ?"
_KEPT_BYTES = "SELECT kept_bytes FROM principal_usage WHERE principal = ?"
_OWED = """
    SELECT request_id FROM calls WHERE session_id = ? AND erased_at IS NULL ORDER BY number
"""
_UNSETTLED = f"{_SELECT} WHERE settled_at IS NULL AND erased_at IS NULL ORDER BY number"
_USAGE = "SELECT result_count, result_bytes FROM session_usage WHERE session_id = ?"
_SENT_USAGE = """
    SELECT sent_count, sent_bytes, tombstone_count FROM session_usage WHERE session_id = ?
"""
_MARK_SENT = f"""
    UPDATE calls SET sent_bytes = result_bytes, sent_at = coalesce(sent_at, ?),
        rank = {_NEXT_RANK}
    WHERE session_id = ? AND request_id = ? AND result_bytes > 0 AND sent_bytes = 0
"""
_FORGET_SENT = "UPDATE calls SET sent_bytes = 0 WHERE session_id = ? AND sent_bytes > 0"
_OLDEST_SENT = """
    SELECT number, sent_bytes FROM calls WHERE session_id = ? AND sent_bytes > 0 ORDER BY rank
"""
_OLDEST_KEPT_BY_KEY = """
    SELECT number, result_bytes FROM calls
    WHERE principal = ? AND session_id IS NULL AND result_bytes > 0 ORDER BY rank, number
"""
_FORGET_OLDEST_ERASED = """
    DELETE FROM calls WHERE number IN (
        SELECT number FROM calls
        WHERE session_id = ? AND erased_at IS NOT NULL AND idempotency_key IS NULL
        ORDER BY rank, settled_at, number LIMIT ?
    ) RETURNING session_id, request_id
"""

_FORGET_ERASED_UNTIL = f"""
    DELETE FROM calls WHERE number IN (
        SELECT number FROM calls
        WHERE erased_at <= ? AND erased_at IS NOT NULL AND idempotency_key IS NULL
        LIMIT {_CALLS_PER_TURN}
    ) RETURNING session_id, request_id
"""
_ERASE_SETTLED_UNTIL = f"""
    {_ERASE} WHERE number IN (
        SELECT number FROM calls WHERE settled_at <= ? AND result_bytes > 0
        ORDER BY settled_at LIMIT {_CALLS_PER_TURN}
    )
"""
_FORGET_KEYS_UNTIL = f"""
    DELETE FROM calls WHERE number IN (
        SELECT number FROM calls WHERE settled_at <= ? AND idempotency_key IS NOT NULL
        LIMIT {_CALLS_PER_TURN}
    ) RETURNING session_id, request_id
"""
_LEAVE_SESSION = f"""
    UPDATE calls SET session_id = NULL, sent_bytes = 0, rank = {_NEXT_RANK}
    WHERE number IN (
        SELECT number FROM calls WHERE session_id = ? AND idempotency_key IS NOT NULL
        ORDER BY number LIMIT {_CALLS_PER_TURN}
    )
"""
_FORGET_OF_SESSION = f"""
    DELETE FROM calls WHERE number IN (
        SELECT number FROM calls WHERE session_id = ? LIMIT {_CALLS_PER_TURN}
    ) RETURNING session_id, request_id
"""
_NAMES = "SELECT request_id FROM calls WHERE session_id = ?"


_Name = tuple[str | None, str]
"""A session, None once it has ended, and a request id."""


class SqliteCallStore(CallStore):
    """`CallStore` over a database that it shares; each method is one short transaction, or
    several where thousands of calls change, so that those of others go on in between.

    Which results were sent is stored like the rest, though a restart makes no use of it:
    every connection has ended, and whoever resumes is sent all again (`forget_sent`).
    """

    durable = True

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._names = RequestNames()

    @property
    def ledger_id(self) -> str:
        """Return the name that the database was given at its beginning."""
        return self._database.ledger_id

    async def accept(self, record: CallRecord) -> CallRecord | None:
        """Insert `record` unless its id is known."""
        size_bytes = len(record.request or b"")
        self._names.add(record.session_id, record.request_id)
        return await self._database.submit(
            lambda connection: _accept(connection, record), size_bytes
        )

    async def start(self, call_id: str, owner: str, attempt: int, now: float) -> bool:
        """Mark a call as running."""
        changed_count = await self._change(_START, owner, attempt, now, call_id)
        return changed_count > 0

    async def settle(self, call_id: str, settlement: Settlement, now: float) -> bool:
        """Keep a call's outcome unless it has one."""
        encoded, summary = _encode(settlement), _encode(summary_of(settlement))
        size_bytes = len(encoded)

        def settle(connection: sqlite3.Connection) -> bool:
            values = (now, summary, size_bytes, call_id)
            if not connection.execute(_SETTLE, values).rowcount:
                return False
            connection.execute(_KEEP, (encoded, call_id))
            return True

        return await self._database.submit(settle, size_bytes)

    async def find(self, session_id: str, request_id: str) -> CallRecord | None:
        """Return what is known of a session's request."""
        if not await self.knows(session_id, request_id):
            return None
        names = (session_id, request_id)
        return await self._database.submit(lambda connection: _find(connection, _FIND, names))

    async def knows(self, session_id: str, request_id: str) -> bool:
        """Tell whether anything may be known of a session's request."""
        known = self._names.may_have(session_id, request_id)
        if known is not None:
            return known
        with self._names.asking(session_id) as names:
            stored = await self._database.submit(lambda database: _names(database, session_id))
            names.complete(stored)
        return request_id in names.request_ids

    async def find_by_key(self, principal: str, idempotency_key: str) -> CallRecord | None:
        """Return what is known of the request that a principal gave this key."""
        names = (principal, idempotency_key)
        return await self._database.submit(
            lambda connection: _find(connection, _FIND_BY_KEY, names)
        )

    async def find_all(self, principal: str, name: str) -> list[CallRecord]:
        """Look it up in both indexes."""
        return await self._database.submit(
            lambda connection: [
                _record_in(row) for row in connection.execute(_FIND_ALL, (principal, name))
            ]
        )

    async def key_count(self, principal: str) -> int:
        """Return how many keys of a principal are remembered."""
        return await self._database.submit(
            lambda connection: _counts(connection, _KEY_COUNT, principal)[0]
        )

    async def acknowledge(self, session_id: str, request_ids: list[str], now: float) -> int:
        """Erase acknowledged results."""
        because: ErasedBecause = "acknowledged"
        return await self._change_each(
            _ERASE_ACKNOWLEDGED,
            [(because, now, session_id, request_id) for request_id in request_ids],
        )

    async def owed(self, session_id: str) -> list[str]:
        """Return what has not settled, or is not erased."""
        return await self._database.submit(
            lambda connection: [name for (name,) in connection.execute(_OWED, (session_id,))]
        )

    async def unsettled(self) -> list[CallRecord]:
        """Look through all calls that are not erased."""
        return await self._database.submit(
            lambda connection: [_record_in(row) for row in connection.execute(_UNSETTLED)]
        )

    async def usage(self, session_id: str) -> SessionUsage:
        """Return how many results a session has, and how large they are together."""
        return await self._database.submit(
            lambda connection: SessionUsage(*_counts(connection, _USAGE, session_id))
        )

    async def mark_sent(self, session_id: str, request_ids: list[str], now: float) -> None:
        """Let sent results make room for others."""
        await self._change_each(
            _MARK_SENT, [(now, session_id, request_id) for request_id in request_ids]
        )

    async def forget_sent(self, session_id: str) -> None:
        """Let no result make room for others."""
        await self._change(_FORGET_SENT, session_id)

    async def trim(self, session_id: str, bounds: SessionBounds, now: float) -> int:
        """Erase and forget a session's oldest while it has too many, or too large ones."""
        erased_count, forgotten = await self._database.submit(
            lambda connection: _trim(connection, session_id, bounds, now)
        )
        self._names.discard(forgotten)
        return erased_count

    async def trim_keyed(self, principal: str, max_bytes: int, now: float) -> int:
        """Erase the oldest results that only their keys keep."""

        def trim(connection: sqlite3.Connection) -> int:
            (kept_bytes,) = _counts(connection, _KEPT_BYTES, principal)
            oldest = connection.execute(_OLDEST_KEPT_BY_KEY, (principal,))
            return _erase_leading(connection, oldest, 0, kept_bytes - max_bytes, now)

        return await self._database.submit(trim)

    async def expire(self, now: float, result_ttl_s: float, idempotency_ttl_s: float) -> int:
        """Erase old results, forget old tombstones."""
        horizon, because = now - result_ttl_s, "expired"
        key_horizon = now - max(idempotency_ttl_s, result_ttl_s)
        _, erased_count, _ = await self._change_in_turns(
            (_FORGET_ERASED_UNTIL, (horizon,)),
            (_ERASE_SETTLED_UNTIL, (because, now, horizon)),
            (_FORGET_KEYS_UNTIL, (key_horizon,)),
        )
        return erased_count

    async def end_session(self, session_id: str) -> None:
        """Forget a session's records, but for those with an idempotency key."""
        await self._change_in_turns(
            (_LEAVE_SESSION, (session_id,)), (_FORGET_OF_SESSION, (session_id,))
        )
        self._names.end_session(session_id)

    def statistics(self) -> StoreStatistics:
        """Return the numbers now."""
        totals = self._database.totals
        return StoreStatistics(totals.record_count, totals.result_bytes)

    async def _change(self, statement: str, *values: object) -> int:
        """Carry out one statement; return how many calls it changed."""
        return await self._database.submit(
            lambda connection: connection.execute(statement, values).rowcount
        )

    async def _change_each(self, statement: str, values: list[tuple[object, ...]]) -> int:
        return await self._database.submit(
            lambda connection: max(0, connection.executemany(statement, values).rowcount)
        )

    async def _change_in_turns(self, *statements: tuple[str, tuple[object, ...]]) -> list[int]:
        """Carry out statements until each finds fewer calls than it may change at once.

        Returns how many calls each has changed.
        """

        def change(connection: sqlite3.Connection) -> list[tuple[int, list[_Name]]]:
            return [_changed(connection, *statement) for statement in statements]

        totals = [0] * len(statements)
        while True:
            changed = await self._database.submit(change)
            totals = [total + count for total, (count, _) in zip(totals, changed, strict=True)]
            for _, forgotten in changed:
                self._names.discard(forgotten)
            if max(count for count, _ in changed) < _CALLS_PER_TURN:
                return totals


def _changed(
    connection: sqlite3.Connection, statement: str, values: tuple[object, ...]
) -> tuple[int, list[_Name]]:
    """Return how many calls a statement has changed, and which of them it says it forgot."""
    cursor = connection.execute(statement, values)
    forgotten: list[_Name] = cursor.fetchall()
    return len(forgotten) or cursor.rowcount, forgotten


def _accept(connection: sqlite3.Connection, record: CallRecord) -> CallRecord | None:
    values = (
        record.call_id,
        record.session_id,
        record.principal,
        record.request_id,
        record.tool,
        record.arguments_digest,
        record.accepted_at,
        record.timeout_s,
        record.idempotency_key,
        record.idempotent,
        record.follows,
        record.request,
        record.state.value,
        record.owner,
        record.attempt,
        record.started_at,
    )
    if connection.execute(_INSERT, values).rowcount:
        return None
    known = _find(connection, _FIND, (record.session_id, record.request_id))
    return known or _find(connection, _FIND_BY_KEY, (record.principal, record.idempotency_key))


def _find(
    connection: sqlite3.Connection, question: str, names: tuple[str | None, ...]
) -> CallRecord | None:
    row = connection.execute(question, names).fetchone()
    return None if row is None else _record_in(row)


def _record_in(row: tuple[Any, ...]) -> CallRecord:
    encoded, *as_accepted, settled_at, summary, sent_at, erased_at, because = row
    call_id, session_id, principal, request_id, tool, digest, *rest = as_accepted
    accepted_at, timeout_s, key, idempotent, follows, request, *running = rest
    state, owner, attempt, started_at = running
    return CallRecord(
        call_id=call_id,
        session_id=session_id or "",
        principal=principal,
        request_id=request_id,
        tool=tool,
        arguments_digest=digest,
        accepted_at=accepted_at,
        timeout_s=timeout_s,
        idempotency_key=key,
        idempotent=bool(idempotent),
        follows=follows,
        request=request,
        state=CallState(state),
        owner=owner,
        attempt=attempt,
        started_at=started_at,
        settled_at=settled_at,
        settlement=None if encoded is None else _decode(encoded),
        summary=None if summary is None else _decode_summary(summary),
        sent_at=sent_at,
        erased_at=erased_at,
        erased_because=because,
    )


def _names(connection: sqlite3.Connection, session_id: str) -> list[str]:
    return [name for (name,) in connection.execute(_NAMES, (session_id,))]


def _counts(connection: sqlite3.Connection, question: str, name: str) -> tuple[int, ...]:
    """Return the counts of a session or a principal; who has nothing has no row."""
    cursor = connection.execute(question, (name,))
    return cursor.fetchone() or (0,) * len(cursor.description)


def _trim(
    connection: sqlite3.Connection, session_id: str, bounds: SessionBounds, now: float
) -> tuple[int, list[_Name]]:
    sent_count, sent_bytes, tombstone_count = _counts(connection, _SENT_USAGE, session_id)
    erased_count = 0
    forgotten: list[_Name] = []
    if sent_count > bounds.max_results or sent_bytes > bounds.max_result_bytes:
        erased_count = _erase_leading(
            connection,
            connection.execute(_OLDEST_SENT, (session_id,)),
            sent_count - bounds.max_results,
            sent_bytes - bounds.max_result_bytes,
            now,
        )
        *_, tombstone_count = _counts(connection, _SENT_USAGE, session_id)
    if tombstone_count > bounds.max_tombstones:
        excess_count = tombstone_count - bounds.max_tombstones
        forgotten = connection.execute(_FORGET_OLDEST_ERASED, (session_id, excess_count)).fetchall()
    return erased_count, forgotten


def _erase_leading(
    connection: sqlite3.Connection,
    oldest: Iterable[tuple[int, int]],
    excess_count: int,
    excess_bytes: int,
    now: float,
) -> int:
    """Erase results, given by number and size, until no excess is left; return how many."""
    because: ErasedBecause = "expired"
    leading = []
    for number, size_bytes in oldest:
        if excess_count <= 0 and excess_bytes <= 0:
            break
        leading.append((because, now, number))
        excess_count -= 1
        excess_bytes -= size_bytes
    connection.executemany(_ERASE_ONE, leading)
    return len(leading)
