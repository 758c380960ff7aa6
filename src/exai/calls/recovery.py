"""What an earlier process accepted and did not settle: run, run again once, or told why not.

Whatever ended that process, its records say how far each call had come:

    ACCEPTED                      it is run, as if it had just come
    RUNNING, idempotent, once     it is run again, once
    RUNNING otherwise             it may have had its effect: INTERRUPTED
    its deadline has passed       TIMEOUT
    nobody can ask for its answer CANCELLED

What is the same request as another by its key ends as that one did, or goes on with it. All
is decided before anybody can connect; what is to run goes through admission afterwards.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import msgspec

from exai.calls.call import Call
from exai.calls.defects import Defects
from exai.calls.in_flight import InFlight
from exai.calls.ledger import Ledger
from exai.calls.pipeline import Pipeline
from exai.calls.settling import Settling
from exai.core.call_store import CallRecord, CallState, Settlement
from exai.core.clock import Clock
from exai.core.errors import (
    CallCancelled,
    CallInterrupted,
    DeadlinePassed,
    ErrorCode,
    ExaiError,
    ResultUnknown,
)
from exai.core.events import CallSettled, CallsRecovered, EventSink, Whose
from exai.core.outcomes import Failed, Outcome, code_of
from exai.core.peer import Peer
from exai.core.requests import CallTool

PeerOf = Callable[[str], Peer | None]
"""Returns the session of an id, if it is open still."""

_decode = msgspec.json.Decoder(CallTool).decode
_OF_ONE_CALLER = (ErrorCode.CANCELLED, ErrorCode.TIMEOUT, ErrorCode.OVER_CAPACITY)
"""What happened to one caller alone, and not to those whose request is the same."""


class Recovery:
    """Takes over an earlier process's calls."""

    def __init__(
        self,
        ledger: Ledger,
        in_flight: InFlight,
        settling: Settling,
        pipeline: Pipeline,
        tasks: asyncio.TaskGroup,
        clock: Clock,
        events: EventSink,
        defects: Defects,
    ) -> None:
        self._ledger = ledger
        self._in_flight = in_flight
        self._settling = settling
        self._pipeline = pipeline
        self._tasks = tasks
        self._clock = clock
        self._events = events
        self._defects = defects

    async def run(self, peer_of: PeerOf) -> None:
        """Settle what cannot go on, see to it that the rest does. Raises `ServiceUnavailable`."""
        going_on: dict[str, Call] = {}
        settled: dict[str, Outcome] = {}
        unsettled = await self._ledger.unsettled()
        for record in _as_far_as_their_work(unsettled, await self._settled_attempts(unsettled)):
            peer = peer_of(record.session_id)
            end = await self._end_of(record, peer, going_on, settled)
            if peer is not None and end is None:
                going_on[record.call_id] = self._taken_over(record, peer)
            elif end is not None:
                settled[record.call_id] = end
                await self._settle(record, end)
        self._go_on(list(going_on.values()))
        repeated_count = sum(call.attempt > 1 for call in going_on.values())
        if going_on or settled:
            self._events.emit(
                CallsRecovered(len(going_on) - repeated_count, repeated_count, len(settled))
            )

    async def _settled_attempts(self, unsettled: Sequence[CallRecord]) -> dict[str, int]:
        """Return how often the work had begun of requests whose first call has settled."""
        own = {record.call_id for record in unsettled}
        firsts = {r.follows for r in unsettled if r.follows is not None} - own
        found = [await self._ledger.find_call(call_id) for call_id in firsts]
        return {first.call_id: first.attempt for first in found if first is not None}

    async def _end_of(
        self,
        record: CallRecord,
        peer: Peer | None,
        going_on: dict[str, Call],
        settled: dict[str, Outcome],
    ) -> Outcome | None:
        """Return how a call ends that cannot go on; None for one that can."""
        is_for_nobody = peer is not None and not peer.comes_back and not _has_key(record)
        if peer is None or is_for_nobody:
            ended = "the connection ended" if is_for_nobody else "the session ended"
            return Failed(CallCancelled(ended, **_possible_effect(record)).describe())
        if record.follows is not None and record.follows not in going_on:
            earlier = settled.get(record.follows) or await self._outcome_of(record)
            if earlier is not None and not _is_of_one_caller(earlier):
                return earlier
        if self._left_s(record) <= 0:
            return Failed(_too_late(record).describe())
        has_run = record.state is CallState.RUNNING
        if _request_of(record) is None or (has_run and not _may_run_again(record)):
            interrupted = CallInterrupted(may_have_run=bool(_possible_effect(record)))
            return Failed(interrupted.describe())
        return None

    async def _outcome_of(self, follower: CallRecord) -> Outcome | None:
        """Return the outcome of the call that is the same request, if that was settled before."""
        assert follower.follows is not None
        earlier = await self._ledger.find_call(follower.follows)
        if earlier is None:
            return None
        if earlier.settlement is None:
            return Failed(ResultUnknown("the result was erased", reason="expired").describe())
        return earlier.settlement.outcome

    def _left_s(self, record: CallRecord) -> float:
        gone_s = max(0.0, self._clock.wall_s() - record.accepted_at)
        return max(0.0, record.timeout_s - gone_s)

    def _taken_over(self, record: CallRecord, peer: Peer) -> Call:
        """Return a call as it was, in this process."""
        request = _request_of(record)
        assert request is not None
        call = Call(record.call_id, request, record.request_id, peer)
        now = self._clock.monotonic_s()
        call.known_as = record.follows or record.call_id
        call.timeout_s = record.timeout_s
        call.deadline = now + self._left_s(record)
        call.queued_at = call.deadline - record.timeout_s
        call.started_attempt, call.attempt = record.attempt, record.attempt + 1
        call.is_idempotent = record.idempotent
        call.is_accepted = call.is_taken_over = True
        self._in_flight.register(call)
        if record.idempotency_key is not None:
            self._in_flight.claim_key(call, record.idempotency_key)
        return call

    def _go_on(self, calls: Sequence[Call]) -> None:
        same_request: defaultdict[str, list[Call]] = defaultdict(list)
        for call in calls:
            same_request[call.known_as].append(call)
        for call in calls:
            walk = self._walk(call, same_request[call.known_as])
            call.task = self._tasks.create_task(walk)
            self._settling.limit_time(call)

    async def _walk(self, call: Call, same_request: Sequence[Call]) -> None:
        refusal = await self._defects.outcome_of(
            self._pipeline.take_over(call, same_request), call.request.name, call.whose
        )
        if refusal is not None:
            await self._settling.settle(call, refusal)

    async def _settle(self, record: CallRecord, outcome: Outcome) -> None:
        started_at = record.started_at or self._clock.wall_s()
        settlement = Settlement(outcome, max(0.0, started_at - record.accepted_at), 0.0)
        whose = Whose(record.session_id, record.request_id, record.call_id)
        with self._defects.contained("recovering", whose):  # it is stored as soon as it can be
            await self._ledger.settle_record(record, settlement)
        who = record.call_id, record.request_id, record.session_id, record.principal, record.tool
        code = code_of(outcome)
        self._events.emit(CallSettled(*who, code, settlement.queue_s, settlement.run_s, None))


def _as_far_as_their_work(
    unsettled: Sequence[CallRecord], settled_attempts: Mapping[str, int]
) -> list[CallRecord]:
    """Return the records, each as far as the furthest of the same request.

    A follower that was accepted just when the work began may not be marked as running yet.
    """
    attempts = dict(settled_attempts)
    for record in unsettled:
        known_as = record.follows or record.call_id
        attempts[known_as] = max(record.attempt, attempts.get(known_as, 0))
    return [
        msgspec.structs.replace(record, state=CallState.RUNNING, attempt=attempt)
        if (attempt := attempts[record.follows or record.call_id]) > record.attempt
        else record
        for record in unsettled
    ]


def _is_of_one_caller(outcome: Outcome) -> bool:
    return isinstance(outcome, Failed) and outcome.error.code in _OF_ONE_CALLER


def _request_of(record: CallRecord) -> CallTool | None:
    """Return what was asked for; None where that is not known, or can no longer be read."""
    try:
        return None if record.request is None else _decode(record.request)
    except msgspec.MsgspecError:
        return None


def _has_key(record: CallRecord) -> bool:
    return record.idempotency_key is not None or record.follows is not None


def _may_run_again(record: CallRecord) -> bool:
    return record.idempotent and record.attempt == 1


def _possible_effect(record: CallRecord) -> dict[str, bool]:
    has_run = record.state is CallState.RUNNING
    return {"may_have_run": True} if has_run and not record.idempotent else {}


def _too_late(record: CallRecord) -> ExaiError:
    if record.state is CallState.ACCEPTED:
        return DeadlinePassed(
            f"the call's {record.timeout_s:g} s were over before the daemon was back",
            retryable=True,
            phase="queue",
        )
    return DeadlinePassed(
        f"the call's {record.timeout_s:g} s were over before the daemon, which had ended while "
        "it ran, was back",
        retryable=record.idempotent,
        phase="run",
        **_possible_effect(record),
    )
