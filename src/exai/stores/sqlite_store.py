"""The ledger in SQLite: it outlives the daemon. Behaves as `memory_store` does."""

import sqlite3
from collections.abc import Iterable, Sequence
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
from exai.stores import sqlite_statements as sql
from exai.stores.request_names import Name, RequestNames
from exai.stores.sqlite_database import SqliteDatabase

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Settlement).decode
_decode_summary = msgspec.json.Decoder(Summary).decode


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
        known = self._database.submit(lambda connection: _accept(connection, record), size_bytes)
        self._names.add(record.session_id, record.request_id)
        return await known

    async def start(self, call_id: str, owner: str, attempt: int, now: float) -> bool:
        """Mark a call as running."""
        changed_count = await self._change(sql.START, owner, attempt, now, call_id)
        return changed_count > 0

    async def settle(self, call_id: str, settlement: Settlement, now: float) -> bool:
        """Keep a call's outcome unless it has one."""
        encoded, summary = _encode(settlement), _encode(summary_of(settlement))
        size_bytes = len(encoded)

        def settle(connection: sqlite3.Connection) -> bool:
            values = (now, summary, size_bytes, call_id)
            if not connection.execute(sql.SETTLE, values).rowcount:
                return False
            connection.execute(sql.KEEP, (encoded, call_id))
            return True

        return await self._database.submit(settle, size_bytes)

    async def find(self, session_id: str, request_id: str) -> CallRecord | None:
        """Return what is known of a session's request."""
        if not await self.knows(session_id, request_id):
            return None
        names = (session_id, request_id)
        return await self._database.submit(lambda connection: _find(connection, sql.FIND, names))

    async def knows(self, session_id: str, request_id: str) -> bool:
        """Tell whether anything may be known of a session's request."""
        known = self._names.may_have(session_id, request_id)
        if known is not None:
            return known
        with self._names.asking(session_id):
            stored = await self._database.submit(
                lambda connection: [
                    name for (name,) in connection.execute(sql.NAMES, (session_id,))
                ]
            )
            self._names.load(session_id, stored)
        return self._names.has(session_id, request_id)

    async def find_by_key(self, principal: str, idempotency_key: str) -> CallRecord | None:
        """Return what is known of the request that a principal gave this key."""
        names = (principal, idempotency_key)
        return await self._database.submit(
            lambda connection: _find(connection, sql.FIND_BY_KEY, names)
        )

    async def find_all(self, principal: str, name: str) -> list[CallRecord]:
        """Look it up in both indexes."""
        return await self._database.submit(
            lambda connection: [
                _record_in(row) for row in connection.execute(sql.FIND_ALL, (principal, name))
            ]
        )

    async def key_count(self, principal: str) -> int:
        """Return how many keys of a principal are remembered."""
        return await self._database.submit(
            lambda connection: _counts(connection, sql.KEY_COUNT, principal)[0]
        )

    async def acknowledge(
        self, session_id: str, request_ids: list[str], bounds: SessionBounds, now: float
    ) -> int:
        """Erase acknowledged results."""
        because: ErasedBecause = "acknowledged"
        values = [(because, now, session_id, request_id) for request_id in request_ids]
        count, _ = await self._change_within(
            sql.ERASE_ACKNOWLEDGED, values, session_id, bounds, now
        )
        return count

    async def owed(self, session_id: str) -> list[str]:
        """Return what has not settled, or is not erased."""
        return await self._database.submit(
            lambda connection: [name for (name,) in connection.execute(sql.OWED, (session_id,))]
        )

    async def unsettled(self) -> list[CallRecord]:
        """Look through all calls that are not erased."""
        return await self._database.submit(
            lambda connection: [_record_in(row) for row in connection.execute(sql.UNSETTLED)]
        )

    async def usage(self, session_id: str) -> SessionUsage:
        """Return how many results a session has, and how large they are together."""
        return await self._database.submit(
            lambda connection: SessionUsage(*_counts(connection, sql.USAGE, session_id))
        )

    async def mark_sent(
        self, session_id: str, request_ids: list[str], bounds: SessionBounds, now: float
    ) -> int:
        """Let sent results make room for others."""
        values = [(now, session_id, request_id) for request_id in request_ids]
        _, erased_count = await self._change_within(sql.MARK_SENT, values, session_id, bounds, now)
        return erased_count

    async def forget_sent(self, session_id: str) -> None:
        """Let no result make room for others."""
        await self._change(sql.FORGET_SENT, session_id)

    async def trim_keyed(self, principal: str, max_bytes: int, now: float) -> int:
        """Erase the oldest results that only their keys keep."""

        def trim(connection: sqlite3.Connection) -> int:
            (kept_bytes,) = _counts(connection, sql.KEPT_BYTES, principal)
            oldest = connection.execute(sql.OLDEST_KEPT_BY_KEY, (principal,))
            return _erase_leading(connection, oldest, 0, kept_bytes - max_bytes, now)

        return await self._database.submit(trim)

    async def expire(self, now: float, result_ttl_s: float, idempotency_ttl_s: float) -> int:
        """Erase old results, forget old tombstones."""
        horizon, because = now - result_ttl_s, "expired"
        key_horizon = now - max(idempotency_ttl_s, result_ttl_s)
        _, erased_count, _ = await self._change_in_turns(
            (sql.FORGET_ERASED_UNTIL, (horizon,)),
            (sql.ERASE_SETTLED_UNTIL, (because, now, horizon)),
            (sql.FORGET_KEYS_UNTIL, (key_horizon,)),
        )
        return erased_count

    async def end_session(self, session_id: str) -> None:
        """Forget a session's records, but for those with an idempotency key."""
        mark = self._names.mark()
        await self._change_in_turns(
            (sql.LEAVE_SESSION, (session_id,)), (sql.FORGET_OF_SESSION, (session_id,))
        )
        self._names.end_session(session_id, mark)

    def statistics(self) -> StoreStatistics:
        """Return the numbers now."""
        totals = self._database.totals
        return StoreStatistics(totals.record_count, totals.result_bytes)

    async def _change(self, statement: str, *values: object) -> int:
        """Carry out one statement; return how many calls it changed."""
        return await self._database.submit(
            lambda connection: connection.execute(statement, values).rowcount
        )

    async def _change_within(
        self,
        statement: str,
        values: Sequence[tuple[object, ...]],
        session_id: str,
        bounds: SessionBounds,
        now: float,
    ) -> tuple[int, int]:
        """Carry out a statement for each of the values, and trim the session.

        Returns how many calls it changed, and how many results were erased to make room.
        """
        mark = self._names.mark()

        def change(connection: sqlite3.Connection) -> tuple[int, int, list[Name]]:
            count = max(0, connection.executemany(statement, values).rowcount)
            return count, *_trim(connection, session_id, bounds, now)

        count, erased_count, forgotten = await self._database.submit(change)
        self._names.discard(forgotten, mark)
        return count, erased_count

    async def _change_in_turns(self, *statements: tuple[str, tuple[object, ...]]) -> list[int]:
        """Carry out statements, each as often as it finds as many calls as it may change.

        One is not begun before those before it are done. Returns how many calls each has
        changed.
        """
        totals = [0] * len(statements)
        while True:
            mark = self._names.mark()
            changed = await self._database.submit(
                lambda connection: _changed_at_once(connection, statements)
            )
            for n, (count, forgotten) in enumerate(changed):
                totals[n] += count
                self._names.discard(forgotten, mark)
            if changed[-1][0] < sql.CALLS_PER_TURN:
                return totals


def _changed_at_once(
    connection: sqlite3.Connection, statements: Sequence[tuple[str, tuple[object, ...]]]
) -> list[tuple[int, list[Name]]]:
    """Carry out statements, up to the first that may find more calls than it has changed."""
    changed = []
    for statement in statements:
        changed.append(_changed(connection, *statement))
        if changed[-1][0] >= sql.CALLS_PER_TURN:
            break
    return changed


def _changed(
    connection: sqlite3.Connection, statement: str, values: tuple[object, ...]
) -> tuple[int, list[Name]]:
    """Return how many calls a statement has changed, and which of them it says it forgot."""
    cursor = connection.execute(statement, values)
    forgotten: list[Name] = cursor.fetchall()
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
    if connection.execute(sql.INSERT, values).rowcount:
        return None
    known = _find(connection, sql.FIND, (record.session_id, record.request_id))
    return known or _find(connection, sql.FIND_BY_KEY, (record.principal, record.idempotency_key))


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


def _counts(connection: sqlite3.Connection, question: str, name: str) -> tuple[int, ...]:
    """Return the counts of a session or a principal; who has nothing has no row."""
    cursor = connection.execute(question, (name,))
    return cursor.fetchone() or (0,) * len(cursor.description)


def _trim(
    connection: sqlite3.Connection, session_id: str, bounds: SessionBounds, now: float
) -> tuple[int, list[Name]]:
    sent_count, sent_bytes, tombstone_count = _counts(connection, sql.SENT_USAGE, session_id)
    erased_count = 0
    forgotten: list[Name] = []
    if sent_count > bounds.max_results or sent_bytes > bounds.max_result_bytes:
        erased_count = _erase_leading(
            connection,
            connection.execute(sql.OLDEST_SENT, (session_id,)),
            sent_count - bounds.max_results,
            sent_bytes - bounds.max_result_bytes,
            now,
        )
        *_, tombstone_count = _counts(connection, sql.SENT_USAGE, session_id)
    if tombstone_count > bounds.max_tombstones:
        excess_count = tombstone_count - bounds.max_tombstones
        forgotten = connection.execute(
            sql.FORGET_OLDEST_ERASED, (session_id, excess_count)
        ).fetchall()
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
    connection.executemany(sql.ERASE_ONE, leading)
    return len(leading)
