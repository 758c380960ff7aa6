"""Lines of waiting calls, and whose turn it is: round robin over principals, then sessions.

Pure bookkeeping. Every operation costs the same with ten waiting and with ten thousand.
"""

from collections import OrderedDict
from typing import Generic, TypeVar

W = TypeVar("W")


class Lane(Generic[W]):
    """FIFO of one session's calls for one scope. Any of them may leave at any time."""

    def __init__(self, principal: str, session_id: str) -> None:
        self.principal = principal
        self.session_id = session_id
        self._waiting: OrderedDict[W, None] = OrderedDict()

    def __len__(self) -> int:
        """Return how many stand here."""
        return len(self._waiting)

    def join(self, waiting: W) -> None:
        """Stand at the end."""
        self._waiting[waiting] = None

    def leave(self, waiting: W) -> None:
        """Go, from wherever in the line."""
        del self._waiting[waiting]

    def pop_head(self) -> W:
        """Return whoever has waited longest."""
        return self._waiting.popitem(last=False)[0]


class FairRing(Generic[W]):
    """The lanes of one scope that could be served, in the order of their turns."""

    def __init__(self) -> None:
        self._principals: OrderedDict[str, OrderedDict[str, Lane[W]]] = OrderedDict()

    def __bool__(self) -> bool:
        """Tell whether anyone could be served."""
        return bool(self._principals)

    def add(self, lane: Lane[W]) -> None:
        """Let a lane take turns; a lane that does already keeps its turn."""
        sessions = self._principals.setdefault(lane.principal, OrderedDict())
        sessions.setdefault(lane.session_id, lane)

    def remove(self, lane: Lane[W]) -> None:
        """Let a lane take no more turns; harmless if it takes none."""
        sessions = self._principals.get(lane.principal)
        if sessions is None:
            return
        sessions.pop(lane.session_id, None)
        if not sessions:
            del self._principals[lane.principal]

    def take_turn(self) -> Lane[W]:
        """Return the lane whose turn it is, and put it and its principal at the end."""
        principal, sessions = next(iter(self._principals.items()))
        session_id, lane = next(iter(sessions.items()))
        sessions.move_to_end(session_id)
        self._principals.move_to_end(principal)
        return lane
