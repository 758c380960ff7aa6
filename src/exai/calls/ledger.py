"""A call and its record: what is stored of a call, when, and how it is told again.

The one place where `Call`, which lives in this process, meets `CallRecord`, which may
outlive it.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from exai.calls.call import Call
from exai.calls.service_times import retry_after_s
from exai.core.call_store import (
    CallRecord,
    CallState,
    CallStore,
    FoundCalls,
    SessionBounds,
    Settlement,
    summary_of,
)
from exai.core.clock import Clock
from exai.core.config import LimitsConfig
from exai.core.errors import QueueFull, RequestIdConflict, ResultUnknown
from exai.core.outcomes import Failed
from exai.core.replies import CallAcked, CallAnswered, CallMeta

_encode = msgspec.json.Encoder().encode
_ENCODED_AT_ONCE_BYTES = 262_144


class LedgerStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """How full the ledger is, and how many outcomes wait to be stored."""

    durable: bool
    record_count: int
    result_bytes: int
    unstored_count: int


class Ledger:
    """The store, in the words of calls. `owner` is this process's boot id.

    An outcome that could not be stored is kept here until it can be, and is told to whoever
    asks; until then no new call is accepted.
    """

    def __init__(self, store: CallStore, limits: LimitsConfig, clock: Clock, owner: str) -> None:
        self._store = store
        self._result_ttl_s = limits.result_ttl_s
        self._max_keys = limits.principal_max_idempotency_keys
        self._max_result_bytes = limits.principal_max_result_bytes
        self._max_kept_bytes = limits.principal_max_kept_bytes
        self._idempotency_ttl_s = limits.idempotency_ttl_s
        self._bounds = SessionBounds(
            max_results=limits.session_max_unacked,
            max_result_bytes=limits.session_max_unacked_bytes,
            max_tombstones=limits.session_max_remembered,
        )
        self._clock = clock
        self._owner = owner
        self._unstored: dict[str, _Unstored] = {}

    @property
    def owner(self) -> str:
        """Return what names this process in the records of the calls that it runs."""
        return self._owner

    @property
    def is_durable(self) -> bool:
        """Tell whether what is stored outlives this process."""
        return self._store.durable

    async def find(self, session_id: str, request_id: str) -> CallRecord | None:
        """Return the record of a session's request."""
        return self._completed(await self._store.find(session_id, request_id))

    async def knows(self, session_id: str, request_id: str) -> bool:
        """Tell whether there is a record of a session's request."""
        return await self._store.knows(session_id, request_id)

    async def find_by_key(self, principal: str, idempotency_key: str) -> CallRecord | None:
        """Return the record of a principal's request under its idempotency key."""
        return self._completed(await self._store.find_by_key(principal, idempotency_key))

    async def find_call(self, call_id: str) -> CallRecord | None:
        """Return the record of a call."""
        return self._completed(await self._store.find_call(call_id))

    async def find_all(self, principal: str, name: str, limit: int) -> FoundCalls:
        """Return a principal's newest calls of this request id or call id, newest first.

        Their records are without what was said.
        """
        found = await self._store.find_all(principal, name, limit)
        completed = [self._completed(record) or record for record in found.records]
        unsaid = [msgspec.structs.replace(record, settlement=None) for record in completed]
        return FoundCalls(unsaid, found.more_count)

    def statistics(self) -> LedgerStatistics:
        """Return the numbers now."""
        stored = self._store.statistics()
        return LedgerStatistics(
            durable=self._store.durable,
            record_count=stored.record_count,
            result_bytes=stored.result_bytes,
            unstored_count=len(self._unstored),
        )

    async def unsettled(self) -> list[CallRecord]:
        """Return what has no outcome, in the order of acceptance."""
        return await self._store.unsettled()

    async def accept(self, call: Call, *, runs: bool) -> None:
        """Store the call as accepted: from here on it is owed an answer.

        A call that `runs` has nothing to wait for, and is stored as running at once. Raises
        `RequestIdConflict` where another call took its id meanwhile; `QueueFull` where the
        principal has too many idempotency keys, or a session that promised to acknowledge
        its results too many of them, or they are too large; `ServiceUnavailable` where nothing
        can be stored.
        """
        await self.settle_late()
        if not call.peer.is_kept:
            await call.peer.keep()
        key = None if call.follows_its_key else call.request.idempotency_key
        if key is not None:
            await self._check_key_count(call.peer.principal.name)
        await self._check_results_of_principal(call.peer.principal.name)
        if call.peer.acknowledges:
            await self._check_results(call.peer.session_id)
        call.queued_at = self._clock.monotonic_s()
        call.deadline = call.queued_at + call.timeout_s
        now = self._clock.wall_s()
        known = await self._store.accept(
            CallRecord(
                call_id=call.call_id,
                session_id=call.peer.session_id,
                principal=call.peer.principal.name,
                request_id=call.request_id,
                tool=call.tool_name,
                arguments_digest=call.digest,
                accepted_at=now,
                timeout_s=call.timeout_s,
                idempotency_key=key,
                idempotent=call.is_idempotent,
                follows=call.known_as if call.follows_its_key else None,
                request=await self._to_run_again(call, runs=runs),
                state=CallState.RUNNING if runs else CallState.ACCEPTED,
                owner=self._owner if runs else "",
                attempt=call.attempt if runs else 0,
                started_at=now if runs else None,
            )
        )
        if known is not None:
            raise conflict(call.request_id)
        if runs:
            call.note_start(self._clock.monotonic_s())
        call.is_accepted = True
        call.pulse()

    async def start(self, calls: Sequence[Call]) -> None:
        """Store that calls run, before anything leaves for their tool."""
        starting = [call for call in calls if call.is_waiting]
        if not starting:
            return
        for call in starting:
            call.note_start(self._clock.monotonic_s())
        now = self._clock.wall_s()
        stored = [
            self._store.start(call.call_id, self._owner, call.attempt, now) for call in starting
        ]
        await (stored[0] if len(stored) == 1 else asyncio.gather(*stored))

    async def settle(self, call: Call) -> None:
        """Store the outcome that the call was given.

        Raises what keeps it from being stored; it is stored as soon as it can be.
        """
        assert call.outcome is not None
        settlement = Settlement(
            call.outcome, call.queue_s, call.run_s, call.is_joined, call.is_cached
        )
        await self._settle(call.call_id, _Unstored(settlement, self._clock.wall_s()))

    async def settle_record(self, record: CallRecord, settlement: Settlement) -> None:
        """Store the outcome of a call that an earlier process accepted."""
        await self._settle(record.call_id, _Unstored(settlement, self._clock.wall_s()))

    async def settle_late(self) -> None:
        """Store what could not be stored before. Raises what still keeps it from that."""
        for call_id, unstored in list(self._unstored.items()):
            await self._settle(call_id, unstored)

    async def _settle(self, call_id: str, unstored: "_Unstored") -> None:
        try:
            await self._store.settle(call_id, unstored.settlement, unstored.settled_at)
        except BaseException:
            self._unstored[call_id] = unstored
            raise
        self._unstored.pop(call_id, None)

    def _completed(self, record: CallRecord | None) -> CallRecord | None:
        """Return a record with its outcome, where that could not be stored yet."""
        if record is None or record.call_id not in self._unstored:
            return record
        settlement, settled_at = self._unstored[record.call_id]
        return msgspec.structs.replace(
            record,
            state=CallState.SETTLED,
            settled_at=settled_at,
            settlement=settlement,
            summary=summary_of(settlement),
        )

    def replay(self, record: CallRecord, request_id: str) -> CallAnswered:
        """Return the answer that a record holds for `request_id`, or why it holds none any more."""
        settlement = record.settlement
        if record.state is not CallState.SETTLED or settlement is None:
            gone = ResultUnknown(
                "the result was erased",
                reason=record.erased_because or "expired",
                ok=record.summary is not None and record.summary.succeeded,
            )
            return CallAnswered(request_id, Failed(gone.describe()))
        meta = CallMeta(
            call_id=record.call_id,
            cached=settlement.cached,
            joined=settlement.joined,
            replayed=True,
            durable=record.call_id not in self._unstored,
            queue_ms=round(settlement.queue_s * 1000),
            run_ms=round(settlement.run_s * 1000),
        )
        return CallAnswered(request_id, settlement.outcome, meta)

    async def _to_run_again(self, call: Call, *, runs: bool) -> bytes | None:
        """Return what a later process needs to run the call, if it may have to."""
        if not self._store.durable or (runs and not (call.is_idempotent and call.attempt == 1)):
            return None
        if call.size_bytes > _ENCODED_AT_ONCE_BYTES:
            return await asyncio.to_thread(_encode, call.request)
        return _encode(call.request)

    async def owed(self, session_id: str) -> list[str]:
        """Return a session's requests whose answer is to come or not erased, oldest first."""
        return await self._store.owed(session_id)

    async def mark_sent(self, session_id: str, request_ids: list[str]) -> None:
        """Keep results that were sent as long as there is room for them."""
        now = self._clock.wall_s()
        await self._store.mark_sent(session_id, request_ids, self._bounds, now)

    async def forget_sent(self, session_id: str) -> None:
        """Let no result of a session count as sent."""
        await self._store.forget_sent(session_id)

    async def acknowledge(self, session_id: str, request_ids: list[str]) -> None:
        """Erase what the client has."""
        now = self._clock.wall_s()
        await self._store.acknowledge(session_id, request_ids, self._bounds, now)

    async def end_session(self, session_id: str, principal: str) -> None:
        """Forget a session's calls, but for those with an idempotency key."""
        await self._store.end_session(session_id)
        await self._store.trim_keyed(principal, self._max_kept_bytes, self._clock.wall_s())

    async def _check_key_count(self, principal: str) -> None:
        key_count = await self._store.key_count(principal)
        if key_count >= self._max_keys:
            raise QueueFull(
                f"{key_count} idempotency keys of this principal are remembered; at most "
                f"{self._max_keys} may be, each for {self._idempotency_ttl_s:g} s",
                scope="idempotency_keys",
                retry_after_s=retry_after_s(self._idempotency_ttl_s / self._max_keys),
            )

    async def _check_results_of_principal(self, principal: str) -> None:
        kept_bytes = await self._store.principal_result_bytes(principal)
        if kept_bytes >= self._max_result_bytes:
            raise QueueFull(
                f"results of {kept_bytes:,} bytes are kept for this principal; acknowledge what "
                "you have",
                scope="results",
                retry_after_s=retry_after_s(None),
            )

    async def _check_results(self, session_id: str) -> None:
        kept, most = await self._store.usage(session_id), self._bounds
        if kept.result_count >= most.max_results or kept.result_bytes >= most.max_result_bytes:
            raise QueueFull(
                f"{kept.result_count} results of {kept.result_bytes:,} bytes wait to be "
                "acknowledged; acknowledge what you have",
                scope="results",
                retry_after_s=retry_after_s(None),
            )

    async def expire(self) -> int:
        """Erase results that are too old; return how many."""
        return await self._store.expire(
            self._clock.wall_s(), self._result_ttl_s, self._idempotency_ttl_s
        )


class _Unstored(NamedTuple):
    """An outcome that waits to be stored. `settled_at` is unix seconds."""

    settlement: Settlement
    settled_at: float


def conflict(request_id: str, idempotency_key: str | None = None) -> RequestIdConflict:
    """Return the error of an id, or a key, that stands for another call."""
    is_of_key = idempotency_key is not None
    taken = f"idempotency key {idempotency_key!r}" if is_of_key else f"request id {request_id!r}"
    return RequestIdConflict(
        f"the {taken} stands for a call with another name or other arguments; choose a new one"
    )


def acked_again(record: CallRecord, call: Call) -> CallAcked:
    """Return what is told of a request, sent again, whose outcome is still to come."""
    name, timeout_s = call.request.name, record.timeout_s
    return CallAcked(call.request_id, name, record.call_id, timeout_s, joined=True)


def unknown(request_id: str) -> CallAnswered:
    """Return the answer where nothing is known of a request."""
    error = ResultUnknown(f"nothing is known of the request {request_id!r}")
    return CallAnswered(request_id, Failed(error.describe()))
