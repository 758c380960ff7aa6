"""Equal work runs once: which flight answers a call, and who may still join which.

In this order: a flight of the same work, a stored success of it, a flight of its own.
Everything here is one synchronous step.
"""

from collections.abc import Sequence
from typing import TypeGuard

from exai.calls.admission import AdmissionController
from exai.calls.call import Call
from exai.calls.call_key import Epochs, call_key
from exai.calls.flight import Flight
from exai.calls.result_cache import ResultCache
from exai.calls.service_times import WorkTimes
from exai.core.clock import Clock
from exai.core.errors import DeadlinePassed, ExaiError, QueueFull
from exai.core.outcomes import Completed, Outcome
from exai.core.tool import Demand, Tool


class SingleFlight:
    """The flights that may be joined, by call key, and the way aboard and out of each.

    `flying` are the owners of what runs, or unwinds with nobody aboard.
    """

    def __init__(
        self,
        admission: AdmissionController,
        cache: ResultCache,
        epochs: Epochs,
        clock: Clock,
        never_share: Sequence[str],
    ) -> None:
        self._admission = admission
        self._cache = cache
        self._epochs = epochs
        self._clock = clock
        self._never_share = never_share
        self._work_times = WorkTimes()
        self._joinable: dict[bytes, Flight] = {}
        self._aboard: dict[Call, Flight] = {}
        self.flying: set[str] = set()

    def __len__(self) -> int:
        """Return how many calls are aboard a flight."""
        return len(self._aboard)

    def board(self, call: Call, tool: Tool, demand: Demand, limit_s: float) -> None:
        """Seat `call` in the flight that will answer it, or has; `limit_s` is the tool's own limit.

        Raises `QueueFull`.
        """
        key = call_key(call, tool.spec, demand, self._never_share)
        now = self._clock.monotonic_s()
        if key is not None and call.request.cache == "use":
            flight = self._joinable.get(key)
            if flight is not None and self._is_fresh(flight):
                self.join(call, flight)
                return
            stored = self._cache.find(key, self._epochs.of(tool.spec), now)
            if stored is not None:
                call.is_cached = True
                landed = Flight(tool, demand, call, key=None, limit_s=limit_s, clock=self._clock)
                landed.outcome = stored
                call.run = self._aboard[call] = landed
                return
        flight = Flight(
            tool,
            demand,
            call,
            key=key,
            limit_s=limit_s,
            clock=self._clock,
            first_attempt=call.attempt,
        )
        self.lead(call, flight)

    def join(self, call: Call, flight: Flight) -> None:
        """Let a call be answered by a flight of others. Raises `QueueFull`.

        Where the work may not be done anew, the call has no more time than the flight.
        """
        call.is_joined, peer = True, call.peer
        if not flight.tool.spec.policy.idempotent:
            call.timeout_s = min(call.timeout_s, flight.ends_at - self._clock.monotonic_s())
        if flight.outcome is not None:
            call.run = self._aboard[call] = flight
            return
        assert flight.place is not None
        flight.callers[call] = self._admission.join(
            flight.place,
            principal=peer.principal.name,
            session_id=peer.session_id,
            size_bytes=call.size_bytes,
            is_owed=call.is_taken_over,
        )
        call.run = self._aboard[call] = flight

    def lead(self, call: Call, flight: Flight) -> None:
        """Reserve a place for a flight's work, on behalf of its first caller.

        From now on it is the one that equal calls join. Raises `QueueFull`.
        """
        peer = call.peer
        flight.expected_service_s = self._work_times.expected_s(flight.tool.spec.name)
        flight.place, flight.callers[call] = self._admission.reserve(
            flight.owner,
            principal=peer.principal.name,
            session_id=peer.session_id,
            demand=flight.demand,
            size_bytes=call.size_bytes,
            service_s=flight.expected_service_s,
            patience_s=call.timeout_s,
            is_owed=call.is_taken_over,
        )
        if flight.key is not None:
            earlier = self._joinable.get(flight.key)
            if earlier is not None:
                self._close_doors(earlier)
            self._joinable[flight.key] = flight
        call.run = self._aboard[call] = flight

    def flight_of(self, call: Call) -> Flight:
        """Return the flight that a call is aboard."""
        return self._aboard[call]

    def is_aboard(self, call: Call) -> bool:
        """Tell whether a call is aboard a flight."""
        return call in self._aboard

    def owners(self) -> set[str]:
        """Return who may hold permits: every flight that somebody is aboard of, or that flies."""
        return {flight.owner for flight in self._aboard.values()} | self.flying

    def has_landed(self, call: Call) -> bool:
        """Tell whether what a call waits for is there: its answer is on its way."""
        flight = self._aboard.get(call)
        return flight is not None and flight.outcome is not None

    def catch_up(self, call: Call) -> None:
        """Tell a caller that came back the text that its flight has streamed so far."""
        flight = self._aboard.get(call)
        if flight is not None and flight.outcome is None:
            flight.catch_up(call)
        if call.is_taken_over and (flight is None or not flight.has_streamed):
            call.tell_text_void(self._clock)

    def place_in_line(self, call: Call) -> str | None:
        """Say where a waiting call stands; None for one that need not wait (any more)."""
        flight = self._aboard.get(call)
        stand = None if flight is None else flight.callers.get(call)
        if flight is None or stand is None or stand.place.is_granted:
            return None
        return self._admission.place_in_line(stand)

    def begin_epoch(self, flight: Flight) -> None:
        """Mark the moment from which on a flight's work sees, or changes, what is behind it."""
        flight.epoch = self._epochs.advance(flight.tool.spec)

    def end_epoch(self, flight: Flight) -> None:
        """Mark the moment in which a flight's work has really ended, however it did."""
        self._epochs.advance(flight.tool.spec)

    def land(self, flight: Flight, outcome: Outcome) -> None:
        """Give a flight its outcome: from now on nobody joins it; a success may be kept."""
        flight.outcome = outcome
        if flight.started_at is not None:
            work_s = self._clock.monotonic_s() - flight.started_at
            self._work_times.add(flight.tool.spec.name, work_s)
        ttl_s = flight.tool.spec.policy.cache_ttl_s
        if flight.key is not None and ttl_s and _is_final(outcome):
            assert flight.epoch is not None
            expires_at = self._clock.monotonic_s() + ttl_s
            self._cache.put(flight.key, outcome, flight.epoch, expires_at)
        self._retire(flight)

    def leave(self, call: Call) -> None:
        """Let a call be answered by its flight no more; the last to leave ends it."""
        flight = self._aboard.pop(call, None)
        stand = None if flight is None else flight.callers.pop(call, None)
        if flight is None or stand is None:
            return
        self._admission.leave(stand)
        if not flight.callers:
            self.abandon(flight)

    def reseat(self, late: Flight) -> dict[Call, ExaiError | None]:
        """End a flight that is late, and let its callers board another, each at most once.

        Returns every caller, with the reason where it cannot.
        """
        key, callers = late.key, list(late.callers)
        for call in callers:
            self.leave(call)
        flight: Flight | None = None
        refusals: dict[Call, ExaiError | None] = {}
        for call in callers:
            refusals[call] = None
            try:
                if not late.may_repeat_for(call):
                    raise call.expired()
                if flight is None:
                    successor = late.successor(call, key)
                    self.lead(call, successor)
                    flight = successor
                else:
                    self.join(call, flight)
                call.attempt += 1
            except (DeadlinePassed, QueueFull) as refusal:
                refusals[call] = refusal
        return refusals

    def abandon(self, flight: Flight) -> None:
        """End a flight that has no outcome. Its permits come back once its work has ended."""
        self._retire(flight)
        if flight.outcome is not None or flight.place is None:
            return
        if flight.task is not None:
            flight.task.cancel()
        else:
            self._admission.give_up(flight.place)

    def _is_fresh(self, flight: Flight) -> bool:
        """Tell whether a flight sees everything that was written before now."""
        return flight.epoch is None or flight.epoch == self._epochs.of(flight.tool.spec)

    def _retire(self, flight: Flight) -> None:
        """Let a flight be joined, and flown anew, no more."""
        self._close_doors(flight)
        if flight.timer is not None:
            flight.timer.cancel()

    def _close_doors(self, flight: Flight) -> None:
        """Let nobody join a flight any more, nor be served what it will bring."""
        if flight.key is not None:
            del self._joinable[flight.key]
            flight.key = None


def _is_final(outcome: Outcome) -> TypeGuard[Completed]:
    """Tell whether an outcome is a success that asks for nothing more."""
    return isinstance(outcome, Completed) and outcome.input_required is None
