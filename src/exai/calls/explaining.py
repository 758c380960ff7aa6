"""What became of calls: what the ledger knows of them, and how far they are in this process."""

from exai.calls.call import Call
from exai.calls.in_flight import InFlight
from exai.calls.ledger import Ledger
from exai.calls.single_flight import SingleFlight
from exai.core.call_store import CallRecord
from exai.core.clock import Clock
from exai.core.explanation import CallStage, ExplainedCall, Explanation
from exai.tools.registry import ToolRegistry

MAX_CALLS = 20


class Explaining:
    """Tells a principal of its own calls; those of others look like none."""

    def __init__(
        self,
        ledger: Ledger,
        in_flight: InFlight,
        sharing: SingleFlight,
        tools: ToolRegistry,
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._in_flight = in_flight
        self._sharing = sharing
        self._tools = tools
        self._clock = clock

    async def explain(self, principal: str, name: str) -> Explanation:
        """Tell of a principal's newest calls of this request id or call id.

        Raises `ServiceUnavailable`.
        """
        found = await self._ledger.find_all(principal, name, MAX_CALLS)
        now = self._clock.wall_s()
        under_way = {call.call_id: call for call in self._in_flight.find_all(principal, name)}
        arriving = {call_id: c for call_id, c in under_way.items() if not c.is_accepted}
        told = [_arriving(call) for call in arriving.values()] + [
            self._accepted(record, under_way.get(record.call_id), now)
            for record in found.records
            if record.call_id not in arriving  # it is just being stored
        ]
        calls = told[:MAX_CALLS]
        more_count = found.more_count + len(told) - len(calls)
        return Explanation(
            id=name, t=now, boot_id=self._ledger.owner, calls=calls, more_count=more_count
        )

    def _accepted(self, record: CallRecord, call: Call | None, now: float) -> ExplainedCall:
        """Explain what the ledger knows; `call` is it in this process, where it is under way."""
        summary, started_at = record.summary, record.started_at
        queue_s = max(0.0, (now if started_at is None else started_at) - record.accepted_at)
        run_s = 0.0 if started_at is None else max(0.0, now - started_at)
        attempts = 0 if started_at is None else record.attempt
        if summary is not None:
            queue_s, run_s = summary.queue_s, summary.run_s
            attempts = max(attempts, summary.attempts) if attempts else 0
        return ExplainedCall(
            call_id=record.call_id,
            request_id=record.request_id,
            session_id=record.session_id or None,
            tool=record.tool,
            provider=(summary and summary.provider) or self._tools.provider_of(record.tool),
            model=None if summary is None else summary.model,
            state=CallStage(record.state),
            idempotent=record.idempotent,
            joined=summary.joined if summary else call is not None and call.is_joined,
            cached=summary.cached if summary else call is not None and call.is_cached,
            follows=record.follows,
            accepted_at=record.accepted_at,
            timeout_s=record.timeout_s,
            queue_s=queue_s,
            run_s=run_s,
            started_at=started_at,
            attempts=attempts,
            boot_id=record.owner or None,
            is_under_way=call is not None and not call.has_ended,
            place=None if call is None else self._sharing.place_in_line(call),
            settled_at=record.settled_at,
            code=None if summary is None else summary.code,
            result_bytes=record.result_bytes,
            sent_at=record.sent_at,
            erased_at=record.erased_at,
            erased_because=record.erased_because,
        )


def _arriving(call: Call) -> ExplainedCall:
    """Explain a call that the ledger does not know yet."""
    return ExplainedCall(
        call_id=call.call_id,
        request_id=call.request_id,
        session_id=call.peer.session_id,
        tool=call.tool_name,
        state=CallStage.ARRIVING,
        idempotent=call.is_idempotent,
        joined=call.is_joined,
        cached=call.is_cached,
        is_under_way=True,
    )
