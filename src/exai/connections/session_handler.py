"""Opening, listing and ending sessions.

A session lives as long as its connection: a hello that asks for an older one gets a
fresh one, and is told so.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

import msgspec

from exai.connections.outbox import Outbox
from exai.connections.session import Session
from exai.core.config import LimitsConfig, ServerConfig
from exai.core.events import EventSink, SessionEnded, SessionOpened
from exai.core.identity import Principal
from exai.core.replies import Reply
from exai.protocols import close_codes, exai_v1
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


class SessionHandler:
    """All open sessions. `greeting` is what every `hello_ack` says alike."""

    def __init__(
        self,
        greeting: HelloAck,
        make_outbox: Callable[[], Outbox],
        on_end: Callable[[str, str], Awaitable[None]],
        events: EventSink,
    ) -> None:
        self._greeting = greeting
        self._make_outbox = make_outbox
        self._on_end = on_end
        self._events = events
        self._sessions: dict[str, Session] = {}
        self._is_draining = False
        self._none_open = asyncio.Event()

    def __len__(self) -> int:
        """Return how many sessions are open."""
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        """Iterate over a copy, so that sessions may end meanwhile."""
        return iter(list(self._sessions.values()))

    def open(self, hello: Hello, principal: Principal, remote_address: str) -> Session:
        """Open a fresh session and greet its peer; raises `Refused` while draining."""
        if self._is_draining:
            raise Refused(close_codes.SERVICE_RESTART)
        session = Session(
            secrets.token_urlsafe(16), principal, hello.client, self._make_outbox(), exai_v1.encode
        )
        self._sessions[session.session_id] = session
        greeting = msgspec.structs.replace(
            self._greeting,
            session_id=session.session_id,
            resume_token=secrets.token_urlsafe(16),
            resume_error="unknown_session" if hello.wants_resume else None,
        )
        session.outbox.put(encode_hello_ack(greeting))
        self._events.emit(
            SessionOpened(session.session_id, principal.name, remote_address, hello.client.name)
        )
        return session

    async def end(self, session: Session, reason: str) -> None:
        """End a session: its calls leave as if cancelled, its results are dropped."""
        del self._sessions[session.session_id]
        if not self._sessions:
            self._none_open.set()
        await self._on_end(session.session_id, session.principal.name)
        self._events.emit(SessionEnded(session.session_id, session.principal.name, reason))

    def tell_all(self, reply: Reply) -> None:
        """Send one reply to every open session."""
        for session in self:
            session.send(reply)

    def drain(self, farewell: Reply) -> None:
        """Open no more sessions, and tell the open ones."""
        self._is_draining = True
        self.tell_all(farewell)

    async def close_all(self, close: Close, patience_s: float) -> None:
        """Have every connection closed once it has sent what it owes; wait so long for it."""
        for session in self:
            session.outbox.finish(close)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while self._sessions:
                    self._none_open.clear()
                    await self._none_open.wait()


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
        server=name,
        limits=Limits(
            max_message_bytes=server.max_message_bytes,
            session_max_inflight=limits.session_max_inflight,
            call_timeout_s=limits.call_timeout_s,
            progress_interval_s=server.progress_interval_s,
            result_ttl_s=limits.result_ttl_s,
            resume_window_s=0.0,
            idempotency_ttl_s=limits.idempotency_ttl_s,
            session_max_unacked=limits.session_max_unacked,
        ),
        pending=[],
    )
