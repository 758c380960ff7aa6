"""The ledger in SQLite: it outlives the daemon. Behaves as `memory_store` does.

What is known of each call is also in memory (`CallIndex`), and is looked up there; the
database is written as it changes, and read where somebody asks for what was said, and when
the daemon begins. One process at a time has the file, by the lock of its directory.

A change is told once it is committed. One of a single call that cannot be stored is taken
back; erasing and forgetting that cannot be stored is done with the next change that can.
"""

import itertools
import sqlite3
from collections.abc import Iterator
from typing import Any

import msgspec

from exai.core.call_store import (
    CallRecord,
    CallState,
    CallStore,
    FoundCalls,
    SessionBounds,
    SessionUsage,
    Settlement,
    StoreStatistics,
    Summary,
    summary_of,
)
from exai.stores.call_index import RECORDS_PER_TURN, CallIndex, Changes, StoredCall
from exai.stores.sqlite_database import SqliteDatabase

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Settlement).decode
_decode_summary = msgspec.json.Decoder(Summary).decode

_AS_ACCEPTED = """
    call_id, session_id, principal, request_id, tool, arguments_digest, accepted_at, timeout_s,
    idempotency_key, idempotent, follows, state, owner, attempt, started_at
"""
_ACCEPT = f"""
    INSERT INTO calls (number, request, {_AS_ACCEPTED})
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_START = """
    UPDATE calls SET state = 'running', owner = ?, attempt = ?, started_at = ?,
        request = iif(?, request, NULL)
    WHERE number = ?
"""
_SETTLE = """
    UPDATE calls SET state = 'settled', settled_at = ?, summary = ?, settlement = ?, rank = ?,
        request = NULL
    WHERE number = ?
"""
_ERASE = """
    UPDATE calls SET state = 'erased', erased_because = ?, erased_at = ?, sent_at = ?, rank = ?,
        settlement = NULL
    WHERE number = ?
"""
_LEAVE = "UPDATE calls SET session_id = NULL, rank = ? WHERE number = ?"
_FORGET = "DELETE FROM calls WHERE number = ?"
_WHAT_WAS_SAID = "SELECT request, settlement FROM calls WHERE number = ?"
_ALL = f"""
    SELECT number, rank, length(settlement), {_AS_ACCEPTED},
        settled_at, summary, sent_at, erased_at, erased_because
    FROM calls ORDER BY number
"""

_Rows = list[tuple[object, ...]]


class SqliteCallStore(CallStore):
    """`CallStore` over an index in memory and a database, which it shares.

    `_numbers` are the calls' rows. Which results were sent is not stored before they are
    erased: after a restart whoever resumes is sent all again.
    """

    durable = True

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._index = CallIndex()
        self._numbers: dict[str, int] = {}
        self._next_number = itertools.count(1)
        self._next_rank = itertools.count(1)
        self._due = _Due()

    async def load(self) -> None:
        """Take up what is stored; to be done before anything else."""
        stored = await self._database.submit(_load)
        self._index.load([call for _, call in stored])
        self._numbers = {call.record.call_id: number for number, call in stored}
        self._next_number = itertools.count(1 + max(self._numbers.values(), default=0))
        self._next_rank = itertools.count(1 + max((call.rank for _, call in stored), default=0))

    @property
    def ledger_id(self) -> str:
        """Return the name that the database was given at its beginning."""
        return self._database.ledger_id

    async def accept(self, record: CallRecord) -> CallRecord | None:
        """Insert `record` unless its id is known."""
        known = self._index.accept(msgspec.structs.replace(record, request=None))
        if known is not None:
            return await self._whole(known)
        number = self._numbers[record.call_id] = next(self._next_number)
        values = _values_of(number, record)
        try:
            await self._database.submit(
                lambda connection: connection.execute(_ACCEPT, values), len(record.request or b"")
            )
        except Exception:
            self._index.withdraw(record.call_id)
            del self._numbers[record.call_id]
            raise
        return None

    async def start(self, call_id: str, owner: str, attempt: int, now: float) -> bool:
        """Mark a call as running."""
        before = self._index.get(call_id)
        started = self._index.start(call_id, owner, attempt, now)
        if before is None or started is None:
            return False
        keeps_request = started.idempotent and attempt == 1
        values = (owner, attempt, now, keeps_request, self._numbers[call_id])
        await self._change(_START, values, before)
        return True

    async def settle(self, call_id: str, settlement: Settlement, now: float) -> bool:
        """Keep a call's outcome unless it has one."""
        before, summary, encoded = (
            self._index.get(call_id),
            summary_of(settlement),
            _encode(settlement),
        )
        if before is None or not self._index.settle(call_id, summary, len(encoded), now):
            return False
        rank, number = next(self._next_rank), self._numbers[call_id]
        values = (now, _encode(summary), encoded, rank, number)
        await self._change(_SETTLE, values, before, len(encoded))
        return True

    async def find(self, session_id: str, request_id: str) -> CallRecord | None:
        """Return what is known of a session's request."""
        found = self._index.find(session_id, request_id)
        return None if found is None else await self._whole(found)

    async def knows(self, session_id: str, request_id: str) -> bool:
        """Tell whether anything is known of a session's request."""
        return self._index.find(session_id, request_id) is not None

    async def find_by_key(self, principal: str, idempotency_key: str) -> CallRecord | None:
        """Return what is known of the request that a principal gave this key."""
        found = self._index.find_by_key(principal, idempotency_key)
        return None if found is None else await self._whole(found)

    async def find_call(self, call_id: str) -> CallRecord | None:
        """Return what is known of a call."""
        found = self._index.get(call_id)
        return None if found is None else await self._whole(found)

    async def find_all(self, principal: str, name: str, limit: int) -> FoundCalls:
        """Return a principal's calls of this name."""
        return self._index.find_all(principal, name, limit)

    async def unsettled(self) -> list[CallRecord]:
        """Look through all records."""
        return await self._all_whole(self._index.unsettled())

    async def key_count(self, principal: str) -> int:
        """Return how many keys of a principal are remembered."""
        return self._index.key_count(principal)

    async def acknowledge(
        self, session_id: str, request_ids: list[str], bounds: SessionBounds, now: float
    ) -> int:
        """Erase acknowledged results."""
        count, changes = self._index.acknowledge(session_id, request_ids, bounds, now)
        await self._drop(changes)
        return count

    async def owed(self, session_id: str) -> list[str]:
        """Return what has not settled, or is not erased, as far as that is stored."""
        owed = self._index.owed(session_id)
        await self._database.submit(lambda connection: None)
        stored = set(self._index.owed(session_id))
        return [request_id for request_id in owed if request_id in stored]

    async def usage(self, session_id: str) -> SessionUsage:
        """Return how many results a session has, and how large they are together."""
        return self._index.usage(session_id)

    async def principal_result_bytes(self, principal: str) -> int:
        """Return how large a principal's results are together."""
        return self._index.principal_result_bytes(principal)

    async def mark_sent(
        self, session_id: str, request_ids: list[str], bounds: SessionBounds, now: float
    ) -> int:
        """Let sent results make room for others."""
        return await self._drop(self._index.mark_sent(session_id, request_ids, bounds, now))

    async def forget_sent(self, session_id: str) -> None:
        """Let no result make room for others."""
        self._index.forget_sent(session_id)

    async def trim_keyed(self, principal: str, max_bytes: int, now: float) -> int:
        """Erase the oldest results that only their keys keep."""
        return await self._drop(self._index.trim_keyed(principal, max_bytes, now))

    async def expire(self, now: float, result_ttl_s: float, idempotency_ttl_s: float) -> int:
        """Erase old results, forget old tombstones."""
        return await self._drop(self._index.expire(now, result_ttl_s, idempotency_ttl_s))

    async def end_session(self, session_id: str) -> None:
        """Forget a session's records, but for those with an idempotency key."""
        changes = self._index.end_session(session_id, RECORDS_PER_TURN)
        await self._drop(changes)
        while len(changes) == RECORDS_PER_TURN:
            changes = self._index.end_session(session_id, RECORDS_PER_TURN)
            await self._drop(changes)

    def statistics(self) -> StoreStatistics:
        """Return the numbers now."""
        return StoreStatistics(len(self._index), self._index.result_bytes)

    async def _change(
        self, statement: str, values: tuple[object, ...], before: CallRecord, size_bytes: int = 0
    ) -> None:
        """Store the change of one call, which is taken back where that fails."""
        try:
            await self._database.submit(
                lambda connection: connection.execute(statement, values), size_bytes
            )
        except Exception:
            self._index.put_back(before)
            raise

    async def _drop(self, changes: Changes) -> int:
        """Store what was erased and forgotten, with what is due since earlier.

        Returns how many results were erased.
        """
        due, self._due = self._due, _Due()
        for call_id in changes.left:
            due.left.append((next(self._next_rank), self._numbers[call_id]))
        for record in changes.erased:
            number, rank = self._numbers[record.call_id], next(self._next_rank)
            because, erased_at, sent_at = record.erased_because, record.erased_at, record.sent_at
            due.erased.append((because, erased_at, sent_at, rank, number))
        for call_id in changes.forgotten:
            due.forgotten.append((self._numbers.pop(call_id),))
        parts = list(due.parts())
        try:
            while parts:
                await self._database.submit(parts[0].carry_out)
                parts.pop(0)
        finally:
            for part in parts:
                self._due.add(part)
        return len(changes.erased)

    async def _whole(self, record: CallRecord) -> CallRecord:
        """Return a record with what was said, which rests in the database."""
        if record.state is CallState.ERASED:
            return record
        (whole,) = await self._all_whole([record])
        return whole

    async def _all_whole(self, records: list[CallRecord]) -> list[CallRecord]:
        """Return records as they are now, with what was said."""
        numbers = [self._numbers[record.call_id] for record in records]
        return await self._database.submit(
            lambda connection: [
                _with_what_was_said(connection, *each)
                for each in zip(records, numbers, strict=True)
            ]
        )


class _Due:
    """Changes of many calls that are to be stored, as the values of their statements."""

    def __init__(
        self, left: _Rows | None = None, erased: _Rows | None = None, forgotten: _Rows | None = None
    ) -> None:
        self.left, self.erased, self.forgotten = left or [], erased or [], forgotten or []

    def parts(self) -> Iterator["_Due"]:
        """Yield so many at once that others have their turn in between; in any order, since a
        call that is forgotten does not care.
        """
        for name in ("left", "erased", "forgotten"):
            rows: _Rows = getattr(self, name)
            for start in range(0, len(rows), RECORDS_PER_TURN):
                yield _Due(**{name: rows[start : start + RECORDS_PER_TURN]})

    def add(self, other: "_Due") -> None:
        self.left += other.left
        self.erased += other.erased
        self.forgotten += other.forgotten

    def carry_out(self, connection: sqlite3.Connection) -> None:
        connection.executemany(_LEAVE, self.left)
        connection.executemany(_ERASE, self.erased)
        connection.executemany(_FORGET, self.forgotten)


def _with_what_was_said(
    connection: sqlite3.Connection, record: CallRecord, number: int
) -> CallRecord:
    said = connection.execute(_WHAT_WAS_SAID, (number,)).fetchone()
    request, settlement = said or (None, None)
    return msgspec.structs.replace(
        record,
        request=request,
        settlement=None if settlement is None else _decode(settlement),
    )


def _values_of(number: int, record: CallRecord) -> tuple[object, ...]:
    return (
        number,
        record.request,
        record.call_id,
        record.session_id or None,
        record.principal,
        record.request_id,
        record.tool,
        record.arguments_digest,
        record.accepted_at,
        record.timeout_s,
        record.idempotency_key,
        record.idempotent,
        record.follows,
        record.state.value,
        record.owner,
        record.attempt,
        record.started_at,
    )


def _load(connection: sqlite3.Connection) -> list[tuple[int, StoredCall]]:
    return [(row[0], _stored_call(*row[1:])) for row in connection.execute(_ALL)]


def _stored_call(rank: int, size_bytes: int | None, *columns: Any) -> StoredCall:
    call_id, session_id, principal, request_id, tool, digest, accepted_at, *rest = columns
    timeout_s, key, idempotent, follows, state, owner, attempt, started_at, *later = rest
    settled_at, summary, sent_at, erased_at, because = later
    record = CallRecord(
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
        state=CallState(state),
        owner=owner,
        attempt=attempt,
        started_at=started_at,
        settled_at=settled_at,
        result_bytes=size_bytes or 0,
        summary=None if summary is None else _decode_summary(summary),
        sent_at=sent_at,
        erased_at=erased_at,
        erased_because=because,
    )
    return StoredCall(record, rank)
