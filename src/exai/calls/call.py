"""One caller's request in this process, from its frame to its one answer.

A call is passive: it knows what it is, how far it has come and how it ended. Who moves it
on is the router's and the pipeline's concern.
"""

import asyncio
from typing import Any

from exai.calls.arguments_digest import (
    arguments_digest,
    digest_of_request,
    digest_of_work,
    size_bytes_of,
)
from exai.core.clock import Clock
from exai.core.errors import DeadlinePassed, ExaiError
from exai.core.events import Whose
from exai.core.outcomes import Outcome
from exai.core.peer import Peer
from exai.core.replies import CallAcked, CallMeta, CallProgressed
from exai.core.requests import CallTool
from exai.core.tool import ToolRun, ToolSpec


class Call:
    """A request on its way. Times named `_at` are monotonic.

    `request_id` is the client's, or minted. `known_as` is the id of the call whose key this
    one follows, else its own: what is told of it is told of both. `size_bytes` is about what
    its arguments take. `task` is what moves it on, `run` the execution that it waits for.
    `attempt` says which of its executions that is, `started_attempt` which one has begun, 0
    for none; both may have been in an earlier process, from which it then `is_taken_over`.
    """

    def __init__(self, call_id: str, request: CallTool, request_id: str, peer: Peer) -> None:
        self.call_id = self.known_as = call_id
        self.request = request
        self.request_id = request_id
        self.peer = peer
        self.whose = Whose(peer.session_id, request_id, call_id)
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.spec: ToolSpec | None = None
        self.timeout_s = 0.0
        self.deadline = float("inf")
        self.queued_at = 0.0
        self.started_at: float | None = None
        self.attempt = 1
        self.started_attempt = 0
        self.is_idempotent = False
        self.is_taken_over = False
        self.is_set_aside = False
        self.is_stored = True
        self.run: ToolRun | None = None
        self.last_told_at = 0.0
        self.is_accepted = False
        self.is_joined = False
        self.is_cached = False
        self.early_joins = 0
        self.is_asked_about = False
        self._moved: asyncio.Event | None = None
        self._digest: bytes | None = None
        self._arguments_digest: bytes | None = None
        self._work_digest: bytes | None = None
        self.withdrawn: ExaiError | None = None
        self.outcome: Outcome | None = None
        self.queue_s = 0.0
        self.run_s = 0.0
        self.size_bytes = size_bytes_of(request.arguments)
        if request.meta or request.input:
            self.size_bytes += size_bytes_of(request.meta) + size_bytes_of(request.input)

    @property
    def digest(self) -> bytes:
        """What identifies the request: the name, the arguments, and what was asked for beside."""
        if self._digest is None:
            self._digest = digest_of_request(self.request, self._digest_of_arguments())
        return self._digest

    @property
    def work_digest(self) -> bytes:
        """What identifies the work, for one tool: all that its server gets to see of it."""
        if self._work_digest is None:
            self._work_digest = digest_of_work(self.request, self._digest_of_arguments())
        return self._work_digest

    def _digest_of_arguments(self) -> bytes:
        if self._arguments_digest is None:
            self._arguments_digest = arguments_digest(self.request.arguments)
        return self._arguments_digest

    @property
    def follows_its_key(self) -> bool:
        """Tell whether this call is the same request as an earlier one, by its key."""
        return self.known_as != self.call_id

    @property
    def tool_name(self) -> str:
        """The tool's registered name once it is found, else the name that was asked for."""
        return self.request.name if self.spec is None else self.spec.name

    def prepare(self, spec: ToolSpec, limit_s: float) -> None:
        """Let the call know its tool, and how long it may take; it may have asked for less."""
        self.spec, self.is_idempotent = spec, spec.policy.idempotent
        self.timeout_s = min(self.request.timeout_s or limit_s, limit_s)

    def require_wanted(self) -> None:
        """Raise what took the call back while its acceptance was being stored."""
        if self.withdrawn is not None:
            raise self.withdrawn

    async def wait_moved(self) -> None:
        """Wait until this call has come further."""
        if self._moved is None:
            self._moved = asyncio.Event()
        await self._moved.wait()

    def pulse(self) -> None:
        """Wake whoever waits for this call to come further."""
        if self._moved is not None:
            self._moved.set()
            self._moved = None

    def note_start(self, now: float) -> None:
        """Let the execution that the call waits for have begun."""
        self.started_attempt, self.started_at = self.attempt, now

    @property
    def is_waiting(self) -> bool:
        """Tell whether the execution that the call waits for has not begun."""
        return self.started_attempt < self.attempt

    @property
    def may_have_begun(self) -> bool:
        """Tell whether the work that this call waits for may have had an effect."""
        return self.started_attempt > 0 and (self.run is None or self.run.may_have_begun)

    @property
    def has_ended(self) -> bool:
        """Tell whether nothing more is to be done for the call in this process."""
        return self.outcome is not None or self.is_set_aside

    def decide(self, outcome: Outcome, now: float) -> bool:
        """Give the call its outcome. False: it has one that stands, or gets it elsewhere."""
        if self.has_ended:
            return False
        self.outcome = outcome
        self.stop_time()
        if self.is_accepted:
            started_at = now if self.started_at is None else self.started_at
            self.queue_s = started_at - self.queued_at
            self.run_s = now - started_at
        return True

    def set_aside(self) -> None:
        """Let the call have no outcome in this process: a later one takes it over."""
        self.is_set_aside = True
        self.stop_time()

    def stop_time(self) -> None:
        """Let the call not end at its deadline."""
        if self.timer is not None:
            self.timer.cancel()

    def expired(self) -> DeadlinePassed:
        """Return the error of a call whose time is over."""
        if not self.may_have_begun:
            return DeadlinePassed(
                f"the call waited {self.timeout_s:g} s and did not start",
                retryable=True,
                phase="queue",
            )
        return DeadlinePassed(
            f"the call did not end within {self.timeout_s:g} s",
            retryable=self.is_idempotent,
            phase="run",
            **self.possible_effect(),
        )

    def possible_effect(self) -> dict[str, bool]:
        """Return the error details of a call that may have had an effect not to be repeated."""
        return {"may_have_run": True} if self.may_have_begun and not self.is_idempotent else {}

    def tell_accepted(self, clock: Clock) -> None:
        """Acknowledge the call, and whoever joined or asked before it could be acknowledged."""
        self.last_told_at = clock.monotonic_s()
        self.peer.send(self._ack(joined=self.follows_its_key))
        for _ in range(self.early_joins):
            self.peer.send(self._ack(joined=True))
        if self.is_asked_about:
            self.tell_progress(clock)

    def tell_progress(self, clock: Clock, **said: Any) -> None:
        """Tell the peer what `said` says (fields of `CallProgressed`), or that all is well."""
        self.last_told_at = clock.monotonic_s()
        self.peer.send(CallProgressed(self.request_id, self.request.name, clock.wall_s(), **said))

    def tell_text_void(self, clock: Clock) -> None:
        """Tell the peer that what it was told of the text by earlier attempts is void."""
        if self.attempt > 1:
            self.tell_progress(clock, delta="", offset=0, attempt=self.attempt)

    def join(self) -> None:
        """Let the same request, sent again, wait for the same answer."""
        if self.is_accepted:
            self.peer.send(self._ack(joined=True))
        else:
            self.early_joins += 1

    def _ack(self, *, joined: bool) -> CallAcked:
        return CallAcked(
            request_id=self.request_id,
            name=self.request.name,
            call_id=self.call_id,
            timeout_s=self.timeout_s,
            joined=joined,
        )

    def meta(self) -> CallMeta | None:
        """Return how the answer came about; None where nothing had been accepted."""
        if not self.is_accepted:
            return None
        return CallMeta(
            call_id=self.call_id,
            cached=self.is_cached,
            joined=self.is_joined,
            durable=self.is_stored,
            queue_ms=round(self.queue_s * 1000),
            run_ms=round(self.run_s * 1000),
        )
