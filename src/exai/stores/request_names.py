"""Which requests a database may know, by session: so that a new one need not be looked for.

Every call asks whether its request is known already, and hardly any is. What is kept here
has been given to the database or read from it; it may name too much, never too little.

The database does what it is asked in order, and its answers come later: between a deletion
and its answer the same name may be stored anew. So whoever deletes takes a mark when it
asks, and what was added after that stays.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

Name = tuple[str | None, str]
"""A session, None once it has ended, and a request id."""


class RequestNames:
    """The request ids of each session that has called since the daemon began."""

    def __init__(self) -> None:
        self._sessions: dict[str, _Names] = {}
        self._mark_count = 0

    def may_have(self, session_id: str, request_id: str) -> bool | None:
        """Tell whether a request may be known; None: the database must be asked.

        So it must while it is being asked: who comes later must not come to know earlier.
        """
        names = self._sessions.get(session_id)
        if names is None or not names.are_all or names.asked_count:
            return None
        return request_id in names.added_after

    @contextmanager
    def asking(self, session_id: str) -> Iterator[None]:
        """Let the database be asked, while the context is open, what is stored of a session."""
        names = self._names_of(session_id)
        names.asked_count += 1
        try:
            yield
        finally:
            names.asked_count -= 1

    def has(self, session_id: str, request_id: str) -> bool:
        """Tell whether a request may be known, by what was learned so far."""
        names = self._sessions.get(session_id)
        return names is None or not names.are_all or request_id in names.added_after

    def load(self, session_id: str, stored: Iterable[str]) -> None:
        """Learn all that is stored of a session."""
        names = self._names_of(session_id)
        names.added_after = dict.fromkeys(stored, 0) | names.added_after
        names.are_all = True

    def add(self, session_id: str, request_id: str) -> None:
        """Learn a request that the database was asked to store."""
        self._names_of(session_id).added_after[request_id] = self._mark_count

    def mark(self) -> int:
        """Return what tells names that are there already from those that will be added."""
        self._mark_count += 1
        return self._mark_count

    def discard(self, forgotten: Iterable[Name], mark: int) -> None:
        """Forget requests that were there at a mark."""
        for session_id, request_id in forgotten:
            names = None if session_id is None else self._sessions.get(session_id)
            if names is not None and names.added_after.get(request_id, mark) < mark:
                del names.added_after[request_id]

    def end_session(self, session_id: str, mark: int) -> None:
        """Forget all of a session that was there at a mark."""
        names = self._sessions.pop(session_id, _Names())
        for request_id, added_after in names.added_after.items():
            if added_after >= mark:
                self._names_of(session_id).added_after[request_id] = added_after

    def _names_of(self, session_id: str) -> "_Names":
        names = self._sessions.get(session_id)
        if names is None:
            names = self._sessions[session_id] = _Names()
        return names


class _Names:
    """Request ids, each with the number of the last mark before it was added.

    `are_all` tells whether what was stored before is among them.
    """

    __slots__ = ("added_after", "are_all", "asked_count")

    def __init__(self) -> None:
        self.added_after: dict[str, int] = {}
        self.are_all = False
        self.asked_count = 0
