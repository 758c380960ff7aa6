"""What every ledger with an index does alike: look up, count, and decide what goes.

Where what was said rests, and how changes are stored, is each ledger's own.
"""

import asyncio
from abc import abstractmethod

from exai.core.call_store import (
    CallRecord,
    CallStore,
    SessionBounds,
    SessionUsage,
    StoreStatistics,
)
from exai.core.errors import ServiceUnavailable
from exai.stores.call_index import RECORDS_PER_TURN, CallIndex, Changes


class IndexedCallStore(CallStore):
    """The part of a `CallStore` that an index answers."""

    def __init__(self) -> None:
        self._index = CallIndex()

    @abstractmethod
    async def _whole(self, record: CallRecord) -> CallRecord | None:
        """Return a record with what was said; None: its acceptance could not be stored."""

    @abstractmethod
    async def _drop(self, changes: Changes) -> int:
        """Store what was erased and forgotten; return how many results were erased."""

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
        failure: ServiceUnavailable | None = None
        changes = self._index.end_session(session_id, RECORDS_PER_TURN)
        while True:
            try:
                await self._drop(changes)
            except ServiceUnavailable as error:  # what is left is forgotten all the same
                failure = error
            if len(changes) < RECORDS_PER_TURN:
                break
            await asyncio.sleep(0)
            changes = self._index.end_session(session_id, RECORDS_PER_TURN)
        if failure is not None:
            raise failure

    def statistics(self) -> StoreStatistics:
        """Return the numbers now."""
        return StoreStatistics(len(self._index), self._index.result_bytes)
