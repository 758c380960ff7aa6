"""Sessions in SQLite: they outlive the daemon. Behaves as `memory_sessions` does."""

from exai.core.session_store import SessionRecord, SessionStore
from exai.stores.sqlite_database import SqliteDatabase

_LOAD = "SELECT session_id, principal, resume_digest, about FROM sessions ORDER BY number"
_KEEP = """
    INSERT INTO sessions (session_id, principal, resume_digest, about) VALUES (?, ?, ?, ?)
    ON CONFLICT (session_id) DO UPDATE SET about = excluded.about
"""
_FORGET = "DELETE FROM sessions WHERE session_id = ?"


class SqliteSessionStore(SessionStore):
    """`SessionStore` over a database that it shares; each method is one transaction."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def load(self) -> list[SessionRecord]:
        """Return all of them."""
        return await self._database.submit(
            lambda connection: [SessionRecord(*row) for row in connection.execute(_LOAD)]
        )

    async def keep(self, session: SessionRecord) -> None:
        """Add it, or what is new about it."""
        values = (session.session_id, session.principal, session.resume_digest, session.about)
        await self._database.submit(lambda connection: connection.execute(_KEEP, values).rowcount)

    async def forget(self, session_id: str) -> None:
        """Remove it, if it is there."""
        await self._database.submit(
            lambda connection: connection.execute(_FORGET, (session_id,)).rowcount
        )
