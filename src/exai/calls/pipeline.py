"""The story of one call: find, check, share, accept, wait for permits, execute, answer.

A call arrives, and boards the flight that will answer it: one of equal work, or its own. A
flight waits for its permits, runs its tool, and answers whoever is still aboard.
"""

import asyncio
from collections.abc import Sequence

from exai.calls.call import Call
from exai.calls.defects import Defects
from exai.calls.flight import Flight
from exai.calls.ledger import Ledger
from exai.calls.limit import ending_of
from exai.calls.settling import Settling
from exai.calls.single_flight import SingleFlight
from exai.calls.tool_executor import ToolExecutor
from exai.core.clock import Clock
from exai.core.errors import CallInterrupted
from exai.core.events import CallAccepted, EventSink, WorkEnded
from exai.core.outcomes import Completed, Outcome
from exai.core.tool import Tool
from exai.tools.registry import ToolRegistry


class Pipeline:
    """Walks calls to their answers. Refusals are raised; what happens aloft is a value."""

    def __init__(
        self,
        tools: ToolRegistry,
        sharing: SingleFlight,
        ledger: Ledger,
        settling: Settling,
        executor: ToolExecutor,
        tasks: asyncio.TaskGroup,
        clock: Clock,
        events: EventSink,
        defects: Defects,
        call_timeout_s: float,
    ) -> None:
        self._tools = tools
        self._sharing = sharing
        self._ledger = ledger
        self._settling = settling
        self._executor = executor
        self._tasks = tasks
        self._clock = clock
        self._events = events
        self._defects = defects
        self._call_timeout_s = call_timeout_s

    async def board(self, call: Call) -> None:
        """Find the flight that will answer a new call. Raises `ExaiError` for a refusal."""
        peer, arguments = call.peer, call.request.arguments
        tool = await self._tools.wait_for_tool(
            call.request.name, peer.principal, arguments=arguments
        )
        tool.check(arguments)
        demand = await tool.demand_of(arguments, peer.principal)
        limit_s = self._limit_s(tool)
        call.prepare(tool.spec, limit_s)
        self._sharing.board(call, tool, demand, limit_s)
        await self._accept(call)

    async def follow(self, call: Call, earlier: Call) -> None:
        """Let a call be answered by the flight of an earlier one: it is the same request."""
        flight = self._sharing.flight_of(earlier)
        call.prepare(flight.tool.spec, flight.limit_s)
        call.known_as = earlier.known_as
        self._sharing.join(call, flight)
        await self._accept(call)

    async def take_over(self, call: Call, same_request: Sequence[Call]) -> None:
        """Walk a call on that an earlier process accepted. Raises `ExaiError` for a failure.

        Its tool may take a while to be back, and may not be the one that it was; `same_request` are
        those of one idempotency key.
        """
        request, principal = call.request, call.peer.principal
        tool = await self._tools.wait_for_tool(
            request.name, principal, arguments=request.arguments, is_owed=True
        )
        tool.check(request.arguments)
        demand = await tool.demand_of(request.arguments, principal)
        if call.has_ended:
            return
        call.spec = tool.spec
        call.is_idempotent = call.is_idempotent and tool.spec.policy.idempotent
        if call.attempt > 1 and not call.is_idempotent:
            raise CallInterrupted(may_have_run=bool(call.possible_effect()))
        other = next((each for each in same_request if self._sharing.is_aboard(each)), None)
        if other is None:
            self._sharing.board(call, tool, demand, self._limit_s(tool))
        else:
            self._sharing.join(call, self._sharing.flight_of(other))
        call.pulse()
        await self._take_off(call, self._sharing.flight_of(call))

    def _limit_s(self, tool: Tool) -> float:
        return min(tool.spec.timeout_s or self._call_timeout_s, self._call_timeout_s)

    async def _accept(self, call: Call) -> None:
        """Store the call, tell its peer, start its time, and have its flight fly."""
        flight = self._sharing.flight_of(call)
        try:
            await self._ledger.accept(call, runs=flight.runs_at_once or _is_done(call, flight))
            call.tell_accepted(self._clock)
            self._events.emit(_accepted(call))
            self._settling.limit_time(call)
            call.require_wanted()
        except BaseException:
            self._sharing.leave(call)
            raise
        await self._take_off(call, self._sharing.flight_of(call))

    async def _take_off(self, call: Call, flight: Flight) -> None:
        """Bring an accepted call to where its flight is already."""
        if flight.outcome is not None:
            await self._answer(call, flight)
            return
        if flight.started_at is not None:
            self._limit_time(flight)
            flight.catch_up(call)
            with self._defects.contained("starting", call.whose):
                await self._ledger.start([call])
        if line := self._sharing.place_in_line(call):
            call.tell_progress(self._clock, message=line)
        if flight.task is None:
            flight.task = call.task  # a task of its own would cost as much again
            await self._fly(flight)

    async def _fly(self, flight: Flight) -> None:
        """Wait for permits, run the tool, answer whoever is aboard."""
        assert flight.place is not None
        self._sharing.flying.add(flight.owner)
        try:
            with flight.place as place:
                await place.permits()
                name = flight.tool.spec.name
                outcome = flight.conclude(
                    await self._defects.outcome_of(self._execute(flight), name, flight.whose)
                )
                if flight.started_at is not None:
                    place.ending = ending_of(outcome)
        finally:
            self._sharing.flying.discard(flight.owner)
        self._sharing.land(flight, outcome)
        self._note_cost(flight, outcome)
        callers = [call for call in flight.callers if call.is_accepted]
        for call in callers[1:]:
            self._tasks.create_task(self._answer(call, flight))
        if callers:
            await self._answer(callers[0], flight)

    def _note_cost(self, flight: Flight, outcome: Outcome) -> None:
        facts = outcome.facts
        if facts.usage is not None:
            usage, provider, model = facts.usage, facts.provider or "", facts.model or ""
            self._events.emit(
                WorkEnded(
                    *flight.whose,
                    flight.tool.spec.name,
                    provider,
                    model,
                    usage.input_tokens,
                    usage.output_tokens,
                )
            )

    def _limit_time(self, flight: Flight) -> None:
        """See to it that a flight ends in time where a caller may wait for longer than that."""
        if flight.timer is None and flight.has_more_time():
            loop = asyncio.get_running_loop()
            flight.timer = loop.call_at(flight.ends_at, self._fly_anew, flight)

    def _fly_anew(self, late: Flight) -> None:
        """End a flight whose tool may take no longer; callers with time left fly again, once."""
        for call, refusal in self._sharing.reseat(late).items():
            if refusal is not None:
                self._settling.end(call, refusal)
            elif call.is_accepted:
                flight = self._sharing.flight_of(call)
                flight.replace_text_of(late, call)
                call.task = self._tasks.create_task(self._take_off(call, flight))

    async def _execute(self, flight: Flight) -> Completed:
        # One whose leader has left may be of callers alone that are just being accepted.
        while not any(call.is_accepted for call in flight.callers):
            await next(iter(flight.callers)).wait_moved()
        flight.start()
        self._limit_time(flight)
        try:
            await self._ledger.start([call for call in flight.callers if call.is_accepted])
            self._sharing.begin_epoch(flight)
            return await self._executor.execute(flight.tool, flight.arguments, flight)
        finally:
            self._sharing.end_epoch(flight)

    async def _answer(self, call: Call, flight: Flight) -> None:
        """Give one caller what its flight brought."""
        outcome = flight.outcome
        assert outcome is not None
        if isinstance(outcome, Completed) and call.outcome is None:
            with self._defects.contained("handing out", call.whose):
                outcome = await flight.tool.hand_out(
                    outcome, call.request.arguments, call.peer.principal, call.known_as
                )
        await self._settling.settle(call, outcome)
        self._sharing.leave(call)


def _is_done(call: Call, flight: Flight) -> bool:
    """Tell whether a request, the same as an earlier one by its key, comes when all is done."""
    return call.follows_its_key and flight.outcome is not None


def _accepted(call: Call) -> CallAccepted:
    peer = call.peer
    return CallAccepted(
        call.call_id, call.request_id, peer.session_id, peer.principal.name, call.tool_name
    )
