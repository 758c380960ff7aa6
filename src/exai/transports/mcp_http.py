"""MCP over HTTP, both eras, in the shapes of the official SDK.

Since 2026 each request stands for itself: the SDK's own manager serves it. Before, there were
sessions; these are ours, for they outlive the daemon's process, and belong to a principal.
"""

import asyncio
from contextlib import suppress
from http import HTTPStatus
from typing import Any, NamedTuple, Self

import msgspec
from mcp.server.connection import Connection
from mcp.server.runner import serve_connection
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER, StreamableHTTPServerTransport
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import RequestBodyLimitMiddleware
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher, cancelled_request_id_from_params
from mcp.shared.message import SessionMessage
from mcp.shared.transport_context import TransportContext
from mcp_types import InitializeRequestParams, JSONRPCMessage, JSONRPCNotification
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from exai.connections.mcp_session import McpSession
from exai.connections.mcp_sessions import McpSessions
from exai.core.errors import QueueFull, ServiceUnavailable
from exai.core.lifecycle import running
from exai.core.mcp_words import CANCELLED, INITIALIZE, INTERNAL_ERROR, INVALID_REQUEST
from exai.transports.json_responses import json_response
from exai.transports.mcp_events import McpEvents
from exai.transports.mcp_server import CALLER, McpCaller, McpServer, asking_principal

_RETRY_MS = 500


class McpHttp:
    """Serves `/mcp` while `run` does. No request's body may be larger than `max_body_bytes`."""

    def __init__(self, server: McpServer, sessions: McpSessions, max_body_bytes: int) -> None:
        self._server = server
        self._sessions = sessions
        self._stateless = StreamableHTTPSessionManager(
            server.sdk, stateless=True, max_request_body_size=max_body_bytes
        )
        self._limited = RequestBodyLimitMiddleware(self._serve_session, max_body_bytes)
        self._served: dict[str, _Served] = {}
        self._tasks = asyncio.TaskGroup()
        self._has_begun = asyncio.Event()
        sessions.on_end(self._stop_serving)

    async def run(self) -> None:
        """Let requests be served, until cancelled."""
        async with self._stateless.run(), self._tasks:
            self._has_begun.set()
            await asyncio.Event().wait()

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._has_begun.wait()
        version = Headers(scope=scope).get(MCP_PROTOCOL_VERSION_HEADER)
        if version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS:
            caller: McpCaller = scope[CALLER]
            asking_principal.set(caller.principal)
            await self._stateless.handle_request(scope, receive, send)
        else:
            await self._limited(scope, receive, send)

    async def _serve_session(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller: McpCaller = scope[CALLER]
        session_id = Headers(scope=scope).get(MCP_SESSION_ID_HEADER)
        if session_id is None:
            await self._open(caller, scope, receive, send)
            return
        session = self._sessions.find(session_id)
        if session is None or session.principal.name != caller.principal.name:
            await _no_session()(scope, receive, send)
            return
        served = self._served.get(session_id) or self._recover(session)
        if served is None:
            await _no_session()(scope, receive, send)
            return
        await served.has_begun.wait()
        with self._sessions.held(session):
            await served.transport.handle_request(scope, receive, send)
        if served.transport.is_terminated:
            self._sessions.end(session, "ended by its client")

    async def _open(self, caller: McpCaller, scope: Scope, receive: Receive, send: Send) -> None:
        """Open a session for a request that should be `initialize`; else nothing is left of it."""
        try:
            session = self._sessions.open(caller.principal, caller.remote_address)
        except QueueFull as full:
            await _refusal(503, INTERNAL_ERROR, str(full))(scope, receive, send)
            return
        served = self._serve(session, None)
        await served.has_begun.wait()
        answered = _Answered(send)
        try:
            with self._sessions.held(session):
                await served.transport.handle_request(scope, receive, answered)
        finally:
            if not answered.well or served.about is None:
                self._sessions.end(session, "was not initialized")
        await served.keep()

    def _recover(self, session: McpSession) -> "_Served | None":
        """Go on with a session of an earlier process: its client need not know.

        None where it is none of HTTP, or one that this version cannot go on with.
        """
        try:
            about = msgspec.json.decode(session.about, type=_About)
            client = InitializeRequestParams.model_validate(about.client)
        except (msgspec.MsgspecError, ValidationError):
            return None
        session.restore_wishes(about.log_level, about.uris)
        return self._serve(session, _Known(about.protocol_version, client))

    def _serve(self, session: McpSession, known: "_Known | None") -> "_Served":
        served = self._served[session.session_id] = _Served(session, known, self._server)
        session.on_wish = lambda: self._tasks.create_task(served.keep())
        served.task = self._tasks.create_task(served.run())
        return served

    def _stop_serving(self, session_id: str) -> None:
        served = self._served.pop(session_id, None)
        if served is not None and served.task is not None:
            served.task.cancel()


class _About(msgspec.Struct, frozen=True):
    """What must be known of a client to go on with its session in another process."""

    protocol_version: str
    client: dict[str, Any]
    log_level: str | None = None
    uris: tuple[str, ...] = ()


class _Known(NamedTuple):
    """What is known of a client without its `initialize`."""

    protocol_version: str
    client: InitializeRequestParams


class _Served:
    """A session's streams, and the loop that serves them. `about` is None before `initialize`."""

    task: asyncio.Task[None] | None = None

    def __init__(self, session: McpSession, known: _Known | None, server: McpServer) -> None:
        self.transport = StreamableHTTPServerTransport(
            session.session_id, event_store=McpEvents(), retry_interval=_RETRY_MS
        )
        self.has_begun = asyncio.Event()
        self._session = session
        self._known = known
        self._server = server
        self._connection: Connection | None = None

    @property
    def about(self) -> bytes | None:
        """What another process must know."""
        connection = self._connection
        if connection is None or connection.client_params is None:
            return None
        said = connection.client_params.model_dump(by_alias=True, mode="json", exclude_none=True)
        level, uris = self._session.log_level, tuple(sorted(self._session.subscriptions))
        return msgspec.json.encode(_About(connection.protocol_version, said, level, uris))

    async def keep(self) -> None:
        """Have another process know what it must; where that fails, it is tried at each call."""
        about = self.about
        if about is not None and about != self._session.about:
            self._session.about, self._session.is_kept = about, False
            with suppress(ServiceUnavailable):
                await self._session.keep()

    async def run(self) -> None:
        """Serve until cancelled, or until the client ends the session."""
        async with self.transport.connect() as (incoming, outgoing):
            watched = _Watched(incoming, self._server, self._session)
            dispatcher: JSONRPCDispatcher[TransportContext] = JSONRPCDispatcher(
                watched, outgoing, inline_methods=frozenset({INITIALIZE})
            )
            connection = Connection.for_loop(dispatcher, session_id=self._session.session_id)
            if self._known is not None:
                connection.client_params = self._known.client
                connection.protocol_version = self._known.protocol_version
                connection.initialized.set()
            self._connection = connection
            self.has_begun.set()
            async with running(self._server.tell_news(self._session, connection.notify)):
                await serve_connection(
                    self._server.sdk,
                    dispatcher,
                    connection=connection,
                    lifespan_state=self._session,
                    init_options=self._server.greeting,
                )


class _Watched:
    """What comes from a client; cancellations are taken note of before the SDK sees them."""

    def __init__(self, incoming: Any, server: McpServer, session: McpSession) -> None:
        self._incoming = incoming
        self._server = server
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._incoming, name)

    def __aiter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        await self._incoming.__aenter__()
        return self

    async def __aexit__(self, *raised: Any) -> Any:
        return await self._incoming.__aexit__(*raised)

    async def __anext__(self) -> SessionMessage | Exception:
        item: SessionMessage | Exception = await self._incoming.__anext__()
        if isinstance(item, SessionMessage):
            self._take_back_if_told(item.message)
        return item

    def _take_back_if_told(self, message: JSONRPCMessage) -> None:
        if isinstance(message, JSONRPCNotification) and message.method == CANCELLED:
            request_id = cancelled_request_id_from_params(message.params)
            if request_id is not None:
                self._server.take_back(self._session, request_id)


class _Answered:
    """Sends an answer on, and remembers whether it was a good one."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.well = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.well = message["status"] < HTTPStatus.BAD_REQUEST
        await self._send(message)


def _no_session() -> Response:
    return _refusal(404, INVALID_REQUEST, "Session not found")


def _refusal(status: int, code: int, message: str) -> Response:
    error = {"code": code, "message": message}
    return json_response({"jsonrpc": "2.0", "id": None, "error": error}, status)
