"""What a place may have to wait for, each with its permits, its lines and its counts.

Bookkeeping of one thing each: a principal, a session, a scope, a conversation. What they
mean together is decided in `admission`.
"""

from typing import TYPE_CHECKING

from exai.calls.limit import Limit
from exai.calls.permits import PermitPool
from exai.calls.service_times import ServiceTimes
from exai.calls.waiting import FairRing, Line

if TYPE_CHECKING:
    from exai.calls.places import Leaf, Place


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
    def is_idle(self) -> bool:
        """Tell whether nothing of this session waits or runs."""
        return (
            self.waiting_count == 0
            and self.pool.is_idle
            and not any(lane.leaves for lane in self.lanes.values())
        )


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
        self.waiting_count = 0
        self._startable: FairRing[Lane] = FairRing()
        self._with_leaves: FairRing[Lane] = FairRing()

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

    def next_lane(self, *, leaves_only: bool) -> Lane | None:
        """Return the lane whose turn it is, if any, and put it behind all others."""
        ring = self._with_leaves if leaves_only else self._startable
        if not ring:
            return None
        lane = ring.next()
        for each in (self._startable, self._with_leaves):
            each.move_to_end(lane.session.principal.name, lane.session.session_id)
        return lane

    def expected_wait_s(self, session: SessionGate) -> float | None:
        """Return how long one more call of a session would wait here; None: nobody knows."""
        turn_s = self.turn_s(session)
        if turn_s is None or self.pool is None:
            return turn_s
        own = len(self.lane_of(session).places) + 1
        return min(own * turn_s, (self.waiting_count + 1) * self.release_s(self.pool))

    def turn_s(self, session: SessionGate) -> float | None:
        """Return the time from one of a session's turns to its next."""
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
