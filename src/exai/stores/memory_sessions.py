"""Sessions in memory: gone with the process, and the definition of the behaviour."""

from exai.core.session_store import SessionRecord, SessionStore


class MemorySessionStore(SessionStore):
    """`SessionStore` over a dictionary."""

    def __init__(self) -> None:
        self._sessions: dict[str, SessionRecord] = {}

    async def load(self) -> list[SessionRecord]:
        """Return all of them."""
        return list(self._sessions.values())

    async def keep(self, session: SessionRecord) -> None:
        """Add it."""
        self._sessions.setdefault(session.session_id, session)

    async def forget(self, session_id: str) -> None:
        """Remove it, if it is there."""
        self._sessions.pop(session_id, None)
