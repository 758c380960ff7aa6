"""Who may run now: session, conversation, provider (or upstream) and global permits at once.

Work waits in one place and holds nothing while it waits. Waiting work stands in a lane per
session and scope, so that one provider's crowd never blocks another's; freed permits go
round robin over scopes, principals and sessions.

Every change is one synchronous step over the present counts, and after each step nobody
waits at the head of a lane whose permits are free. A step costs O(scopes), and O(callers)
where a shared place starts or ends; never O(waiting).
"""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from exai.calls.limit import Ending, FixedLimit, Limit, ServiceSample
from exai.calls.permits import PermitPool, PermitStatistics
from exai.calls.places import (
    ConversationGate,
    Gatekeeper,
    Lane,
    Leaf,
    Place,
    PrincipalGate,
    ScopeGate,
    SessionGate,
    Stand,
)
from exai.calls.queue_bounds import check_patience, check_room
from exai.calls.scope_turns import ScopeTurns
from exai.core.clock import Clock
from exai.core.config import LimitsConfig
from exai.core.errors import QueueFull
from exai.core.tool import Demand

NO_SCOPE = ""
"""Where work stands that needs no permit but the session's and the daemon's."""


class AdmissionStatistics(msgspec.Struct, frozen=True):
    """What runs and what waits; `waiting_count` by scope. Sessions are their owners' own."""

    pools: list[PermitStatistics]
    session_pools: list[PermitStatistics]
    waiting_count: dict[str, int]
    conversation_count: int


class AdmissionController(Gatekeeper):
    """The one gate in front of all work."""

    def __init__(
        self, limits: LimitsConfig, scope_limits: Mapping[str, Limit], clock: Clock
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._session_limit = FixedLimit(limits.session_max_inflight)
        self._global = PermitPool("global", FixedLimit(limits.global_max_inflight))
        self._scopes = {NO_SCOPE: ScopeGate(NO_SCOPE, None)}
        for scope, limit in scope_limits.items():
            self._scopes[scope] = ScopeGate(scope, PermitPool(scope, limit))
        self._retired: set[str] = set()
        self._turns = ScopeTurns()
        self._principals: dict[str, PrincipalGate] = {}
        self._sessions: dict[str, SessionGate] = {}
        self._conversations: dict[str, ConversationGate] = {}
        self._waiting_count = 0

    def reserve(
        self,
        owner: str,
        *,
        principal: str,
        session_id: str,
        demand: Demand,
        size_bytes: int = 0,
        service_s: float = 0.0,
        patience_s: float = float("inf"),
        is_owed: bool = False,
    ) -> tuple[Place, Stand]:
        """Take a place for one caller, with its permits if they are free; never waits.

        A caller that `is_owed` a place was promised one before, and is never refused.

        Raises `QueueFull` where the session, the principal or the daemon has too many
        waiting, and where the wait and the work, which takes about `service_s`, would
        probably outlast `patience_s`; a session with nothing waiting always finds room.
        """
        session = self._session(principal, session_id)
        place = Place(self, owner, self.gate(demand.scope or NO_SCOPE), demand.conversation)
        stand = Stand(place, session, size_bytes)
        can_start = self._can_start(place, session)
        try:
            if not can_start and not is_owed:
                self._check_room(session, place.scope, size_bytes)
                waits_s = self._expected_waits_s(session, place.scope)
                check_patience(waits_s, service_s, patience_s)
        except QueueFull:
            self._forget_if_idle(session)
            raise
        place.add(stand)
        has_turn = self._take_turn(place)
        if can_start:
            self._grant(place, stand)
            return place, stand
        self._count_waiting(stand, 1)
        if has_turn:
            self._line_up(place, session)
        return place, stand

    def join(
        self,
        place: Place,
        *,
        principal: str,
        session_id: str,
        size_bytes: int = 0,
        is_owed: bool = False,
    ) -> Stand:
        """Add a caller to work that waits or runs. Raises `QueueFull`."""
        session = self._session(principal, session_id)
        try:
            if not is_owed:
                self._check_room(session, place.scope, size_bytes)
        except QueueFull:
            self._forget_if_idle(session)
            raise
        stand = Stand(place, session, size_bytes)
        place.add(stand)
        self._count_waiting(stand, 1)
        if not place.is_granted and self._has_turn(place):
            self._line_up(place, session)
            self._start_waiting()
        return stand

    def leave(self, stand: Stand) -> None:
        """Take a caller away; the work goes on, charged to its oldest remaining caller.

        Where that caller's session has no permit to give, the charge stays where it is.
        """
        place = stand.place
        if stand not in place.stands:
            return  # the work has ended
        place.remove(stand)
        if place.charged is not stand:
            self._count_waiting(stand, -1)
            if not place.is_granted and stand.session not in place.sessions:
                self._leave_lane(place, stand.session)
        self._move_charge(place)
        self._forget_if_idle(stand.session)

    def give_up(self, place: Place) -> None:
        """Take a place back: its permits if it has them, else its stand in the lines."""
        for stand in place.stands:
            if stand is not place.charged:
                self._count_waiting(stand, -1)
        if not place.is_granted:
            for session in place.sessions:
                self._leave_lane(place, session)
        if place.charged is not None:
            self._release(place, place.charged.session)
        self._leave_conversation(place)
        self._start_waiting()
        sessions = list(place.sessions)
        place.clear()
        for session in sessions:
            self._forget_if_idle(session)
        if place.charged is not None:
            self._forget_if_idle(place.charged.session)

    def line_up_leaf(self, leaf: Leaf) -> None:
        """Let a request of running work have a permit of its scope, now or in its turn."""
        lane = leaf.scope.lane_of(leaf.session)
        lane.leaves.join(leaf)
        self._turns.count(leaf.scope, 1)
        leaf.scope.refresh(lane)
        self._start_waiting()

    def give_up_leaf(self, leaf: Leaf, ending: Ending) -> None:
        """Take back a leaf: its permit, or its stand in the line."""
        if leaf.is_granted:
            self._return_permit(leaf.scope, leaf.owner, leaf.granted_at, ending)
            self._start_waiting()
        else:
            lane = leaf.scope.lane_of(leaf.session)
            lane.leaves.leave(leaf)
            self._turns.count(leaf.scope, -1)
            leaf.scope.refresh(lane)
        self._forget_if_idle(leaf.session)

    def relimit(self, limits: Mapping[str, Limit], retired: Iterable[str] = ()) -> None:
        """Let these scopes have these limits from now on; nobody comes to the `retired` again.

        What stands in a retired scope, or was on its way there, goes on as ever; the scope
        is forgotten the next time that limits change, once nothing is left in it.
        """
        for scope in [scope for scope in self._retired if self._scopes[scope].is_idle]:
            self._forget_scope(scope)
        self._retired = (self._retired | set(retired)) - limits.keys()
        for scope, limit in limits.items():
            gate = self._scopes.get(scope)
            if gate is None:
                self._scopes[scope] = ScopeGate(scope, PermitPool(scope, limit))
            elif gate.pool is not None:
                gate.pool.relimit(limit)
        self._start_waiting()

    def _forget_scope(self, scope: str) -> None:
        del self._scopes[scope]
        self._retired.discard(scope)
        for session in self._sessions.values():
            session.lanes.pop(scope, None)

    def gate(self, scope: str) -> ScopeGate:
        """Return a scope's gate. A scope that nobody configured is a defect."""
        return self._scopes[scope]

    def place_in_line(self, stand: Stand) -> str:
        """Say where a caller of waiting work stands, in words for people."""
        place, what = stand.place, stand.place.scope.scope or "a free permit"
        lane = place.scope.lane_of(stand.session)
        at = next((n for n, each in enumerate(lane.places, 1) if each is place), None)
        if at is None:
            return f"waiting for {what}, behind another call of its conversation"
        return (
            f"waiting for {what}: place {at} in this session's line, "
            f"{place.scope.in_line_count} waiting in all"
        )

    def held_permits(self) -> Iterator[tuple[str, str]]:
        """Yield scope and owner of every permit that is held."""
        scopes = [gate.pool for gate in self._scopes.values() if gate.pool is not None]
        for pool in (self._global, *scopes, *(each.pool for each in self._sessions.values())):
            for owner in pool.owners:
                yield pool.scope, owner

    def owners(self) -> frozenset[str]:
        """Return who holds permits, each by the id of the call that led it (`/anew`: again)."""
        return self._global.owners

    def statistics(self) -> AdmissionStatistics:
        """Return the numbers now."""
        present = (
            g for g in self._scopes.values() if g.scope not in self._retired or not g.is_idle
        )
        scopes = sorted(present, key=lambda gate: gate.scope)
        pools = [self._global, *(gate.pool for gate in scopes if gate.pool is not None)]
        return AdmissionStatistics(
            [pool.statistics() for pool in pools],
            [session.pool.statistics() for session in self._sessions.values()],
            {gate.scope: gate.in_line_count for gate in scopes},
            len(self._conversations),
        )

    def _session(self, principal: str, session_id: str) -> SessionGate:
        session = self._sessions.get(session_id)
        if session is None:
            gate = self._principals.get(principal)
            if gate is None:
                gate = self._principals[principal] = PrincipalGate(principal)
            gate.session_count += 1
            session = self._sessions[session_id] = SessionGate(
                gate, session_id, self._session_limit
            )
        return session

    def _forget_if_idle(self, session: SessionGate) -> None:
        if session.is_idle and self._sessions.get(session.session_id) is session:
            del self._sessions[session.session_id]
            session.principal.session_count -= 1
            if session.principal.session_count == 0:
                del self._principals[session.principal.name]

    def _can_start(self, place: Place, session: SessionGate) -> bool:
        return (
            session.pool.has_free
            and self._global.has_free
            and place.scope.has_free
            and place.conversation not in self._conversations
        )

    def _check_room(self, session: SessionGate, scope: ScopeGate, size_bytes: int) -> None:
        check_room(
            self._limits, session, scope, size_bytes=size_bytes, waiting_count=self._waiting_count
        )

    def _expected_waits_s(self, session: SessionGate, scope: ScopeGate) -> dict[str, float]:
        """Return the expected waits for what is full; none where too little was measured."""
        waits_s: dict[str, float] = {}
        if scope.service_times.mean_s is None:
            return waits_s
        if scope.pool is not None and not scope.has_free:
            waits_s[scope.scope] = scope.expected_wait_s(session, scope.pool)
        if not session.pool.has_free:
            waits_s["session"] = (session.line_length + 1) * scope.release_s(session.pool)
        if not self._global.has_free:
            in_all = self._turns.in_line_count + 1
            of_equal_length = (session.line_length + 1) * len(self._sessions)
            waits_s["global"] = min(in_all, of_equal_length) * scope.release_s(self._global)
        return waits_s

    def _count_waiting(self, stand: Stand, by: int) -> None:
        stand.session.waiting_count += by
        stand.session.principal.waiting_count += by
        stand.session.principal.waiting_bytes += by * stand.size_bytes
        self._waiting_count += by

    def _has_turn(self, place: Place) -> bool:
        """Tell whether it is a place's turn in its conversation, if it has one."""
        return (
            place.conversation is None or self._conversations[place.conversation].turn_of is place
        )

    def _take_turn(self, place: Place) -> bool:
        """Take the place's turn in its conversation, or stand behind those who came before."""
        if place.conversation is None:
            return True
        gate = self._conversations.get(place.conversation)
        if gate is None:
            self._conversations[place.conversation] = ConversationGate(place)
            return True
        gate.line.join(place)
        self._turns.count(place.scope, 1)
        return False

    def _leave_conversation(self, place: Place) -> None:
        if place.conversation is None:
            return
        gate = self._conversations[place.conversation]
        if gate.turn_of is not place:
            gate.line.leave(place)
            self._turns.count(place.scope, -1)
        elif gate.line:
            gate.turn_of = gate.line.pop_head()
            self._turns.count(gate.turn_of.scope, -1)
            for session in gate.turn_of.sessions:
                self._line_up(gate.turn_of, session)
        else:
            del self._conversations[place.conversation]

    def _line_up(self, place: Place, session: SessionGate) -> None:
        lane = place.scope.lane_of(session)
        if place not in lane.places:
            lane.places.join(place)
            self._turns.count(place.scope, 1)
            place.scope.refresh(lane)

    def _leave_lane(self, place: Place, session: SessionGate) -> None:
        lane = place.scope.lane_of(session)
        if place in lane.places:
            lane.places.leave(place)
            self._turns.count(place.scope, -1)
            place.scope.refresh(lane)

    def _start_waiting(self) -> None:
        """Serve one head of a line after the other, until none could start."""
        while (chosen := self._turns.choose(self._global)) is not None:
            self._turns.end_turn(*chosen)
            self._serve(*chosen)

    def _serve(self, gate: ScopeGate, lane: Lane) -> None:
        """Let the head of a lane start. What runs already goes before what would begin."""
        if lane.leaves:
            leaf = lane.leaves.pop_head()
            self._turns.count(gate, -1)
            gate.refresh(lane)
            self._take_permit(gate, leaf.owner)
            leaf.grant(self._clock.monotonic_s())
            return
        place = next(iter(lane.places))
        stand = next(stand for stand in place.stands if stand.session is lane.session)
        for session in place.sessions:
            self._leave_lane(place, session)
        self._count_waiting(stand, -1)
        self._grant(place, stand)

    def _grant(self, place: Place, stand: Stand) -> None:
        self._take_permit(place.scope, place.owner)
        self._global.acquire_nowait(place.owner)
        self._take_session_permit(stand.session, place.owner)
        place.grant(stand, self._clock.monotonic_s())

    def _release(self, place: Place, session: SessionGate) -> None:
        self._return_permit(place.scope, place.owner, place.granted_at, place.ending)
        self._global.release(place.owner)
        self._return_session_permit(session, place.owner)

    def _move_charge(self, place: Place) -> None:
        if place.charged is None or place.charged in place.stands or not place.stands:
            return
        heir, left = next(iter(place.stands)), place.charged.session
        if heir.session is not left:
            if not heir.session.pool.has_free:
                return
            self._take_session_permit(heir.session, place.owner)
            self._return_session_permit(left, place.owner)
        self._count_waiting(heir, -1)
        place.charged = heir
        self._start_waiting()
        self._forget_if_idle(left)

    def _take_permit(self, gate: ScopeGate, owner: str) -> None:
        if gate.pool is not None:
            gate.pool.acquire_nowait(owner)

    def _return_permit(
        self, gate: ScopeGate, owner: str, granted_at: float, ending: Ending
    ) -> None:
        sample: ServiceSample | None = None
        if ending is not Ending.UNUSED:
            service_s = self._clock.monotonic_s() - granted_at
            gate.service_times.add(service_s)
            if gate.pool is not None:
                sample = ServiceSample(service_s, gate.pool.in_use, ending)
        if gate.pool is not None:
            gate.pool.release(owner, sample)

    def _take_session_permit(self, session: SessionGate, owner: str) -> None:
        session.pool.acquire_nowait(owner)
        if not session.pool.has_free:
            self._refresh_lanes(session)

    def _return_session_permit(self, session: SessionGate, owner: str) -> None:
        session.pool.release(owner)
        self._refresh_lanes(session)

    def _refresh_lanes(self, session: SessionGate) -> None:
        for scope, lane in session.lanes.items():
            self._scopes[scope].refresh(lane)
