"""Lines of waiting work, and whose turn it is: round robin over principals, then sessions.

Pure bookkeeping. Every operation costs the same with ten waiting and with ten thousand.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

W = TypeVar("W")


class Line(Generic[W]):
    """First come, first served. Anyone may leave at any time, from wherever in the line."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[W, None] = OrderedDict()

    def __len__(self) -> int:
        """Return how many stand here."""
        return len(self._waiting)

    def __iter__(self) -> Iterator[W]:
        """Iterate from the one who has waited longest."""
        return iter(self._waiting)

    def __contains__(self, waiting: object) -> bool:
        """Tell whether somebody stands here."""
        return waiting in self._waiting

    def join(self, waiting: W) -> None:
        """Stand at the end; whoever stands here keeps the place."""
        self._waiting.setdefault(waiting)

    def leave(self, waiting: W) -> None:
        """Go; harmless if not here."""
        self._waiting.pop(waiting, None)

    def pop_head(self) -> W:
        """Return whoever has waited longest."""
        return self._waiting.popitem(last=False)[0]


class Turns(Generic[W]):
    """Members that take turns in rounds: in each round everybody who waits has one.

    Whoever comes in the middle of a round still has a turn in it, but for those who had
    one: nobody waits behind a member that was just served, and nobody gains by coming back.
    As many as began a round may come to it, so that it ends: whoever was served waits at
    most for twice as many turns as there were members, however many come and go.
    """

    def __init__(self) -> None:
        self._now: OrderedDict[str, W] = OrderedDict()
        self._later: OrderedDict[str, W] = OrderedDict()
        self._served: set[str] = set()
        self._room_for = 0

    def __len__(self) -> int:
        """Return how many take turns."""
        return len(self._now) + len(self._later)

    def get(self, name: str) -> W | None:
        """Return a member by its name."""
        member = self._now.get(name)
        return self._later.get(name) if member is None else member

    def names(self) -> list[str]:
        """Return who takes turns, in the order of this round."""
        return [*self._now, *self._later]

    def add(self, name: str, member: W) -> None:
        """Let a member take turns; one that does already keeps its place."""
        if name in self._now or name in self._later:
            return
        if name in self._served or not self._room_for:
            self._later[name] = member
        else:
            self._room_for -= 1
            self._now[name] = member

    def remove(self, name: str) -> None:
        """Let a member take no more turns; harmless if it takes none."""
        self._now.pop(name, None)
        self._later.pop(name, None)
        if not len(self):
            self._served.clear()
            self._room_for = 0

    def next(self) -> W:
        """Return whose turn it is."""
        if not self._now:
            self._now, self._later = self._later, self._now
            self._served.clear()
            self._room_for = len(self._now)
        return next(iter(self._now.values()))

    def end_turn(self, name: str) -> None:
        """Take note that a member, here or not, was served in this round."""
        if not len(self):
            return
        self._served.add(name)
        member = self._now.pop(name, None)
        if member is not None:
            self._later[name] = member


class FairRing(Generic[W]):
    """Members that could be served, one for each session: principals take turns, then sessions."""

    def __init__(self) -> None:
        self._principals: Turns[Turns[W]] = Turns()

    def __bool__(self) -> bool:
        """Tell whether anyone could be served."""
        return len(self._principals) > 0

    def add(self, principal: str, session_id: str, member: W) -> None:
        """Let a member take turns; one that does already keeps its place."""
        sessions = self._principals.get(principal)
        if sessions is None:
            sessions = Turns()
            self._principals.add(principal, sessions)
        sessions.add(session_id, member)

    def remove(self, principal: str, session_id: str) -> None:
        """Let a session's member take no more turns; harmless if it takes none."""
        sessions = self._principals.get(principal)
        if sessions is not None:
            sessions.remove(session_id)
            if not len(sessions):
                self._principals.remove(principal)

    def next(self) -> W:
        """Return whose turn it is."""
        return self._principals.next().next()

    def principals(self) -> list[str]:
        """Return whose members could be served."""
        return self._principals.names()

    def next_of(self, principal: str) -> W:
        """Return whose turn it is among one principal's members."""
        sessions = self._principals.get(principal)
        assert sessions is not None
        return sessions.next()

    def end_turn(self, principal: str, session_id: str) -> None:
        """Take note that a session, and so its principal, was served."""
        sessions = self._principals.get(principal)
        if sessions is not None:
            sessions.end_turn(session_id)
        self._principals.end_turn(principal)

    def turns_in_round(self, principal: str) -> int:
        """Return how many turns pass from one of a session's own to its next."""
        sessions = self._principals.get(principal)
        principal_count = len(self._principals) + (sessions is None)
        return principal_count * max(1, 0 if sessions is None else len(sessions))
