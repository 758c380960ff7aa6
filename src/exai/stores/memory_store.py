"""The ledger in memory: fast, gone with the process, and the definition of the behaviour."""

import asyncio
import secrets
from collections import Counter, OrderedDict, defaultdict
from itertools import takewhile

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
    summary_of,
)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Settlement).decode
_RECORDS_PER_TURN = 1000
_DECODED_AT_ONCE_BYTES = 65_536
_UNSETTLED = (CallState.ACCEPTED, CallState.RUNNING)


class MemoryCallStore(CallStore):
    """`CallStore` over dictionaries; its methods hardly ever wait.

    Settlements rest encoded: thousands of them, as objects, would be what the garbage
    collector looks at most. A record says SETTLED and has its settlement in `_settlements`.
    `_settled_at`, `_erased_at` and `_keyed_at` (when a call with a key settled) are in the
    order of their times, so that expiry looks only at what expires. A tombstone stands in
    `_erased_at` if it has no key, else in `_keyed_at` alone.
    """

    durable = False

    def __init__(self) -> None:
        self._ledger_id = secrets.token_hex(8)
        self._records: dict[str, CallRecord] = {}
        self._settlements: dict[str, bytes] = {}
        self._by_session: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self._by_key: dict[tuple[str, str], str] = {}
        self._key_count: Counter[str] = Counter()
        self._settled_at: dict[str, float] = {}
        self._erased_at: dict[str, float] = {}
        self._keyed_at: dict[str, float] = {}
        self._of_session: defaultdict[str, _Kept] = defaultdict(_Kept)
        self._of_principal: defaultdict[str, _Kept] = defaultdict(_Kept)
        self._result_bytes = 0

    @property
    def ledger_id(self) -> str:
        """Return the name it was given at its beginning."""
        return self._ledger_id

    async def accept(self, record: CallRecord) -> CallRecord | None:
        """Insert `record` unless its id is known."""
        known_id = self._by_session[record.session_id].get(record.request_id)
        key = _key_of(record)
        if known_id is None and key is not None:
            known_id = self._by_key.get(key)
        if known_id is not None:
            return await self._whole(known_id)
        self._records[record.call_id] = record
        self._by_session[record.session_id][record.request_id] = record.call_id
        if key is not None:
            self._by_key[key] = record.call_id
            self._key_count[record.principal] += 1
        return None

    async def start(self, call_id: str, owner: str, attempt: int, now: float) -> bool:
        """Mark a call as running."""
        record = self._records.get(call_id)
        if record is None or record.state not in _UNSETTLED or record.attempt >= attempt:
            return False
        self._records[call_id] = msgspec.structs.replace(
            record,
            state=CallState.RUNNING,
            owner=owner,
            attempt=attempt,
            started_at=now,
            request=record.request if record.idempotent and attempt == 1 else None,
        )
        return True

    async def settle(self, call_id: str, settlement: Settlement, now: float) -> bool:
        """Keep a call's outcome unless it has one."""
        record = self._records.get(call_id)
        if record is None or record.state not in _UNSETTLED:
            return False
        encoded = self._settlements[call_id] = _encode(settlement)
        size_bytes = len(encoded)
        self._records[call_id] = msgspec.structs.replace(
            record,
            state=CallState.SETTLED,
            request=None,
            settled_at=now,
            summary=summary_of(settlement),
        )
        self._settled_at[call_id] = now
        if record.idempotency_key is not None:
            self._keyed_at[call_id] = now
        self._account_of(record).add_result(call_id, size_bytes)
        self._result_bytes += size_bytes
        return True

    async def find(self, session_id: str, request_id: str) -> CallRecord | None:
        """Return what is known of a session's request."""
        of_session = self._by_session.get(session_id)
        call_id = None if of_session is None else of_session.get(request_id)
        return None if call_id is None else await self._whole(call_id)

    async def knows(self, session_id: str, request_id: str) -> bool:
        """Tell whether anything is known of a session's request."""
        return request_id in self._by_session.get(session_id, {})

    async def find_by_key(self, principal: str, idempotency_key: str) -> CallRecord | None:
        """Return what is known of the request that a principal gave this key."""
        call_id = self._by_key.get((principal, idempotency_key))
        return None if call_id is None else await self._whole(call_id)

    async def find_all(self, principal: str, name: str) -> list[CallRecord]:
        """Look through all records."""
        found = [
            (record, self._settlements.get(record.call_id))
            for record in self._records.values()
            if record.principal == principal and name in (record.call_id, record.request_id)
        ]
        found.sort(key=lambda each: each[0].accepted_at)
        return [await _whole(record, encoded) for record, encoded in found]

    async def key_count(self, principal: str) -> int:
        """Return how many keys of a principal are remembered."""
        return self._key_count[principal]

    async def acknowledge(
        self, session_id: str, request_ids: list[str], bounds: SessionBounds, now: float
    ) -> int:
        """Erase acknowledged results."""
        of_session = self._by_session.get(session_id, {})
        named = dict.fromkeys(of_session.get(request_id) for request_id in request_ids)
        settled = [call_id for call_id in named if call_id in self._settled_at]
        for call_id in settled:
            self._erase(call_id, "acknowledged", now)
        self._trim(session_id, bounds, now)
        return len(settled)

    async def owed(self, session_id: str) -> list[str]:
        """Return what has not settled, or is not erased."""
        of_session = self._by_session.get(session_id, {})
        return [
            request_id
            for request_id, call_id in of_session.items()
            if self._records[call_id].state is not CallState.ERASED
        ]

    async def unsettled(self) -> list[CallRecord]:
        """Look through all records."""
        return [record for record in self._records.values() if record.state in _UNSETTLED]

    async def usage(self, session_id: str) -> SessionUsage:
        """Return how many results a session has, and how large they are together."""
        kept = self._of_session.get(session_id, _Kept())
        return SessionUsage(len(kept.result_bytes), kept.total_bytes)

    async def mark_sent(
        self, session_id: str, request_ids: list[str], bounds: SessionBounds, now: float
    ) -> int:
        """Let sent results make room for others."""
        of_session = self._by_session.get(session_id, {})
        for request_id in request_ids:
            call_id = of_session.get(request_id)
            if call_id in self._settled_at:
                self._of_session[session_id].mark_sent(call_id)
                record = self._records[call_id]
                if record.sent_at is None:
                    self._records[call_id] = msgspec.structs.replace(record, sent_at=now)
        return self._trim(session_id, bounds, now)

    async def forget_sent(self, session_id: str) -> None:
        """Let no result make room for others."""
        if session_id in self._of_session:
            self._of_session[session_id].forget_sent()

    async def trim_keyed(self, principal: str, max_bytes: int, now: float) -> int:
        """Erase the oldest results that only their keys keep."""
        kept, erased = self._of_principal.get(principal, _Kept()), 0
        while kept.total_bytes > max_bytes:
            self._erase(kept.oldest_result, "expired", now)
            erased += 1
        return erased

    async def expire(self, now: float, result_ttl_s: float, idempotency_ttl_s: float) -> int:
        """Erase old results, forget old tombstones."""
        horizon = now - result_ttl_s
        for call_id in _until(self._erased_at, horizon):
            self._forget(call_id)
        expired = _until(self._settled_at, horizon)
        for call_id in expired:
            self._erase(call_id, "expired", now)
        for call_id in _until(self._keyed_at, now - max(idempotency_ttl_s, result_ttl_s)):
            self._forget(call_id)
        return len(expired)

    async def end_session(self, session_id: str) -> None:
        """Forget a session's records, but for those with an idempotency key."""
        of_session = self._by_session.get(session_id, {})
        while of_session:  # also with what is accepted meanwhile
            for done, (request_id, call_id) in enumerate(list(of_session.items()), 1):
                if of_session.get(request_id) == call_id:  # not forgotten meanwhile
                    self._leave_session(self._records[call_id])
                if done % _RECORDS_PER_TURN == 0:
                    await asyncio.sleep(0)
        if not self._by_session.get(session_id):
            self._by_session.pop(session_id, None)

    def statistics(self) -> StoreStatistics:
        """Return the numbers now."""
        return StoreStatistics(record_count=len(self._records), result_bytes=self._result_bytes)

    def _trim(self, session_id: str, bounds: SessionBounds, now: float) -> int:
        """Erase and forget a session's oldest while it has too many, or too large ones."""
        kept, erased = self._of_session.get(session_id, _Kept()), 0
        while len(kept.sent) > bounds.max_results or kept.sent_bytes > bounds.max_result_bytes:
            self._erase(next(iter(kept.sent)), "expired", now)
            erased += 1
        while len(kept.tombstones) > bounds.max_tombstones:
            self._forget(next(iter(kept.tombstones)))
        return erased

    async def _whole(self, call_id: str) -> CallRecord:
        return await _whole(self._records[call_id], self._settlements.get(call_id))

    def _account_of(self, record: CallRecord) -> "_Kept":
        """Return where a record's result counts: in its session, or after that by its key."""
        of_session = self._by_session.get(record.session_id, {})
        if of_session.get(record.request_id) == record.call_id:
            return self._of_session[record.session_id]
        return self._of_principal[record.principal]

    def _leave_session(self, record: CallRecord) -> None:
        if record.idempotency_key is None:
            self._forget(record.call_id)
            return
        size_bytes = self._account_of(record).forget(record.call_id)
        self._by_session[record.session_id].pop(record.request_id)
        if record.call_id in self._settled_at:
            self._account_of(record).add_result(record.call_id, size_bytes)
        self._drop_empty_accounts(record)

    def _erase(self, call_id: str, because: ErasedBecause, now: float) -> None:
        record = self._records[call_id]
        self._records[call_id] = msgspec.structs.replace(
            record,
            state=CallState.ERASED,
            erased_because=because,
            erased_at=now,
        )
        del self._settled_at[call_id], self._settlements[call_id]
        account = self._account_of(record)
        self._result_bytes -= account.forget(call_id)
        if record.idempotency_key is None:
            self._erased_at[call_id] = now
            account.tombstones[call_id] = None
        self._drop_empty_accounts(record)

    def _forget(self, call_id: str) -> None:
        record = self._records.pop(call_id)
        self._settlements.pop(call_id, None)
        for times in (self._settled_at, self._erased_at, self._keyed_at):
            times.pop(call_id, None)
        self._result_bytes -= self._account_of(record).forget(call_id)
        of_session = self._by_session.get(record.session_id, {})
        if of_session.get(record.request_id) == call_id:
            del of_session[record.request_id]
        key = _key_of(record)
        if key is not None:
            del self._by_key[key]
            self._key_count[record.principal] -= 1
            if not self._key_count[record.principal]:
                del self._key_count[record.principal]
        self._drop_empty_accounts(record)

    def _drop_empty_accounts(self, record: CallRecord) -> None:
        for accounts, name in (
            (self._of_session, record.session_id),
            (self._of_principal, record.principal),
        ):
            if name in accounts and accounts[name].is_empty:
                del accounts[name]


class _Kept:
    """What is kept for one session or principal, oldest first: results by size, tombstones.

    `sent` are the results that their session was sent.
    """

    def __init__(self) -> None:
        # The oldest is popped often, which a plain dict makes slower the more it held.
        self.result_bytes: OrderedDict[str, int] = OrderedDict()
        self.tombstones: OrderedDict[str, None] = OrderedDict()
        self.total_bytes = 0
        self.sent: OrderedDict[str, None] = OrderedDict()
        self.sent_bytes = 0

    @property
    def is_empty(self) -> bool:
        return not self.result_bytes and not self.tombstones

    @property
    def oldest_result(self) -> str:
        return next(iter(self.result_bytes))

    def add_result(self, call_id: str, size_bytes: int) -> None:
        self.result_bytes[call_id] = size_bytes
        self.total_bytes += size_bytes

    def mark_sent(self, call_id: str) -> None:
        if call_id not in self.sent:
            self.sent[call_id] = None
            self.sent_bytes += self.result_bytes[call_id]

    def forget_sent(self) -> None:
        self.sent.clear()
        self.sent_bytes = 0

    def forget(self, call_id: str) -> int:
        """Drop whatever there is of a call; return how many bytes its result had."""
        size_bytes = self.result_bytes.pop(call_id, 0)
        if self.sent.pop(call_id, size_bytes) is None:
            self.sent_bytes -= size_bytes
        self.total_bytes -= size_bytes
        self.tombstones.pop(call_id, None)
        return size_bytes


async def _whole(record: CallRecord, encoded: bytes | None) -> CallRecord:
    """Return a record with its settlement, if it has one; a large one is read in a thread."""
    if encoded is None:
        return record
    if len(encoded) > _DECODED_AT_ONCE_BYTES:
        settlement = await asyncio.to_thread(_decode, encoded)
    else:
        settlement = _decode(encoded)
    return msgspec.structs.replace(record, settlement=settlement)


def _key_of(record: CallRecord) -> tuple[str, str] | None:
    key = record.idempotency_key
    return None if key is None else (record.principal, key)


def _until(times: dict[str, float], horizon: float) -> list[str]:
    """Return the keys of the leading entries that are not later than `horizon`."""
    return [key for key, _ in takewhile(lambda entry: entry[1] <= horizon, times.items())]
