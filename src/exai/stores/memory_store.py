"""The ledger in memory: fast, gone with the process, and the definition of the behaviour."""

import asyncio
import secrets

import msgspec

from exai.core.call_store import (
    CallRecord,
    FoundCalls,
    Settlement,
    summary_of,
)
from exai.stores.call_index import Changes
from exai.stores.indexed_store import IndexedCallStore

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Settlement).decode
_DECODED_AT_ONCE_BYTES = 65_536


class MemoryCallStore(IndexedCallStore):
    """`CallStore` over an index and a dictionary; its methods hardly ever wait.

    Settlements rest encoded: thousands of them, as objects, would be what the garbage
    collector looks at most.
    """

    durable = False

    def __init__(self) -> None:
        super().__init__()
        self._ledger_id = secrets.token_hex(8)
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

    async def find_all(self, principal: str, name: str, limit: int) -> FoundCalls:
        """Return a principal's calls of this name."""
        return self._index.find_all(principal, name, limit)

    async def unsettled(self) -> list[CallRecord]:
        """Look through all records."""
        return self._index.unsettled()

    async def owed(self, session_id: str) -> list[str]:
        """Return what has not settled, or is not erased."""
        return [record.request_id for record in self._index.owed(session_id)]

    async def _drop(self, changes: Changes) -> int:
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
