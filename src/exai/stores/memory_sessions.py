"""Sessions in memory: gone with the process, and the definition of the behaviour."""

import msgspec

from exai.core.session_store import SessionRecord, SessionStore


class MemorySessionStore(SessionStore):
    """`SessionStore` over a dictionary."""

    def __init__(self) -> None:
        self._sessions: dict[str, SessionRecord] = {}

    async def load(self) -> list[SessionRecord]:
        """Return all of them."""
        return list(self._sessions.values())

    async def keep(self, session: SessionRecord) -> None:
        """Add it, or what is new about it."""
        known = self._sessions.get(session.session_id, session)
        about = session.about
        self._sessions[session.session_id] = msgspec.structs.replace(known, about=about)

    async def forget(self, session_id: str) -> None:
        """Remove it, if it is there."""
        self._sessions.pop(session_id, None)
