"""How much of the servers' logs each session wants; the most verbose of those that share wins.

Knows sessions and levels; knows nothing of servers.
"""

from collections.abc import Callable, Iterable

from exai.core.tool import LOG_LEVELS


class LogLevels:
    """The level of each session that has said one; `on_change` is told of each that does."""

    def __init__(self, on_change: Callable[[], object] = lambda: None) -> None:
        self._on_change = on_change
        self._levels: dict[str, tuple[str, str]] = {}

    def set(self, session_id: str, principal: str, level: str) -> None:
        """Let this be the level of a session."""
        self._levels[session_id] = (principal, level)
        self._on_change()

    def end_session(self, session_id: str) -> None:
        """Forget a session that has ended; servers stay as verbose as they are."""
        self._levels.pop(session_id, None)

    def of_all(self) -> str | None:
        """Return the most verbose level that any session wants; None where none has said."""
        return _most_verbose(level for _, level in self._levels.values())

    def of_principal(self, name: str) -> str | None:
        """Return the most verbose level that a session of this principal wants."""
        return _most_verbose(level for whose, level in self._levels.values() if whose == name)

    def of_session(self, session_id: str) -> str | None:
        """Return the level that a session wants."""
        return self._levels.get(session_id, (None, None))[1]


def _most_verbose(levels: Iterable[str]) -> str | None:
    return min(levels, key=LOG_LEVELS.index, default=None)
