"""The ledger in SQLite: it outlives the daemon. Behaves as `memory_store` does.

What is known of each call is also in memory (`CallIndex`), and is looked up there; the
database is written as it changes, and read where somebody asks for what was said, and when
the daemon begins. One process at a time has the file, by the lock of its directory.

A change is told once it is committed. One of a single call that cannot be stored is taken
back; erasing and forgetting that cannot be stored is done with the next erasing or forgetting
that can. All of this whoever still waits.
"""

import itertools
import sqlite3
from collections import deque
from contextlib import suppress
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from exai.core.call_store import (
    CallRecord,
    CallState,
    FoundCalls,
    Settlement,
    Summary,
    summary_of,
)
from exai.core.errors import ServiceUnavailable
from exai.stores.call_index import RECORDS_PER_TURN, Changes, StoredCall
from exai.stores.indexed_store import IndexedCallStore
from exai.stores.sqlite_database import SqliteDatabase, Undo

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
# Whole, for what was erased may have been a result that could not be stored.
_ERASE = """
    UPDATE calls SET state = 'erased', erased_because = ?, erased_at = ?, sent_at = ?, rank = ?,
        settled_at = ?, summary = ?, request = NULL, settlement = NULL
    WHERE number = ?
"""
# It may be carried out late, after the call has settled.
_LEAVE = "UPDATE calls SET session_id = NULL, rank = max(rank, ?) WHERE number = ?"
_FORGET = "DELETE FROM calls WHERE number = ?"
_STATE = "SELECT state FROM calls WHERE number = ?"
_WHAT_WAS_SAID = "SELECT request, settlement FROM calls WHERE number = ?"
_ALL = f"""
    SELECT number, rank, length(settlement), {_AS_ACCEPTED},
        settled_at, summary, sent_at, erased_at, erased_because
    FROM calls ORDER BY number
"""

_Due = list[tuple[str, tuple[object, ...]]]
"""Statements that change many calls, with their values, in the order in which to store them."""


class SqliteCallStore(IndexedCallStore):
    """`CallStore` over an index in memory and a database, which it shares.

    `_numbers` are the calls' rows. Which results were sent is not stored before they are
    erased: after a restart whoever resumes is sent all again.
    """

    durable = True

    def __init__(self, database: SqliteDatabase) -> None:
        super().__init__()
        self._database = database
        self._numbers: dict[str, int] = {}
        self._next_number = itertools.count(1)
        self._next_rank = itertools.count(1)
        self._due: _Due = []

    async def load(self) -> None:
        """Take up what is stored; to be done before anything else."""
        stored = await self._database.submit(_load)
        changes = self._index.load([call for _, call in stored])
        self._numbers = {call.record.call_id: number for number, call in stored}
        self._next_number = itertools.count(1 + max(self._numbers.values(), default=0))
        self._next_rank = itertools.count(1 + max((call.rank for _, call in stored), default=0))
        if changes:
            with suppress(ServiceUnavailable):  # on a full disk: it is done with the next change
                await self._drop(changes)

    @property
    def ledger_id(self) -> str:
        """Return the name that the database was given at its beginning."""
        return self._database.ledger_id

    async def accept(self, record: CallRecord) -> CallRecord | None:
        """Insert `record` unless its id is known."""
        without_request = msgspec.structs.replace(record, request=None)
        while (known := self._index.accept(without_request)) is not None:
            if (whole := await self._whole(known)) is not None:
                return whole
        number = self._numbers[record.call_id] = next(self._next_number)
        values = _values_of(number, record)
        await self._database.submit(
            lambda connection: connection.execute(_ACCEPT, values).rowcount,
            len(record.request or b""),
            partial(self._withdraw, record.call_id),
        )
        return None

    async def start(self, call_id: str, owner: str, attempt: int, now: float) -> bool:
        """Mark a call as running."""
        before = self._index.get(call_id)
        started = self._index.start(call_id, owner, attempt, now)
        if before is None or started is None:
            return False
        keeps_request = started.idempotent and attempt == 1
        values = (owner, attempt, now, keeps_request, self._numbers[call_id])
        return await self._change(_START, values, partial(self._index.undo_start, before, attempt))

    async def settle(self, call_id: str, settlement: Settlement, now: float) -> bool:
        """Keep a call's outcome unless it has one."""
        summary, encoded = summary_of(settlement), _encode(settlement)
        if not self._index.settle(call_id, summary, len(encoded), now):
            return False
        values = (now, _encode(summary), encoded, next(self._next_rank), self._numbers[call_id])
        undo = partial(self._index.undo_settle, call_id)
        return await self._change(_SETTLE, values, undo, len(encoded))

    async def find_all(self, principal: str, name: str, limit: int) -> FoundCalls:
        """Return a principal's calls of this name, but for those that could not be stored."""
        found = self._index.find_all(principal, name, limit)
        numbers = [self._numbers[record.call_id] for record in found.records]
        states = await self._database.submit(
            lambda connection: [
                connection.execute(_STATE, (number,)).fetchone() for number in numbers
            ]
        )
        pairs = zip(found.records, states, strict=True)
        told = [self._as_stored(record, *(row or (None,))) for record, row in pairs]
        records = [record for record in told if record is not None]
        return FoundCalls(records, found.more_count)

    async def unsettled(self) -> list[CallRecord]:
        """Look through all records."""
        return await self._all_whole(self._index.unsettled())

    async def owed(self, session_id: str) -> list[str]:
        """Return what has not settled, or is not erased, as far as that is stored."""
        owed = [
            (record.request_id, self._numbers[record.call_id])
            for record in self._index.owed(session_id)
        ]
        return await self._database.submit(
            lambda connection: [
                request_id
                for request_id, number in owed
                if connection.execute(_STATE, (number,)).fetchone()
            ]
        )

    async def _change(
        self, statement: str, values: tuple[object, ...], undo: Undo, size_bytes: int = 0
    ) -> bool:
        """Store the change of one call. False: its acceptance could not be stored."""
        changed_count = await self._database.submit(
            lambda connection: connection.execute(statement, values).rowcount, size_bytes, undo
        )
        return changed_count > 0

    def _withdraw(self, call_id: str) -> None:
        self._index.withdraw(call_id)
        self._numbers.pop(call_id, None)  # it may have been forgotten

    async def _drop(self, changes: Changes) -> int:
        """Store what was erased and forgotten, with what is due since earlier.

        Returns how many results were erased.
        """
        due, self._due = self._due, []
        due += [(_LEAVE, (next(self._next_rank), self._numbers[each])) for each in changes.left]
        due += [(_ERASE, self._erasure_of(record)) for record in changes.erased]
        due += [(_FORGET, (self._numbers.pop(each),)) for each in changes.forgotten]
        parts = deque(
            due[start : start + RECORDS_PER_TURN] for start in range(0, len(due), RECORDS_PER_TURN)
        )
        try:
            while parts:
                part = parts.popleft()
                await self._database.submit(
                    partial(_store, part), undo=partial(self._put_off, part)
                )
        finally:
            for part in parts:
                self._put_off(part)
        return len(changes.erased)

    def _erasure_of(self, record: CallRecord) -> tuple[object, ...]:
        return (
            record.erased_because,
            record.erased_at,
            record.sent_at,
            next(self._next_rank),
            record.settled_at,
            _encode(record.summary),
            self._numbers[record.call_id],
        )

    def _put_off(self, part: _Due) -> None:
        self._due += part

    def _as_stored(self, record: CallRecord, state: str | None) -> CallRecord | None:
        """Return a record, or as it is now where it could not be stored so."""
        could_not_settle = record.state is CallState.SETTLED and state != CallState.SETTLED
        if record.state is not CallState.ERASED and (state is None or could_not_settle):
            return self._index.get(record.call_id)
        return record

    async def _whole(self, record: CallRecord) -> CallRecord | None:
        """Return a record with what was said; None: its acceptance could not be stored.

        The database is asked for what is erased too: after that, its erasing is committed.
        """
        (row,) = await self._said([record])
        return await self._with(row, record)

    async def _all_whole(self, records: list[CallRecord]) -> list[CallRecord]:
        """Return records with what was said, but for those that could not be stored."""
        rows = await self._said(records)
        found = [await self._with(*each) for each in zip(rows, records, strict=True)]
        return [record for record in found if record is not None]

    async def _said(self, records: list[CallRecord]) -> list["_Said | None"]:
        """Read what was said in calls, from their rows."""
        numbers = [self._numbers[record.call_id] for record in records]
        return await self._database.submit(
            lambda connection: [_read_said(connection, number) for number in numbers]
        )

    async def _with(self, row: "_Said | None", record: CallRecord) -> CallRecord | None:
        """Return a record with its row, or as it is now where it could not be stored so."""
        if record.state is CallState.ERASED:
            return record
        if row is None or (record.state is CallState.SETTLED and row.settlement is None):
            known = self._index.get(record.call_id)
            return None if known is None else await self._whole(known)
        return msgspec.structs.replace(record, request=row.request, settlement=row.settlement)


def _store(due: _Due, connection: sqlite3.Connection) -> None:
    for statement, alike in groupby(due, key=itemgetter(0)):
        connection.executemany(statement, [values for _, values in alike])


class _Said(NamedTuple):
    request: bytes | None
    settlement: Settlement | None


def _read_said(connection: sqlite3.Connection, number: int) -> _Said | None:
    row = connection.execute(_WHAT_WAS_SAID, (number,)).fetchone()
    if row is None:
        return None
    request, settlement = row
    return _Said(request, None if settlement is None else _decode(settlement))


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
