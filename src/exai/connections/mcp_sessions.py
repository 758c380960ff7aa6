"""All sessions of MCP clients: opening, finding, expiring and ending them.

A session belongs to a principal, and nothing of it is there for another. Clients of MCP 2026 have
none: their calls share that of their principal, name and address.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Protocol

import msgspec

from exai.connections.mcp_session import McpCalls, McpSession
from exai.core.clock import Clock
from exai.core.config import LimitsConfig
from exai.core.errors import QueueFull, ServiceUnavailable
from exai.core.events import EventSink, SessionEnded, SessionOpened
from exai.core.identity import Principal
from exai.core.session_store import SessionRecord, SessionStore

_SHARED = "shared-"
_REMEMBERED = 256
_MAY_COME_BACK_WITHIN_S = 60.0


class McpSessionCalls(McpCalls, Protocol):
    """What the sessions of MCP clients ask of whoever handles their calls."""

    def has_calls(self, session_id: str) -> bool:
        """Tell whether any call of a session is under way."""

    async def end_session(self, session_id: str, principal: str) -> None:
        """End a session's calls as if cancelled, and forget what was kept for it."""


class McpSessions:
    """The sessions by id. Those that nobody holds, and that have no calls, end after a while."""

    def __init__(
        self,
        calls: McpSessionCalls,
        store: SessionStore,
        limits: LimitsConfig,
        tasks: asyncio.TaskGroup,
        clock: Clock,
        events: EventSink,
    ) -> None:
        self._calls = calls
        self._store = store
        self._limits = limits
        self._tasks = tasks
        self._clock = clock
        self._events = events
        self._sessions: dict[str, McpSession] = {}
        self._is_draining = False
        self._end_listeners: list[Callable[[str], object]] = []

    def __len__(self) -> int:
        """Return how many sessions there are."""
        return len(self._sessions)

    def __iter__(self) -> Iterator[McpSession]:
        """Iterate over a copy, so that sessions may end meanwhile."""
        return iter(list(self._sessions.values()))

    def on_end(self, listener: Callable[[str], object]) -> None:
        """Call `listener` with the id of each session that ends."""
        self._end_listeners.append(listener)

    def find(self, session_id: str) -> McpSession | None:
        """Return the session of an id."""
        return self._sessions.get(session_id)

    def open(self, principal: Principal, remote_address: str) -> McpSession:
        """Open a session to which a client may come back. Raises `QueueFull`."""
        ends_after_s = self._limits.mcp_session_idle_s
        return self._open(secrets.token_urlsafe(24), principal, remote_address, "", ends_after_s)

    def open_for_connection(self, principal: Principal, remote_address: str) -> McpSession:
        """Open a session that ends with its holder, and what that began. Raises `QueueFull`."""
        return self._open(secrets.token_urlsafe(24), principal, remote_address, "", 0.0)

    def shared(self, principal: Principal, remote_address: str, client_name: str) -> McpSession:
        """Return the session of all clients of this principal, name and address.

        It has the same id in every process. Raises `QueueFull` where there are too many.
        """
        session_id = _shared_id(principal.name, remote_address, client_name)
        known = self._sessions.get(session_id)
        if known is not None:
            return known
        ends_after_s = self._limits.mcp_session_idle_s
        return self._open(session_id, principal, remote_address, client_name, ends_after_s)

    def held(self, session: McpSession) -> "_Held":
        """Keep a session from expiring while the context is open, which yields it."""
        return _Held(session, self._note_left)

    def _note_left(self, session: McpSession) -> None:
        session.idle_since = self._clock.monotonic_s()
        if not session.ends_after_s and not self._is_draining and self._is_over(session):
            self.end(session, "its connection ended")

    def drain(self) -> None:
        """Let no session end with its connection: the next process may have its calls to do."""
        self._is_draining = True

    def end(self, session: McpSession, reason: str) -> None:
        """End a session: its calls leave as if cancelled, its results are dropped."""
        if self._sessions.pop(session.session_id, None) is None:
            return
        session.has_ended = True
        for listener in self._end_listeners:
            listener(session.session_id)
        self._tasks.create_task(self._end_stored(session.session_id, session.principal.name))
        self._events.emit(SessionEnded(session.session_id, session.principal.name, reason))

    async def restore(
        self, records: Sequence[SessionRecord], principal_of: Callable[[str], Principal | None]
    ) -> None:
        """Take up the sessions of an earlier process.

        Those of nobody we know end, as do those of which we do not understand what is kept.
        """
        for record in records:
            principal = principal_of(record.principal)
            if principal is None or not self._is_restored(record, principal):
                await self._end_stored(record.session_id, record.principal)

    async def run_cleanup(self) -> None:
        """End sessions whose time is over, until cancelled."""
        while True:
            await asyncio.sleep(self._limits.session_cleanup_interval_s)
            for session in self:
                if self._is_over(session):
                    self.end(session, "expired")

    def _open(
        self,
        session_id: str,
        principal: Principal,
        remote_address: str,
        client_name: str,
        ends_after_s: float,
    ) -> McpSession:
        self._make_room()
        session = self._session(session_id, principal, ends_after_s)
        self._events.emit(SessionOpened(session_id, principal.name, remote_address, client_name))
        return session

    def _session(self, session_id: str, principal: Principal, ends_after_s: float) -> McpSession:
        session = McpSession(
            session_id,
            principal,
            self._calls,
            self._store,
            self._tasks,
            ends_after_s=ends_after_s,
        )
        session.idle_since = self._clock.monotonic_s()
        self._sessions[session_id] = session
        return session

    def _is_restored(self, record: SessionRecord, principal: Principal) -> bool:
        session = self._session(record.session_id, principal, 0.0)
        try:
            session.restore(record)
        except msgspec.MsgspecError:
            del self._sessions[record.session_id]
            return False
        if session.facts is not None:
            session.ends_after_s = self._limits.mcp_session_idle_s
        return True

    def _make_room(self) -> None:
        """Let one more session be, at the cost of one that is owed nothing.

        One to which a client may come back ends only where nobody has for a while.
        """
        if len(self._sessions) < self._limits.mcp_max_sessions:
            return
        before = self._clock.monotonic_s() - _MAY_COME_BACK_WITHIN_S
        unused = [each for each in self if not self._is_in_use(each)]
        idle = [each for each in unused if each.facts is None or each.idle_since <= before]
        if not idle:
            raise QueueFull(
                f"there are {len(self._sessions)} sessions of MCP clients, and no more may be "
                "(limits.mcp_max_sessions)",
                scope="mcp_sessions",
                retry_after_s=self._limits.session_cleanup_interval_s,
            )
        costs_least = min(idle, key=lambda each: (each.facts is not None, each.idle_since))
        self.end(costs_least, "too many sessions")

    def _is_over(self, session: McpSession) -> bool:
        """Tell whether nobody has used a session for long enough; a call under way is use."""
        if self._is_in_use(session):
            session.idle_since = self._clock.monotonic_s()
            return False
        return self._clock.monotonic_s() - session.idle_since >= session.ends_after_s

    def _is_in_use(self, session: McpSession) -> bool:
        return session.holder_count > 0 or self._calls.has_calls(session.session_id)

    async def _end_stored(self, session_id: str, principal: str) -> None:
        """Forget the session first: what it still calls is not run by a later process."""
        with suppress(ServiceUnavailable):  # its time ends in any case
            await self._store.forget(session_id)
        await self._calls.end_session(session_id, principal)


class _Held:
    """A context that holds a session. A class, since each call enters some."""

    __slots__ = ("_note_left", "_session")

    def __init__(self, session: McpSession, note_left: Callable[[McpSession], object]) -> None:
        self._session = session
        self._note_left = note_left

    def __enter__(self) -> McpSession:
        self._session.holder_count += 1
        return self._session

    def __exit__(self, *raised: object) -> None:
        self._session.holder_count -= 1
        self._note_left(self._session)


@lru_cache(_REMEMBERED)
def _shared_id(principal: str, remote_address: str, client_name: str) -> str:
    """Return the id of a shared session, which is the same in every process."""
    who = "\0".join((principal, remote_address, client_name)).encode()
    return f"{_SHARED}{hashlib.sha256(who).hexdigest()[:32]}"
