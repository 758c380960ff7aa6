"""Connections and sessions, assembled: what stands between a channel and the call path."""

import asyncio
from functools import partial

from exai.calls.request_router import RequestRouter
from exai.connections.announcer import Announcer
from exai.connections.auth_token_manager import AuthTokenManager
from exai.connections.connection import serve_connection
from exai.connections.connection_manager import ConnectionManager
from exai.connections.mcp_sessions import McpSessions
from exai.connections.outbox import Outbox
from exai.connections.rate_limiter import RateLimiter
from exai.connections.resilient_ws import ResilientWebSocketManager
from exai.connections.session import Session
from exai.connections.session_handler import SessionHandler, greeting_of
from exai.connections.token_rotation import TokenRotation
from exai.core.clock import Clock
from exai.core.config import Config
from exai.core.events import EventSink
from exai.core.peer import Peer
from exai.core.session_store import SessionStore
from exai.protocols import exai_v1
from exai.protocols.hello import Hello, ServerName
from exai.stores.rotated_tokens import RotatedTokensFile

_NOTES_IN_A_FULL_SESSION = 50
"""How often what was sent is noted while a session's results fill their bound."""


class Reception:
    """Who may come in, and who is here: `serve` takes one channel and serves it to its end."""

    def __init__(
        self,
        config: Config,
        server_name: ServerName,
        router: RequestRouter,
        session_store: SessionStore,
        *,
        announcer: Announcer,
        durable: bool,
        tasks: asyncio.TaskGroup,
        clock: Clock,
        events: EventSink,
    ) -> None:
        server = config.server
        self._config = config
        self._router = router
        self._session_store = session_store
        self.tokens = AuthTokenManager(
            config.auth, config.principals, RotatedTokensFile(config.state_dir), clock
        )
        self.connections = ConnectionManager(
            server.max_connections,
            server.max_connections_per_address,
            {name: p.max_connections for name, p in config.principals.items()},
            server.trusted_proxies,
        )
        self.sessions = SessionHandler(
            greeting_of(server_name, server, config.limits, durable=durable),
            ResilientWebSocketManager(self._make_outbox),
            router,
            session_store,
            config.limits,
            tasks,
            clock,
            events,
        )
        self.mcp_sessions = McpSessions(router, session_store, config.limits, tasks, clock, events)
        self.all_sessions = (self.sessions, self.mcp_sessions)
        for sessions in self.all_sessions:
            announcer.add(sessions)
        self.rates = RateLimiter(config.rates, clock, server.trusted_proxies)
        self.serve = partial(
            serve_connection,
            connection_manager=self.connections,
            session_manager=self.sessions,
            auth_token_manager=self.tokens,
            message_handler=router.handle_message,
            rate_limiter=self.rates,
            token_rotation=TokenRotation(self.tokens, self.sessions, tasks, events),
            event_sink=events,
            hello_timeout_s=server.hello_timeout_s,
        )

    async def restore(self, ledger_id: str) -> None:
        """Take up the sessions of an earlier process, which are in this ledger.

        Raises `ServiceUnavailable`.
        """
        records = await self._session_store.load()
        own = [record for record in records if not record.about]
        await self.sessions.restore(ledger_id, own, self.tokens.principal_of)
        of_mcp = [record for record in records if record.about]
        await self.mcp_sessions.restore(of_mcp, self.tokens.principal_of)

    def find_session(self, session_id: str) -> Peer | None:
        """Return the session of an id, whichever protocol it speaks."""
        return self.sessions.find(session_id) or self.mcp_sessions.find(session_id)

    def _make_outbox(self, session: Session, hello: Hello) -> Outbox:
        """Return an outbox, which tells of what was sent where the client will not."""
        max_unacked = self._config.limits.session_max_unacked
        return Outbox(
            exai_v1.encode,
            max_bytes=self._config.server.outbox_bytes,
            patience_s=self._config.server.slow_consumer_s,
            on_sent=None if hello.acks else partial(self._router.note_sent, session),
            noted_at_once=max(1, max_unacked // _NOTES_IN_A_FULL_SESSION),
        )
