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


class FairRing(Generic[W]):
    """Members that could be served, one for each session, in the order of their turns."""

    def __init__(self) -> None:
        self._principals: OrderedDict[str, OrderedDict[str, W]] = OrderedDict()

    def __bool__(self) -> bool:
        """Tell whether anyone could be served."""
        return bool(self._principals)

    def add(self, principal: str, session_id: str, member: W) -> None:
        """Let a member take turns; one that does already keeps its turn."""
        sessions = self._principals.setdefault(principal, OrderedDict())
        sessions.setdefault(session_id, member)

    def remove(self, principal: str, session_id: str) -> None:
        """Let a session's member take no more turns; harmless if it takes none."""
        sessions = self._principals.get(principal)
        if sessions is None:
            return
        sessions.pop(session_id, None)
        if not sessions:
            del self._principals[principal]

    def next(self) -> W:
        """Return whose turn it is."""
        sessions = next(iter(self._principals.values()))
        return next(iter(sessions.values()))

    def move_to_end(self, principal: str, session_id: str) -> None:
        """Put a member and its principal behind all others; harmless if it is not here."""
        sessions = self._principals.get(principal)
        if sessions is not None and session_id in sessions:
            sessions.move_to_end(session_id)
            self._principals.move_to_end(principal)

    def turns_in_round(self, principal: str) -> int:
        """Return how many turns pass from one of a session's own to its next."""
        sessions = self._principals.get(principal)
        principal_count = len(self._principals) + (sessions is None)
        return principal_count * max(1, len(sessions or ()))
