"""Opening, resuming, detaching, expiring and ending sessions.

A session that loses its connection is *detached*: its calls go on, its results wait. It
expires some time after its last call has settled, unless its peer comes back before.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

import msgspec

from exai.connections.outbox import Outbox
from exai.connections.resilient_ws import ResilientWebSocketManager
from exai.connections.session import Session
from exai.core.clock import Clock
from exai.core.config import LimitsConfig, ServerConfig
from exai.core.errors import ServiceUnavailable
from exai.core.events import (
    EventSink,
    SessionDetached,
    SessionEnded,
    SessionOpened,
    SessionResumed,
    SessionUnkept,
)
from exai.core.identity import Principal
from exai.core.peer import Peer
from exai.core.replies import Reply
from exai.core.session_store import SessionRecord, SessionStore
from exai.core.tokens import digest_of
from exai.protocols import close_codes
from exai.protocols.close_codes import Close
from exai.protocols.hello import (
    PROTOCOL,
    Hello,
    HelloAck,
    Limits,
    Refused,
    ServerName,
    encode_hello_ack,
)


class SessionCalls(Protocol):
    """What sessions ask of whoever handles their calls. Nothing of it raises."""

    def has_calls(self, session_id: str) -> bool:
        """Tell whether any call of a session is under way."""

    def catch_up(self, peer: Peer) -> set[str]:
        """Tell a peer that came back how far its calls under way are; return their requests."""

    async def knows(self, peer: Peer, request_id: str) -> bool:
        """Tell whether a request is under way, or remembered."""

    async def forget_sent(self, peer: Peer) -> None:
        """Let no result of a peer that came back count as sent: all are sent again."""

    async def owed_to(self, peer: Peer) -> list[str]:
        """Return a session's requests that are accepted and not acknowledged, oldest first."""

    async def tell_again(self, peer: Peer, request_id: str, say: Callable[[Reply], object]) -> None:
        """Say a request's answer once more, if it has one and that is not erased."""

    async def end_session(self, session_id: str, principal: str) -> None:
        """End a session's calls as if cancelled, and forget what was kept for it."""


class Attachment(NamedTuple):
    """A session and its connection's outbox; `owed` are the requests to be answered again."""

    session: Session
    outbox: Outbox
    owed: list[str]


class SessionHandler:
    """All sessions. `greeting` is what every `hello_ack` says alike.

    Restored ones have no connection either, but do not count as left behind by their peers:
    they lost them all at once, and are about to come back.
    """

    def __init__(
        self,
        greeting: HelloAck,
        resilient_ws_manager: ResilientWebSocketManager,
        calls: SessionCalls,
        store: SessionStore,
        limits: LimitsConfig,
        tasks: asyncio.TaskGroup,
        clock: Clock,
        events: EventSink,
    ) -> None:
        self._greeting = greeting
        self._attachments = resilient_ws_manager
        self._calls = calls
        self._store = store
        self._limits = limits
        self._tasks = tasks
        self._clock = clock
        self._events = events
        self._sessions: dict[str, Session] = {}
        self._detached: dict[str, dict[Session, None]] = {}
        self._restored: dict[Session, None] = {}
        self._retelling: set[Outbox] = set()
        self._going_away: Reply | None = None
        self._farewell: Close | None = None
        self._none_attached = asyncio.Event()

    def __len__(self) -> int:
        """Return how many sessions there are, with a connection or without."""
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        """Iterate over a copy, so that sessions may end meanwhile."""
        return iter(list(self._sessions.values()))

    @property
    def detached_count(self) -> int:
        """Return how many sessions have no connection."""
        return sum(map(len, self._detached.values())) + len(self._restored)

    def find(self, session_id: str) -> Session | None:
        """Return the session of an id."""
        return self._sessions.get(session_id)

    async def restore(
        self,
        ledger_id: str,
        records: Sequence[SessionRecord],
        principal_of: Callable[[str], Principal | None],
    ) -> None:
        """Take up the sessions of an earlier process; those of nobody we know end.

        They may come back for as long as if they had lost their connections just now.
        """
        named = msgspec.structs.replace(self._greeting.server, ledger=ledger_id)
        self._greeting = msgspec.structs.replace(self._greeting, server=named)
        for record in records:
            principal = principal_of(record.principal)
            if principal is None:
                await self._end_stored(record.session_id, record.principal)
                continue
            session = Session(
                record.session_id, record.resume_digest, principal, self._store, is_kept=True
            )
            self._note_idle(session)
            self._sessions[session.session_id] = session
            self._restored[session] = None

    def takes_over(self, hello: Hello, principal: Principal) -> bool:
        """Tell whether a hello would take a session from a connection that is open."""
        session = self._wanted(hello, principal)
        return session is not None and session.outbox is not None

    async def open(self, hello: Hello, principal: Principal, remote_address: str) -> Attachment:
        """Open a fresh session, or the one that is asked for, and greet its peer.

        Raises `Refused` while draining, but for a session that has calls under way.
        """
        session = self._wanted(hello, principal)
        if self._going_away and not (session and self._calls.has_calls(session.session_id)):
            raise Refused(close_codes.SERVICE_RESTART)
        if session is None or hello.resume is None:
            return await self._open_fresh(hello, principal, remote_address)
        self._leave_detached(session)
        outbox = self._attachments.attach(session, hello)
        self._retelling.add(outbox)
        try:
            under_way = self._calls.catch_up(session)
            await self._calls.forget_sent(session)
            pending = await self._calls.owed_to(session)
        except BaseException:
            self.detach(session, outbox, "the connection ended while it resumed")
            raise
        self._greet(session, outbox, hello.resume.resume_token, resumed=True, pending=pending)
        self._events.emit(
            SessionResumed(session.session_id, principal.name, remote_address, len(pending))
        )
        owed = [request_id for request_id in pending if request_id not in under_way]
        return Attachment(session, outbox, owed)

    async def knows(self, session: Session, request_id: str) -> bool:
        """Tell whether a session's request is under way, or remembered."""
        return await self._calls.knows(session, request_id)

    async def tell_again(self, attachment: Attachment) -> None:
        """Send what a session that came back is owed, no faster than its peer reads."""
        for request_id in attachment.owed:
            await attachment.outbox.wait_room()
            if attachment.session.outbox is not attachment.outbox:
                return  # a newer connection tells it again
            # A newer connection may take the session over meanwhile, and tells it by itself.
            await self._calls.tell_again(attachment.session, request_id, attachment.outbox.put)
        self._retelling.discard(attachment.outbox)
        if self._farewell is not None:
            attachment.outbox.finish(self._farewell)

    def detach(self, session: Session, outbox: Outbox, reason: str) -> None:
        """Let a session go on without this connection, unless it has a newer one or has ended."""
        self._retelling.discard(outbox)
        if not self._attachments.detach(session, outbox):
            return
        self._note_idle(session)
        self._detached.setdefault(session.principal.name, {})[session] = None
        self._wake_if_none_attached()
        self._events.emit(SessionDetached(session.session_id, session.principal.name, reason))
        self._tasks.create_task(self._make_room(session))

    def end(self, session: Session, reason: str, farewell: Close = close_codes.NORMAL) -> None:
        """End a session: its calls leave as if cancelled, its results are dropped."""
        if self._sessions.pop(session.session_id, None) is None:
            return
        session.has_ended = True
        self._leave_detached(session)
        if session.outbox is not None:
            session.outbox.finish(farewell)
            self._attachments.detach(session, session.outbox)
            self._wake_if_none_attached()
        self._tasks.create_task(self._end_stored(session.session_id, session.principal.name))
        self._events.emit(SessionEnded(session.session_id, session.principal.name, reason))

    async def _end_stored(self, session_id: str, principal: str) -> None:
        """Forget the session first: what it still calls is not run by a later process."""
        with suppress(ServiceUnavailable):  # its time ends in any case
            await self._store.forget(session_id)
        await self._calls.end_session(session_id, principal)

    async def run_cleanup(self) -> None:
        """End detached sessions whose time is over, until cancelled."""
        while True:
            await asyncio.sleep(self._limits.session_cleanup_interval_s)
            for sessions in (*self._detached.values(), self._restored):
                for session in list(sessions):
                    self._expire(session)

    def drain(self, farewell: Reply) -> None:
        """Open no more sessions, and tell the open ones, and those that come back."""
        self._going_away = farewell
        for session in self:
            session.send(farewell)

    async def close_all(self, close: Close, patience_s: float) -> None:
        """Have every connection closed once it has sent what it owes; wait so long for it."""
        self._farewell = close
        for session in self:
            if session.outbox is not None and session.outbox not in self._retelling:
                session.outbox.finish(close)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while self._attached_count:
                    self._none_attached.clear()
                    await self._none_attached.wait()

    @property
    def _attached_count(self) -> int:
        return len(self._sessions) - self.detached_count

    def _wanted(self, hello: Hello, principal: Principal) -> Session | None:
        if hello.resume is None:
            return None
        session = self._sessions.get(hello.resume.session_id)
        if session is None or not session.belongs_to(principal, hello.resume.resume_token):
            return None
        return session

    async def _open_fresh(
        self, hello: Hello, principal: Principal, remote_address: str
    ) -> Attachment:
        resume_token = secrets.token_urlsafe(16)
        session = Session(
            secrets.token_urlsafe(16), digest_of(resume_token), principal, self._store
        )
        try:
            await session.keep()
        except ServiceUnavailable as unavailable:  # tried again before it calls
            reason = str(unavailable)
            self._events.emit(SessionUnkept(session.session_id, principal.name, reason))
        self._sessions[session.session_id] = session
        outbox = self._attachments.attach(session, hello)
        resume_error = "unknown_session" if hello.wants_resume else None
        self._greet(session, outbox, resume_token, resume_error=resume_error)
        self._events.emit(
            SessionOpened(session.session_id, principal.name, remote_address, hello.client.name)
        )
        return Attachment(session, outbox, [])

    def _greet(self, session: Session, outbox: Outbox, resume_token: str, **said: Any) -> None:
        ack = msgspec.structs.replace(
            self._greeting, session_id=session.session_id, resume_token=resume_token, **said
        )
        outbox.greet(encode_hello_ack(ack))
        if self._going_away:
            outbox.put(self._going_away)

    def _leave_detached(self, session: Session) -> None:
        self._restored.pop(session, None)
        of_principal = self._detached.get(session.principal.name, {})
        of_principal.pop(session, None)
        if not of_principal:
            self._detached.pop(session.principal.name, None)

    async def _make_room(self, session: Session) -> None:
        """End sessions that a principal left behind, beyond so many: first those owed nothing.

        None while draining: their peers leave since we go, and come back to the next process.
        """
        session.is_owed = bool(await self._calls.owed_to(session))
        of_principal = self._detached.get(session.principal.name, {})
        most = self._limits.principal_max_detached_sessions
        while len(of_principal) > most and self._going_away is None:
            self.end(min(of_principal, key=lambda each: each.is_owed), "too many detached sessions")

    def _expire(self, session: Session) -> None:
        if self._calls.has_calls(session.session_id):
            self._note_idle(session)
        elif self._clock.monotonic_s() - session.idle_since >= self._limits.resume_window_s:
            self.end(session, "expired")

    def _note_idle(self, session: Session) -> None:
        """Let a session's time begin; with calls, at the latest moment before the next look."""
        session.idle_since = self._clock.monotonic_s()
        if self._calls.has_calls(session.session_id):
            session.idle_since += self._limits.session_cleanup_interval_s

    def _wake_if_none_attached(self) -> None:
        if not self._attached_count:
            self._none_attached.set()


def greeting_of(
    name: ServerName, server: ServerConfig, limits: LimitsConfig, *, durable: bool
) -> HelloAck:
    """Return what every `hello_ack` of a daemon says alike; the session's own fields are empty."""
    return HelloAck(
        ok=True,
        protocol=PROTOCOL,
        session_id="",
        resume_token="",
        resumed=False,
        durable=durable,
        server=msgspec.structs.replace(name, instance=secrets.token_urlsafe(8)),
        limits=Limits(
            max_message_bytes=server.max_message_bytes,
            session_max_inflight=limits.session_max_inflight,
            call_timeout_s=limits.call_timeout_s,
            progress_interval_s=server.progress_interval_s,
            result_ttl_s=limits.result_ttl_s,
            resume_window_s=limits.resume_window_s,
            idempotency_ttl_s=limits.idempotency_ttl_s,
            session_max_unacked=limits.session_max_unacked,
        ),
        pending=[],
    )
