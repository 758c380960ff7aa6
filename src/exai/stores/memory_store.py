"""The ledger in memory: fast, gone with the process, and the definition of the behaviour."""

import asyncio
import secrets

import msgspec

from exai.core.call_store import (
    CallRecord,
    CallStore,
    FoundCalls,
    SessionBounds,
    SessionUsage,
    Settlement,
    StoreStatistics,
    summary_of,
)
from exai.stores.call_index import RECORDS_PER_TURN, CallIndex, Changes

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Settlement).decode
_DECODED_AT_ONCE_BYTES = 65_536


class MemoryCallStore(CallStore):
    """`CallStore` over an index and a dictionary; its methods hardly ever wait.

    Settlements rest encoded: thousands of them, as objects, would be what the garbage
    collector looks at most.
    """

    durable = False

    def __init__(self) -> None:
        self._ledger_id = secrets.token_hex(8)
        self._index = CallIndex()
        self._settlements: dict[str, bytes] = {}

    @property
    def ledger_id(self) -> str:
        """Return the name it was given at its beginning."""
        return self._ledger_id

    async def accept(self, record: CallRecord) -> CallRecord | None:
        """Insert `record` unless its id is known."""
        known = self._index.accept(record)
        return None if known is None else await self._whole(known)

    async def start(self, call_id: str, owner: str, attempt: int, now: float) -> bool:
        """Mark a call as running."""
        return self._index.start(call_id, owner, attempt, now) is not None

    async def settle(self, call_id: str, settlement: Settlement, now: float) -> bool:
        """Keep a call's outcome unless it has one."""
        encoded = _encode(settlement)
        if not self._index.settle(call_id, summary_of(settlement), len(encoded), now):
            return False
        self._settlements[call_id] = encoded
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
        return self._index.unsettled()

    async def key_count(self, principal: str) -> int:
        """Return how many keys of a principal are remembered."""
        return self._index.key_count(principal)

    async def acknowledge(
        self, session_id: str, request_ids: list[str], bounds: SessionBounds, now: float
    ) -> int:
        """Erase acknowledged results."""
        count, changes = self._index.acknowledge(session_id, request_ids, bounds, now)
        self._drop(changes)
        return count

    async def owed(self, session_id: str) -> list[str]:
        """Return what has not settled, or is not erased."""
        return [record.request_id for record in self._index.owed(session_id)]

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
        return self._drop(self._index.mark_sent(session_id, request_ids, bounds, now))

    async def forget_sent(self, session_id: str) -> None:
        """Let no result make room for others."""
        self._index.forget_sent(session_id)

    async def trim_keyed(self, principal: str, max_bytes: int, now: float) -> int:
        """Erase the oldest results that only their keys keep."""
        return self._drop(self._index.trim_keyed(principal, max_bytes, now))

    async def expire(self, now: float, result_ttl_s: float, idempotency_ttl_s: float) -> int:
        """Erase old results, forget old tombstones."""
        return self._drop(self._index.expire(now, result_ttl_s, idempotency_ttl_s))

    async def end_session(self, session_id: str) -> None:
        """Forget a session's records, but for those with an idempotency key."""
        changes = self._index.end_session(session_id, RECORDS_PER_TURN)
        self._drop(changes)
        while len(changes) == RECORDS_PER_TURN:
            await asyncio.sleep(0)
            changes = self._index.end_session(session_id, RECORDS_PER_TURN)
            self._drop(changes)

    def statistics(self) -> StoreStatistics:
        """Return the numbers now."""
        return StoreStatistics(len(self._index), self._index.result_bytes)

    def _drop(self, changes: Changes) -> int:
        """Drop what was said in results that are gone; return how many were erased."""
        for record in changes.erased:
            self._settlements.pop(record.call_id, None)
        for call_id in changes.forgotten:
            self._settlements.pop(call_id, None)
        return len(changes.erased)

    async def _whole(self, record: CallRecord) -> CallRecord:
        """Return a record with its settlement, if it has one; a large one is read in a thread."""
        encoded = self._settlements.get(record.call_id)
        if encoded is None:
            return record
        if len(encoded) > _DECODED_AT_ONCE_BYTES:
            settlement = await asyncio.to_thread(_decode, encoded)
        else:
            settlement = _decode(encoded)
        return msgspec.structs.replace(record, settlement=settlement)
