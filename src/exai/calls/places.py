"""Who waits for what: the gates, with their permits and lines, and the places before them.

A place is work that is to run; a leaf is one request of work that runs; a stand is one
caller of a place. Bookkeeping of one thing each: what they mean together is decided in
`admission`, the one `Gatekeeper`.
"""

import asyncio
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from exai.calls.limit import Ending, Limit
from exai.calls.permits import PermitPool
from exai.calls.service_times import ServiceTimes
from exai.calls.waiting import FairRing, Line


class Gatekeeper(ABC):
    """Who grants permits, and takes them back."""

    @abstractmethod
    def gate(self, scope: str) -> "ScopeGate":
        """Return a scope's gate. A scope that nobody configured is a defect."""

    @abstractmethod
    def give_up(self, place: "Place") -> None:
        """Take a place back: its permits if it has them, else its stand in the lines."""

    @abstractmethod
    def line_up_leaf(self, leaf: "Leaf") -> None:
        """Let a request of running work have a permit of its scope, now or in its turn."""

    @abstractmethod
    def give_up_leaf(self, leaf: "Leaf", ending: Ending) -> None:
        """Take back a leaf: its permit, or its stand in the line."""


class PrincipalGate:
    """How much one identity has waiting, over all its sessions."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.waiting_count = 0
        self.waiting_bytes = 0
        self.session_count = 0


class SessionGate:
    """One session's permits, and its lanes by scope. `waiting_count` counts its callers."""

    def __init__(self, principal: PrincipalGate, session_id: str, limit: Limit) -> None:
        self.principal = principal
        self.session_id = session_id
        self.pool = PermitPool(f"session:{session_id}", limit)
        self.lanes: dict[str, Lane] = {}
        self.waiting_count = 0

    @property
    def line_length(self) -> int:
        """Return how much of this session's work has not begun, over all scopes."""
        return sum(len(lane.places) for lane in self.lanes.values())

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing of this session waits or runs."""
        if self.waiting_count or not self.pool.is_idle:
            return False
        return not self.lanes or not any(lane.leaves for lane in self.lanes.values())


class Lane:
    """What one session has waiting for one scope: calls, and requests of calls that run."""

    def __init__(self, session: SessionGate) -> None:
        self.session = session
        self.places: Line[Place] = Line()
        self.leaves: Line[Leaf] = Line()


class ScopeGate:
    """One provider's (or upstream's) permits, and whose turn it is to get one.

    Whoever runs already and only meets its provider now needs no other permit, so it is
    served also when the daemon and its session are full: hence a second ring.
    """

    def __init__(self, scope: str, pool: PermitPool | None) -> None:
        self.scope = scope
        self.pool = pool
        self.service_times = ServiceTimes()
        self.in_line_count = 0
        self._startable: FairRing[Lane] = FairRing()
        self._with_leaves: FairRing[Lane] = FairRing()

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing waits here, and nothing runs."""
        return not self.in_line_count and (self.pool is None or self.pool.is_idle)

    @property
    def has_free(self) -> bool:
        """Tell whether one more may run here."""
        return self.pool is None or self.pool.has_free

    def lane_of(self, session: SessionGate) -> Lane:
        """Return the session's lane for this scope."""
        lane = session.lanes.get(self.scope)
        if lane is None:
            lane = session.lanes[self.scope] = Lane(session)
        return lane

    def refresh(self, lane: Lane) -> None:
        """Let a lane take turns exactly while it has something that its session could start."""
        principal, session_id = lane.session.principal.name, lane.session.session_id
        may_start = bool(lane.places) and lane.session.pool.has_free
        for ring, belongs in (
            (self._with_leaves, bool(lane.leaves)),
            (self._startable, bool(lane.leaves) or may_start),
        ):
            if belongs:
                ring.add(principal, session_id, lane)
            else:
                ring.remove(principal, session_id)

    def ring(self, *, leaves_only: bool) -> FairRing[Lane]:
        """Return the lanes that could be served, by whose turn it is."""
        return self._with_leaves if leaves_only else self._startable

    def end_turn(self, lane: Lane) -> None:
        """Put a lane that is served behind all others."""
        for ring in (self._startable, self._with_leaves):
            ring.end_turn(lane.session.principal.name, lane.session.session_id)

    def expected_wait_s(self, session: SessionGate, pool: PermitPool) -> float:
        """Return how long one more call of a session would wait for this scope's `pool`."""
        own = len(self.lane_of(session).places) + 1
        turns = own * self._startable.turns_in_round(session.principal.name)
        return min(turns, self.in_line_count + 1) * self.release_s(pool)

    def turn_s(self, session: SessionGate) -> float | None:
        """Return the mean time from one of a session's turns to its next; None: not known."""
        mean_s = self.service_times.mean_s
        if mean_s is None or self.pool is None:
            return mean_s
        return self.release_s(self.pool) * self._startable.turns_in_round(session.principal.name)

    def release_s(self, pool: PermitPool) -> float:
        """Return the mean time between two permits of a full pool coming back."""
        return (self.service_times.mean_s or 0.0) / pool.permit_count


class ConversationGate:
    """One conversation: whose turn it is, and who comes after."""

    def __init__(self, turn_of: "Place") -> None:
        self.turn_of = turn_of
        self.line: Line[Place] = Line()


class Stand:
    """One caller of a place: it waits in its session's line until the place's work has ended.

    Whose session's permit the work uses no longer waits.
    """

    def __init__(self, place: "Place", session: SessionGate, size_bytes: int) -> None:
        self.place = place
        self.session = session
        self.size_bytes = size_bytes


class Place:
    """The place of one piece of work: it waits, then holds all its permits.

    `stands` are its callers, oldest first; `sessions` theirs, with how many each has. It
    stands in the line of each of its callers' sessions, and starts from the first whose
    turn comes; that caller's session is charged. Leaving the context gives it up.
    """

    def __init__(
        self,
        admission: Gatekeeper,
        owner: str,
        scope: ScopeGate,
        conversation: str | None,
    ) -> None:
        self.owner = owner
        self.scope = scope
        self.conversation = conversation
        self.stands: dict[Stand, None] = {}
        self.sessions: dict[SessionGate, int] = {}
        self.charged: Stand | None = None
        self.granted_at = 0.0
        self.ending = Ending.UNUSED
        self._admission = admission
        self._granted: asyncio.Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give up the place. A grant that met a cancellation counts, and is passed on here."""
        self._admission.give_up(self)

    def add(self, stand: Stand) -> None:
        """Let one more caller wait for this work."""
        self.stands[stand] = None
        self.sessions[stand.session] = self.sessions.get(stand.session, 0) + 1

    def remove(self, stand: Stand) -> None:
        """Let a caller wait no more."""
        del self.stands[stand]
        self.sessions[stand.session] -= 1
        if not self.sessions[stand.session]:
            del self.sessions[stand.session]

    def clear(self) -> None:
        """Let nobody wait any more."""
        self.stands.clear()
        self.sessions.clear()

    @property
    def is_granted(self) -> bool:
        """Tell whether every permit is held."""
        return self.charged is not None

    async def permits(self) -> None:
        """Wait until every permit is held."""
        if not self.is_granted:
            self._granted = asyncio.get_running_loop().create_future()
            await self._granted

    def grant(self, stand: Stand, now: float) -> None:
        """Wake the work, whose permits are taken and charged to `stand`."""
        self.charged = stand
        self.granted_at = now
        if self._granted is not None and not self._granted.done():
            self._granted.set_result(None)

    @property
    def has_waited(self) -> bool:
        """Tell whether the permits were not free at once."""
        return self._granted is not None

    def begin(self) -> None:
        """Take note that the work begins: how long it takes counts."""
        self.ending = Ending.IGNORED

    def leaf(self, scope: str, owner: str) -> "Leaf":
        """Return a permit of `scope` for one request of this work, which runs."""
        if self.charged is None:
            raise RuntimeError(f"{self.owner} asks for a permit before it may run")
        return Leaf(self._admission, owner, self._admission.gate(scope), self.charged.session)


class Leaf:
    """One provider's permit for one request of work that runs. A context manager."""

    def __init__(
        self, admission: Gatekeeper, owner: str, scope: ScopeGate, session: SessionGate
    ) -> None:
        self.owner = owner
        self.scope = scope
        self.session = session
        self.granted_at = 0.0
        self._admission = admission
        self._granted = asyncio.Event()

    @property
    def is_granted(self) -> bool:
        """Tell whether the permit is held."""
        return self._granted.is_set()

    async def __aenter__(self) -> None:
        """Wait for the permit; cancelled, it leaves the line, or passes the permit on."""
        self._admission.line_up_leaf(self)
        try:
            await self._granted.wait()
        except asyncio.CancelledError:
            self._admission.give_up_leaf(self, Ending.UNUSED)
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the permit back."""
        ending = Ending.SUCCESS if error is None else Ending.IGNORED
        self._admission.give_up_leaf(self, ending)

    def grant(self, now: float) -> None:
        """Wake the work, whose permit is taken."""
        self.granted_at = now
        self._granted.set()
