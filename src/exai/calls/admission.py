"""Who may run now: session, provider (or upstream) and global permits, together or not at all.

A call waits in one place and holds nothing while it waits. Waiting calls stand in a lane
per session and scope, so that one provider's crowd never blocks another's; freed permits
go round robin over scopes, principals and sessions.

Every change is one synchronous step over the present counts, and after each step no head
of a lane waits whose permits are free. A step costs O(scopes), not O(waiting).
"""

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import msgspec

from exai.calls.limit import FixedLimit, Limit
from exai.calls.permits import PermitPool, PermitStatistics
from exai.calls.waiting import FairRing, Lane
from exai.core.config import LimitsConfig
from exai.core.errors import QueueFull

NO_SCOPE = ""
"""Where calls stand that need no permit but the session's and the daemon's."""


class AdmissionStatistics(msgspec.Struct, frozen=True):
    """What runs and what waits; `waiting_count` by scope. Sessions are their owners' own."""

    pools: list[PermitStatistics]
    session_pools: list[PermitStatistics]
    waiting_count: dict[str, int]


class AdmissionController:
    """The one gate in front of all work."""

    def __init__(self, limits: LimitsConfig, scope_limits: Mapping[str, int]) -> None:
        self._limits = limits
        self._session_limit = FixedLimit(limits.session_max_inflight)
        self._global = PermitPool("global", FixedLimit(limits.global_max_inflight))
        self._scopes = {
            scope: PermitPool(scope, FixedLimit(permit_count))
            for scope, permit_count in scope_limits.items()
        }
        self._sessions: dict[str, _SessionGate] = {}
        self._rings: dict[str, FairRing[Place]] = {
            scope: FairRing() for scope in (NO_SCOPE, *scope_limits)
        }
        self._waiting_count = dict.fromkeys(self._rings, 0)

    def reserve(self, owner: str, *, principal: str, session_id: str, scope: str | None) -> "Place":
        """Take a place, with its permits if they are free; never waits.

        Raises `QueueFull` where the session or the daemon has too many waiting; a session
        with nothing waiting always finds a place.
        """
        session = self._sessions.get(session_id)
        if session is None:
            session = _SessionGate(principal, session_id, self._session_limit)
            self._sessions[session_id] = session
        place = Place(self, owner, session, scope or NO_SCOPE)
        if session.pool.has_free and self._has_free(place.scope):
            self._grant(place)
        else:
            self._check_room(session)
            self._line_up(place)
        return place

    def give_up(self, place: "Place") -> None:
        """Take a place back: its permits if it has them, else its stand in the line."""
        if place.is_granted:
            self._release(place)
        else:
            self._leave(place)
        if place.session.is_idle:
            del self._sessions[place.session.session_id]

    def owners(self) -> frozenset[str]:
        """Return every call id that holds permits."""
        return self._global.owners

    def statistics(self) -> AdmissionStatistics:
        """Return the numbers now."""
        pools = [self._global, *self._scopes.values()]
        return AdmissionStatistics(
            [pool.statistics() for pool in pools],
            [session.pool.statistics() for session in self._sessions.values()],
            dict(self._waiting_count),
        )

    def _check_room(self, session: "_SessionGate") -> None:
        if session.waiting_count >= self._limits.session_max_waiting:
            raise QueueFull(
                f"{session.waiting_count} calls of this session wait already", scope="session"
            )
        waiting_count = sum(self._waiting_count.values())
        if session.waiting_count and waiting_count >= self._limits.global_max_waiting:
            raise QueueFull(f"{waiting_count} calls wait already", scope="global")

    def _line_up(self, place: "Place") -> None:
        lane = place.session.lane(place.scope)
        lane.join(place)
        place.session.waiting_count += 1
        self._waiting_count[place.scope] += 1
        if place.session.pool.has_free:
            self._rings[place.scope].add(lane)

    def _leave(self, place: "Place") -> None:
        lane = place.session.lane(place.scope)
        lane.leave(place)
        self._left_the_line(place, lane)

    def _left_the_line(self, place: "Place", lane: "Lane[Place]") -> None:
        place.session.waiting_count -= 1
        self._waiting_count[place.scope] -= 1
        if not lane:
            self._rings[place.scope].remove(lane)

    def _release(self, place: "Place") -> None:
        session = place.session
        session.pool.release(place.owner)
        self._global.release(place.owner)
        if place.scope in self._scopes:
            self._scopes[place.scope].release(place.owner)
        for scope, lane in session.lanes.items():
            if lane:
                self._rings[scope].add(lane)
        self._start_waiting()

    def _start_waiting(self) -> None:
        """Serve one head of each scope in turn, until none could start."""
        served = True
        while served:
            served = False
            for scope, ring in self._rings.items():
                if ring and self._has_free(scope):
                    lane = ring.take_turn()
                    place = lane.pop_head()
                    self._left_the_line(place, lane)
                    self._grant(place)
                    served = True

    def _has_free(self, scope: str) -> bool:
        pool = self._scopes.get(scope)
        return self._global.has_free and (pool is None or pool.has_free)

    def _grant(self, place: "Place") -> None:
        session = place.session
        session.pool.acquire_nowait(place.owner)
        self._global.acquire_nowait(place.owner)
        if place.scope in self._scopes:
            self._scopes[place.scope].acquire_nowait(place.owner)
        if not session.pool.has_free:
            for scope, lane in session.lanes.items():
                self._rings[scope].remove(lane)
        place.grant()


class Place:
    """One call's place: waiting, then holding its permits. Leaving the context gives it up."""

    def __init__(
        self, admission: AdmissionController, owner: str, session: "_SessionGate", scope: str
    ) -> None:
        self.owner = owner
        self.session = session
        self.scope = scope
        self.is_granted = False
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

    async def permits(self) -> None:
        """Wait until every permit is held."""
        if not self.is_granted:
            self._granted = asyncio.get_running_loop().create_future()
            await self._granted

    def grant(self) -> None:
        """Wake the call, whose permits are taken."""
        self.is_granted = True
        if self._granted is not None and not self._granted.done():
            self._granted.set_result(None)


class _SessionGate:
    """A session's permits and its lanes, one per scope."""

    def __init__(self, principal: str, session_id: str, limit: Limit) -> None:
        self.session_id = session_id
        self.pool = PermitPool(f"session:{session_id}", limit)
        self.lanes: dict[str, Lane[Place]] = {}
        self.waiting_count = 0
        self._principal = principal

    @property
    def is_idle(self) -> bool:
        return self.waiting_count == 0 and self.pool.is_idle

    def lane(self, scope: str) -> "Lane[Place]":
        if scope not in self.lanes:
            self.lanes[scope] = Lane(self._principal, self.session_id)
        return self.lanes[scope]
