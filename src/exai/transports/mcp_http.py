"""MCP over HTTP, both eras, in the shapes of the official SDK.

Since 2026 each request stands for itself: the SDK's own manager serves it. Before, there were
sessions; these are ours, for they outlive the daemon's process, and belong to a principal.
"""

import asyncio

from mcp.server.streamable_http import MCP_SESSION_ID_HEADER
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import RequestBodyLimitMiddleware
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp_types import InitializeRequestParams
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from exai.calls.defects import Defects
from exai.connections.mcp_session import McpSession
from exai.connections.mcp_sessions import McpSessions
from exai.core.errors import MalformedFrame, QueueFull
from exai.core.events import Whose
from exai.core.mcp_words import INTERNAL_ERROR, INVALID_REQUEST, PARSE_ERROR
from exai.core.message_ids import Id
from exai.protocols.mcp_messages import NotAMessage
from exai.transports.json_responses import json_response
from exai.transports.mcp_http_session import Answered, HttpSession
from exai.transports.mcp_reading import check_text
from exai.transports.mcp_server import CALLER, McpCaller, McpServer, asking_principal


class McpHttp:
    """Serves `/mcp` while `run` does. No request's body may be larger than `max_body_bytes`."""

    def __init__(
        self, server: McpServer, sessions: McpSessions, defects: Defects, max_body_bytes: int
    ) -> None:
        self._server = server
        self._sessions = sessions
        self._defects = defects
        self._stateless = StreamableHTTPSessionManager(
            server.sdk, stateless=True, max_request_body_size=max_body_bytes
        )
        self._limited = RequestBodyLimitMiddleware(self._serve_whole, max_body_bytes)
        self._served: dict[str, HttpSession] = {}
        self._loops: dict[str, asyncio.Task[None]] = {}
        self._tasks = asyncio.TaskGroup()
        self._has_begun = asyncio.Event()
        sessions.on_end(self._stop_serving)

    async def run(self) -> None:
        """Let requests be served, until cancelled."""
        async with self._stateless.run(), self._tasks:
            self._has_begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                for served in self._served.values():
                    served.close_streams()

    def let_go(self) -> None:
        """Have those come back who wait for an answer again: the next process will give it.

        The SDK would tell them that each call has failed, as soon as it ends.
        """
        for served in self._served.values():
            served.let_go()

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._has_begun.wait()
        await self._limited(scope, receive, send)

    async def _serve_whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request whose body is there."""
        body = b""
        if scope["method"] == "POST":
            body, receive = await _body(receive)
        version = Headers(scope=scope).get(MCP_PROTOCOL_VERSION_HEADER)
        serve = self._serve_session
        if version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS:
            serve = self._serve_alone
        try:
            await serve(body, scope, receive, send)
        except MalformedFrame as malformed:
            await _refusal(400, PARSE_ERROR, str(malformed))(scope, receive, send)
        except NotAMessage as fault:
            await _refusal(400, fault.code, fault.message, fault.id)(scope, receive, send)

    async def _serve_alone(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request of 2026. The SDK reads a body while everything else waits."""
        caller: McpCaller = scope[CALLER]
        asking_principal.set(caller.principal)
        await check_text(body)
        await self._stateless.handle_request(scope, receive, send)

    async def _serve_session(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        caller: McpCaller = scope[CALLER]
        session_id = Headers(scope=scope).get(MCP_SESSION_ID_HEADER)
        if session_id is None:
            await self._open(caller, body, scope, receive, send)
            return
        session = self._sessions.find(session_id)
        if session is None or session.principal.name != caller.principal.name:
            await _no_session()(scope, receive, send)
            return
        served = self._served.get(session_id) or self._recover(session)
        if served is None:
            await _no_session()(scope, receive, send)
            return
        with self._sessions.held(session):
            await served.handle(body, scope, receive, send)
        if served.is_ended:
            self._sessions.end(session, "ended by its client")

    async def _open(
        self, caller: McpCaller, body: bytes, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Open a session for a request that should be `initialize`; else nothing is left of it."""
        try:
            session = self._sessions.open(caller.principal, caller.remote_address)
        except QueueFull as full:
            await _refusal(503, INTERNAL_ERROR, str(full))(scope, receive, send)
            return
        served = self._serve(session, None)
        answered = Answered(send)
        try:
            with self._sessions.held(session):
                await served.handle(body, scope, receive, answered)
        finally:
            if not answered.well or served.facts is None:
                self._sessions.end(session, "was not initialized")
        await served.keep()

    def _recover(self, session: McpSession) -> HttpSession | None:
        """Go on with a session of an earlier process: its client need not know.

        None where it is none of HTTP, or one that this version cannot go on with.
        """
        if session.facts is None:
            return None
        try:
            client = InitializeRequestParams.model_validate(session.facts.client)
        except ValidationError:
            return None
        session.restore_wishes()
        return self._serve(session, client)

    def _serve(self, session: McpSession, client: InitializeRequestParams | None) -> HttpSession:
        served = self._served[session.session_id] = HttpSession(session, self._server, client)
        session.on_wish = lambda: self._tasks.create_task(served.keep())
        self._loops[session.session_id] = self._tasks.create_task(self._run(served, session))
        return served

    async def _run(self, served: HttpSession, session: McpSession) -> None:
        """Serve a session; a defect in it ends it alone."""
        with self._defects.contained("serving an MCP session", Whose(session.session_id)):
            await served.run()
            return
        self._sessions.end(session, "it met a defect")

    def _stop_serving(self, session_id: str) -> None:
        if self._served.pop(session_id, None) is not None:
            self._loops.pop(session_id).cancel()


async def _body(receive: Receive) -> tuple[bytes, Receive]:
    """Return the body of a request, and what receives it again."""
    first = await receive()
    messages = [first]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return first.get("body", b""), receive_again


def _no_session() -> Response:
    return _refusal(404, INVALID_REQUEST, "Session not found")


def _refusal(status: int, code: int, message: str, id_: Id | None = None) -> Response:
    error = {"code": code, "message": message}
    return json_response({"jsonrpc": "2.0", "id": id_, "error": error}, status)
