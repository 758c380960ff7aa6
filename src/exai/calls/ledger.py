"""A call and its record: what is stored of a call, when, and how it is told again.

The one place where `Call`, which lives in this process, meets `CallRecord`, which may
outlive it.
"""

from collections.abc import Sequence

from exai.calls.call import Call
from exai.calls.service_times import retry_after_s
from exai.core.call_store import CallRecord, CallState, CallStore, SessionBounds, Settlement
from exai.core.clock import Clock
from exai.core.config import LimitsConfig
from exai.core.errors import QueueFull, RequestIdConflict, ResultUnknown
from exai.core.outcomes import Failed
from exai.core.replies import CallAnswered, CallMeta


class Ledger:
    """The store, in the words of calls. `owner` is this process's boot id."""

    def __init__(self, store: CallStore, limits: LimitsConfig, clock: Clock, owner: str) -> None:
        self._store = store
        self._result_ttl_s = limits.result_ttl_s
        self._max_keys = limits.principal_max_idempotency_keys
        self._max_kept_bytes = limits.principal_max_kept_bytes
        self._idempotency_ttl_s = limits.idempotency_ttl_s
        self._bounds = SessionBounds(
            max_results=limits.session_max_unacked,
            max_result_bytes=limits.session_max_unacked_bytes,
            max_tombstones=limits.session_max_remembered,
        )
        self._clock = clock
        self._owner = owner

    async def find(self, session_id: str, request_id: str) -> CallRecord | None:
        """Return the record of a session's request."""
        return await self._store.find(session_id, request_id)

    async def knows(self, session_id: str, request_id: str) -> bool:
        """Tell whether there is a record of a session's request."""
        return await self._store.knows(session_id, request_id)

    async def find_by_key(self, principal: str, idempotency_key: str) -> CallRecord | None:
        """Return the record of a principal's request under its idempotency key."""
        return await self._store.find_by_key(principal, idempotency_key)

    async def accept(self, call: Call) -> None:
        """Store the call as accepted: from here on it is owed an answer.

        Raises `RequestIdConflict` where another call took its id meanwhile, and `QueueFull`
        where the principal has too many idempotency keys, or a session that promised to
        acknowledge its results too many of them.
        """
        key = None if call.follows_its_key else call.request.idempotency_key
        if key is not None:
            await self._check_key_count(call.peer.principal.name)
        if call.peer.acknowledges:
            await self._check_results(call.peer.session_id)
        call.queued_at = self._clock.monotonic_s()
        call.deadline = call.queued_at + call.timeout_s
        known = await self._store.accept(
            CallRecord(
                call_id=call.call_id,
                session_id=call.peer.session_id,
                principal=call.peer.principal.name,
                request_id=call.request_id,
                tool=call.tool_name,
                arguments_digest=call.digest,
                accepted_at=self._clock.wall_s(),
                timeout_s=call.timeout_s,
                idempotency_key=key,
            )
        )
        if known is not None:
            raise conflict(call.request_id)
        call.is_accepted = True
        call.pulse()

    async def start(self, calls: Sequence[Call]) -> None:
        """Store that calls run, before anything leaves for their tool."""
        now = self._clock.monotonic_s()
        for call in calls:
            call.started_at = now
        for call in calls:
            attempt = 2 if call.has_flown_anew else 1
            await self._store.start(call.call_id, self._owner, attempt)

    async def settle(self, call: Call) -> None:
        """Store the outcome that the call was given."""
        assert call.outcome is not None
        now = self._clock.wall_s()
        settlement = Settlement(
            call.outcome, call.queue_s, call.run_s, call.is_joined, call.is_cached
        )
        await self._store.settle(call.call_id, settlement, now)

    async def owed(self, session_id: str) -> list[str]:
        """Return a session's requests whose answer is to come or not erased, oldest first."""
        return await self._store.owed(session_id)

    async def mark_sent(self, session_id: str, request_ids: list[str]) -> None:
        """Keep results that were sent as long as there is room for them."""
        await self._store.mark_sent(session_id, request_ids)
        await self._store.trim(session_id, self._bounds, self._clock.wall_s())

    async def forget_sent(self, session_id: str) -> None:
        """Let no result of a session count as sent."""
        await self._store.forget_sent(session_id)

    async def acknowledge(self, session_id: str, request_ids: list[str]) -> None:
        """Erase what the client has."""
        now = self._clock.wall_s()
        await self._store.acknowledge(session_id, request_ids, now)
        await self._store.trim(session_id, self._bounds, now)

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


def conflict(request_id: str, idempotency_key: str | None = None) -> RequestIdConflict:
    """Return the error of an id, or a key, that stands for another call."""
    taken = (
        f"request id {request_id!r}"
        if idempotency_key is None
        else (f"idempotency key {idempotency_key!r}")
    )
    return RequestIdConflict(
        f"the {taken} stands for a call with another name or other arguments; choose a new one"
    )


def replay(record: CallRecord, request_id: str) -> CallAnswered:
    """Return the answer that a record holds for `request_id`, or why it holds none any more."""
    settlement = record.settlement
    if record.state is not CallState.SETTLED or settlement is None:
        gone = ResultUnknown(
            "the result was erased",
            reason=record.erased_because or "expired",
            ok=record.succeeded is True,
        )
        return CallAnswered(request_id, Failed(gone.describe()))
    meta = CallMeta(
        call_id=record.call_id,
        cached=settlement.cached,
        joined=settlement.joined,
        replayed=True,
        queue_ms=round(settlement.queue_s * 1000),
        run_ms=round(settlement.run_s * 1000),
    )
    return CallAnswered(request_id, settlement.outcome, meta)


def unknown(request_id: str) -> CallAnswered:
    """Return the answer where nothing is known of a request."""
    error = ResultUnknown(f"nothing is known of the request {request_id!r}")
    return CallAnswered(request_id, Failed(error.describe()))
