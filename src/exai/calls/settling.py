"""How a call ends: whoever decides first gives it its outcome, and one answer is sent.

A call may end because its tool answered, because its caller or the daemon gave it up, or
because its time is over. The last two answer at once, while the execution still unwinds
and keeps its permits until its work has really ended.
"""

import asyncio

from exai.calls.call import Call
from exai.calls.defects import Defects
from exai.calls.in_flight import InFlight
from exai.calls.ledger import Ledger
from exai.calls.single_flight import SingleFlight
from exai.core.clock import Clock
from exai.core.errors import ExaiError
from exai.core.events import CallRejected, CallSettled, EventSink
from exai.core.outcomes import Failed, Outcome, code_of
from exai.core.replies import CallAnswered


class Settling:
    """Gives calls their outcomes and peers their answers."""

    def __init__(
        self,
        ledger: Ledger,
        in_flight: InFlight,
        sharing: SingleFlight,
        tasks: asyncio.TaskGroup,
        clock: Clock,
        events: EventSink,
        defects: Defects,
    ) -> None:
        self._ledger = ledger
        self._in_flight = in_flight
        self._sharing = sharing
        self._tasks = tasks
        self._clock = clock
        self._events = events
        self._defects = defects

    async def settle(self, call: Call, outcome: Outcome) -> None:
        """Give a call its outcome and its peer the answer, unless it has ended already."""
        if call.decide(outcome, self._clock.monotonic_s()):
            await self._deliver(call, outcome)

    def end(self, call: Call, error: ExaiError) -> None:
        """End a call from outside: answer now; it leaves its flight, which may go on for others.

        A call whose acceptance is just being stored ends as soon as it is. Once its flight
        has landed, what that brought is the answer.
        """
        if self._sharing.has_landed(call):
            return
        if not call.is_accepted:
            call.withdrawn = error
            return
        outcome = Failed(error.describe())
        if call.decide(outcome, self._clock.monotonic_s()):
            self._leave(call)
            self._tasks.create_task(self._deliver(call, outcome))

    def set_aside(self, call: Call) -> bool:
        """Leave an accepted call to the next process, without an answer in this one.

        False: it has ended, or its flight has landed, or it is being accepted still.
        """
        if not call.is_accepted or call.has_ended or self._sharing.has_landed(call):
            return False
        call.set_aside()
        self._leave(call)
        self._in_flight.unregister(call)
        return True

    def _leave(self, call: Call) -> None:
        """Take a call out of its flight; one that waits for its tool has no flight yet."""
        if not self._sharing.is_aboard(call) and call.is_taken_over and call.task is not None:
            call.task.cancel()
        self._sharing.leave(call)

    def limit_time(self, call: Call) -> None:
        """See to it that an accepted call ends at its deadline."""
        assert call.task is not None
        call.timer = call.task.get_loop().call_at(call.deadline, self._end_late, call)

    def _end_late(self, call: Call) -> None:
        self.end(call, call.expired())

    async def _deliver(self, call: Call, outcome: Outcome) -> None:
        if call.is_accepted:
            # What cannot be stored is still told: the work is done, and its caller waits.
            call.is_stored = not self._ledger.is_durable
            with self._defects.contained("settling", call.whose):
                await self._ledger.settle(call)
                call.is_stored = True
        self._in_flight.unregister(call)
        self._answer(call, outcome)
        self._emit(call, outcome)

    def _answer(self, call: Call, outcome: Outcome) -> None:
        try:
            call.peer.send(CallAnswered(call.request_id, outcome, call.meta()))
        except Exception as error:  # noqa: BLE001 - an outcome that no frame can hold is a defect
            info = self._defects.report("answering", error, call.whose, **call.possible_effect())
            call.peer.send(CallAnswered(call.request_id, Failed(info), call.meta()))

    def _emit(self, call: Call, outcome: Outcome) -> None:
        code, peer = code_of(outcome), call.peer
        who = call.call_id, call.request_id, peer.session_id, peer.principal.name, call.tool_name
        if call.is_accepted:
            shared = "cached" if call.is_cached else "joined" if call.is_joined else None
            self._events.emit(CallSettled(*who, code, call.queue_s, call.run_s, shared))
        else:
            self._events.emit(CallRejected(*who, code, _scope_of(outcome)))


def _scope_of(outcome: Outcome) -> str:
    details = outcome.error.details if isinstance(outcome, Failed) else None
    return str((details or {}).get("scope", ""))
