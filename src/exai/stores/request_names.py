"""Which requests a database may know, by session: so that a new one need not be looked for.

Every call asks whether its request is known already, and hardly any is. What is kept here
has been given to the database or read from it; it may name too much, never too little.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class RequestNames:
    """The request ids of each session that has called since the daemon began."""

    def __init__(self) -> None:
        self._sessions: dict[str, SessionNames] = {}

    def may_have(self, session_id: str, request_id: str) -> bool | None:
        """Tell whether a request may be known; None: the database must be asked.

        So it must while it is being asked: who comes later must not come to know earlier.
        """
        names = self._sessions.get(session_id)
        if names is None or not names.are_all or names.asked_count:
            return None
        return request_id in names.request_ids

    @contextmanager
    def asking(self, session_id: str) -> Iterator["SessionNames"]:
        """Ask the database, while the context is open, for all that is stored of a session."""
        names = self._names_of(session_id)
        names.asked_count += 1
        try:
            yield names
        finally:
            names.asked_count -= 1

    def add(self, session_id: str, request_id: str) -> None:
        """Learn a request that is about to be stored."""
        self._names_of(session_id).request_ids.add(request_id)

    def discard(self, forgotten: Iterable[tuple[str | None, str]]) -> None:
        """Forget requests, each by its session and its id."""
        for session_id, request_id in forgotten:
            if session_id is not None and session_id in self._sessions:
                self._sessions[session_id].request_ids.discard(request_id)

    def end_session(self, session_id: str) -> None:
        """Forget all of a session."""
        self._sessions.pop(session_id, None)

    def _names_of(self, session_id: str) -> "SessionNames":
        names = self._sessions.get(session_id)
        if names is None:
            names = self._sessions[session_id] = SessionNames()
        return names


class SessionNames:
    """One session's. `are_all` tells whether what was stored before is among them."""

    __slots__ = ("are_all", "asked_count", "request_ids")

    def __init__(self) -> None:
        self.request_ids: set[str] = set()
        self.are_all = False
        self.asked_count = 0

    def complete(self, stored: Iterable[str]) -> None:
        """Learn all that was stored before."""
        self.request_ids.update(stored)
        self.are_all = True
