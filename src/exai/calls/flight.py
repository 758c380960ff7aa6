"""One execution, as its tool sees it, and the callers aboard, who may come and go.

What the tool reports goes to every caller, in order. A flight belongs to its callers and
to none of them: it goes on until the last has left, or its own time is over.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from exai.calls.call import Call
from exai.calls.places import Place, Stand
from exai.core.clock import Clock
from exai.core.errors import NOTHING_DONE, DeadlinePassed
from exai.core.outcomes import Completed, Outcome
from exai.core.tool import Demand, LogLevel, Tool, ToolRun


class Flight(ToolRun):
    """Work that waits, runs or has landed. Times named `_at` are monotonic.

    `ends_at` is when the tool's own limit is reached, which counts from its start. `owner`
    is who holds its permits. `task` is what flies it, that of the call that took it off first.
    `epoch` is the one in which its work began, None before that. `first_attempt` is higher
    than 1 where an earlier flight of the same callers ended without an outcome.
    """

    def __init__(
        self,
        tool: Tool,
        demand: Demand,
        call: Call,
        *,
        key: bytes | None,
        limit_s: float,
        clock: Clock,
        first_attempt: int = 1,
    ) -> None:
        self.tool = tool
        self.demand = demand
        self.key = key
        self.limit_s = limit_s
        self.ends_at = float("inf")
        self.expected_service_s = 0.0
        self.call_id = call.call_id
        # What its first caller led before may still hold permits.
        self.owner = call.call_id if first_attempt == 1 else f"{call.call_id}/anew"
        self.whose = call.whose
        self.principal = call.peer.principal
        self.session_id = call.peer.session_id
        self.client = call.peer.client
        self.arguments = call.request.arguments
        self.traceparent = call.request.traceparent
        self.meta = call.request.meta
        self.input = call.request.input
        self.callers: dict[Call, Stand] = {}
        self.place: Place | None = None
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.epoch: int | None = None
        self.started_at: float | None = None
        self.outcome: Outcome | None = None
        self.attempt = first_attempt
        self._clock = clock
        self._streamed: list[str] = []
        self._offset = 0
        self._leaf_count = 0
        self._leaf_holders: set[asyncio.Task[Any] | None] = set()

    @property
    def runs_at_once(self) -> bool:
        """Tell whether a caller that comes now has nothing to wait for."""
        is_granted = self.place is not None and self.place.is_granted
        return self.outcome is None and (is_granted or self.started_at is not None)

    @property
    def deadline(self) -> float:
        """Return when nobody aboard waits any more, or the tool may take no longer."""
        return min(self.ends_at, max([call.deadline for call in self.callers], default=0.0))

    def has_more_time(self) -> bool:
        """Tell whether a caller may wait for longer than the tool may take."""
        return any(call.deadline > self.ends_at for call in self.callers)

    def start(self) -> None:
        """Begin to run: every permit is held.

        Raises `DeadlinePassed` where the wait has left too little time: to run until the
        deadline would keep the permits from those who can still be served in time.
        """
        assert self.place is not None
        ends_at = self.place.granted_at + self.expected_service_s
        if self.place.has_waited and ends_at > self.deadline:
            raise DeadlinePassed(
                "the call waited too long to end in time, and did not start",
                retryable=True,
                phase="queue",
            )
        self.place.begin()
        self.started_at = self._clock.monotonic_s()
        self.ends_at = self.started_at + self.limit_s

    def conclude(self, outcome: Outcome) -> Outcome:
        """Return an outcome with what only the flight knows: attempts, a possible effect."""
        if outcome.facts.attempts != self.attempt:
            facts = msgspec.structs.replace(outcome.facts, attempts=self.attempt)
            outcome = msgspec.structs.replace(outcome, facts=facts)
        if isinstance(outcome, Completed) or outcome.error.code in NOTHING_DONE:
            return outcome
        error, idempotent = outcome.error, self.tool.spec.policy.idempotent
        if error.retryable or idempotent or not self.may_have_begun:
            return outcome
        details = {**(error.details or {}), "may_have_run": True}
        return msgspec.structs.replace(
            outcome, error=msgspec.structs.replace(error, details=details)
        )

    def report(
        self,
        message: str | None = None,
        *,
        progress: float | None = None,
        total: float | None = None,
        level: LogLevel | None = None,
    ) -> None:
        """Tell every caller how far the work is."""
        _require_sendable(message or "")
        self._tell(message=message, progress=progress, total=total, level=level)

    def log(self, entry: dict[str, Any]) -> None:
        """Tell every caller what the server wrote to its client's log."""
        data, level = entry.get("data"), entry.get("level")
        message = data if isinstance(data, str) else msgspec.json.encode(data).decode()
        _require_sendable(message)
        self._tell(message=message, level=level if isinstance(level, str) else None, log=entry)

    def stream(self, delta: str) -> None:
        """Tell every caller the next piece of the text."""
        if delta:
            _require_sendable(delta)
            self._tell(delta=delta, offset=self._offset, attempt=self.attempt)
            self._streamed.append(delta)
            self._offset += len(delta)

    def begin_attempt(self) -> None:
        """Count offsets from 0 again, under the next attempt's number."""
        self.attempt += 1
        if self._streamed:
            self._tell(delta="", offset=0, attempt=self.attempt)
        self._streamed.clear()
        self._offset = 0

    @asynccontextmanager
    async def permit(self, scope: str) -> AsyncIterator[None]:
        """Hold a permit of `scope` for one request."""
        holder = asyncio.current_task()
        if self.demand.scope is not None or holder in self._leaf_holders:
            raise RuntimeError(f"{self.tool.spec.name} waits for {scope} while it holds a permit")
        assert self.place is not None
        self._leaf_count += 1
        self._leaf_holders.add(holder)
        try:
            async with self.place.leaf(scope, f"{self.owner}/{self._leaf_count}"):
                yield
        finally:
            self._leaf_holders.discard(holder)

    def may_repeat_for(self, call: Call) -> bool:
        """Tell whether a caller of this flight, which is late, may have the work done again.

        A call that follows its key may not: it is the same request as one that had it done.
        """
        has_time = not call.is_accepted or call.deadline > self._clock.monotonic_s()
        was_done = call.attempt > 1 or call.follows_its_key
        return has_time and not was_done and self.tool.spec.policy.idempotent

    def successor(self, call: Call, key: bytes | None) -> "Flight":
        """Return a flight of the same work, whose first caller is `call`."""
        return Flight(
            self.tool,
            self.demand,
            call,
            key=key,
            limit_s=self.limit_s,
            clock=self._clock,
            first_attempt=self.attempt + 1,
        )

    def catch_up(self, call: Call) -> None:
        """Tell a caller that came late the text so far, in one piece."""
        if self._streamed:
            text = "".join(self._streamed)
            call.tell_progress(self._clock, delta=text, offset=0, attempt=self.attempt)

    @property
    def has_streamed(self) -> bool:
        """Tell whether its callers were told text of the present attempt."""
        return bool(self._streamed)

    def replace_text_of(self, late: "Flight", call: Call) -> None:
        """Tell a caller that comes from a flight that was late that its text is void."""
        if late.has_streamed:
            call.tell_progress(self._clock, delta="", offset=0, attempt=self.attempt)

    def _tell(self, **said: Any) -> None:
        for call in self.callers:
            if call.is_accepted and call.outcome is None:
                call.tell_progress(self._clock, **said)


def _require_sendable(text: str) -> None:
    """Raise in the tool that says it what no frame can hold: a lone surrogate."""
    if not text.isascii():
        text.encode()
