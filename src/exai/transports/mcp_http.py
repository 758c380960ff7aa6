"""MCP over HTTP, both eras, in the shapes of the official SDK.

Since 2026 each request stands for itself: the SDK's own manager serves it. Before, there were
sessions; these are ours, for they outlive the daemon's process, and belong to a principal.
"""

import asyncio
from contextlib import suppress
from http import HTTPStatus
from typing import NamedTuple

from mcp.server.connection import Connection
from mcp.server.runner import serve_connection
from mcp.server.streamable_http import (
    GET_STREAM_KEY,
    MCP_SESSION_ID_HEADER,
    StreamableHTTPServerTransport,
)
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import RequestBodyLimitMiddleware
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from mcp.shared.transport_context import TransportContext
from mcp_types import InitializeRequestParams, JSONRPCError, JSONRPCMessage, JSONRPCResponse
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from exai.calls.defects import Defects
from exai.connections.mcp_session import ClientFacts, McpSession
from exai.connections.mcp_sessions import McpSessions
from exai.core.errors import MalformedFrame, QueueFull, ServiceUnavailable
from exai.core.events import Whose
from exai.core.lifecycle import running
from exai.core.mcp_words import (
    CALL_TOOL,
    CANCELLED,
    INITIALIZE,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    PARSE_ERROR,
)
from exai.core.message_ids import Id
from exai.core.requests import CallTool
from exai.protocols.mcp_eras import IDEMPOTENCY_KEY, meta_of
from exai.protocols.mcp_messages import McpNotification, McpRequest, NotAMessage
from exai.transports.json_responses import json_response
from exai.transports.mcp_events import Asked, McpEvents
from exai.transports.mcp_reading import check_text, read_text
from exai.transports.mcp_server import (
    CALLER,
    IDEMPOTENCY_HEADER,
    McpCaller,
    McpServer,
    asking_principal,
)

_MAX_ID_LENGTH = 256
_RETRY_MS = 2000
"""After which a client asks for a lost stream; it should ask twice: a restart may take 3 s."""


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
        self._served: dict[str, _Served] = {}
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
        """Answer a request whose body is there, or is not worth reading.

        The SDK reads bodies while everything else waits.
        """
        version = Headers(scope=scope).get(MCP_PROTOCOL_VERSION_HEADER)
        serve = self._serve_session
        if version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS:
            serve = self._serve_alone
        try:
            await serve(scope, receive, send)
        except MalformedFrame as malformed:
            await _refusal(400, PARSE_ERROR, str(malformed))(scope, receive, send)
        except NotAMessage as fault:
            await _refusal(400, fault.code, fault.message, fault.id)(scope, receive, send)

    async def _serve_alone(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request of 2026."""
        caller: McpCaller = scope[CALLER]
        asking_principal.set(caller.principal)
        if scope["method"] == "POST":
            body, receive = await _body(receive)
            await check_text(body)
        await self._stateless.handle_request(scope, receive, send)

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
            await served.handle(scope, receive, send)
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
                await served.handle(scope, receive, answered)
        finally:
            if not answered.well or served.facts is None:
                self._sessions.end(session, "was not initialized")
        await served.keep()

    def _recover(self, session: McpSession) -> "_Served | None":
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
        return self._serve(session, _Known(session.facts.protocol_version, client))

    def _serve(self, session: McpSession, known: "_Known | None") -> "_Served":
        served = self._served[session.session_id] = _Served(session, known, self._server)
        session.on_wish = lambda: self._tasks.create_task(served.keep())
        served.task = self._tasks.create_task(self._run(served, session))
        return served

    async def _run(self, served: "_Served", session: McpSession) -> None:
        """Serve a session; a defect in it ends it alone."""
        with self._defects.contained("serving an MCP session", Whose(session.session_id)):
            await served.run()
            return
        self._sessions.end(session, "it met a defect")

    def _stop_serving(self, session_id: str) -> None:
        served = self._served.pop(session_id, None)
        if served is not None and served.task is not None:
            served.task.cancel()


class _Known(NamedTuple):
    """What is known of a client without its `initialize`."""

    protocol_version: str
    client: InitializeRequestParams


class _Served:
    """A session's streams, and the loop that serves them. `facts` are None before `initialize`."""

    task: asyncio.Task[None] | None = None

    def __init__(self, session: McpSession, known: _Known | None, server: McpServer) -> None:
        self._events = McpEvents(self._answer_again)
        self.transport = StreamableHTTPServerTransport(
            session.session_id, event_store=self._events, retry_interval=_RETRY_MS
        )
        self.has_begun = asyncio.Event()
        self._session = session
        self._known = known
        self._server = server
        self._connection: Connection | None = None

    @property
    def facts(self) -> ClientFacts | None:
        """What another process must know."""
        connection = self._connection
        if connection is None or connection.client_params is None:
            return None
        said = connection.client_params.model_dump(by_alias=True, mode="json", exclude_none=True)
        level, uris = self._session.log_level, tuple(sorted(self._session.subscriptions))
        return ClientFacts(connection.protocol_version, said, level, uris)

    async def keep(self) -> None:
        """Have another process know what it must; where that fails, it is tried at each call."""
        facts = self.facts
        if facts is not None and facts != self._session.facts:
            self._session.know_client(facts)
            with suppress(ServiceUnavailable):
                await self._session.keep()

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request. Raises `NotAMessage`, `MalformedFrame`."""
        if scope["method"] == "POST":
            body, receive = await _body(receive)
            match await read_text(body):
                case McpRequest() as request:
                    await self._handle_request(request, scope, receive, send)
                    return
                case McpNotification(method, {"requestId": str() | int() as id_}):
                    if method == CANCELLED:
                        # To the SDK a caller that has gone and one that cancels are the same.
                        self._server.take_back(self._session, id_)
        await self.transport.handle_request(scope, receive, send)

    async def _handle_request(
        self, request: McpRequest, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer a request, on a stream that says which call it is."""
        asked = _asked(request, self._session.mint_request_id())
        if not self._events.open(asked):
            problem = f"a request with the id {asked.id!r} is under way in this session"
            raise NotAMessage(problem, None)
        scope[CALLER] = scope[CALLER]._replace(request_id=asked.request_id)
        answered = _Answered(send)
        try:
            await self.transport.handle_request(scope, receive, answered)
        finally:
            if not answered.well:
                self._events.drop(asked)
        has_key = IDEMPOTENCY_KEY in meta_of(request.params)
        has_key = has_key or IDEMPOTENCY_HEADER in Headers(scope=scope)
        if answered.in_full and not self._events.is_open(asked) and not has_key:
            self._session.note_written(asked.request_id)

    async def _answer_again(self, asked: Asked) -> JSONRPCMessage:
        """Answer a request that an earlier process had, with what came of it."""
        call = CallTool(name=asked.tool or asked.method, request_id=asked.request_id)
        try:
            result = await self._server.answer_again(self._session, asked.id, asked.method, call)
        except MCPError as fault:
            return JSONRPCError(jsonrpc="2.0", id=asked.id, error=fault.error)
        return JSONRPCResponse(jsonrpc="2.0", id=asked.id, result=result)

    async def run(self) -> None:
        """Serve until cancelled, or until the client ends the session."""
        try:
            await self._serve()
        finally:
            self.let_go()

    def let_go(self) -> None:
        """End the streams that were picked up, and have not brought their answer."""
        self._events.let_go()

    def close_streams(self) -> None:
        """End all streams that have not brought their answer, where the client may come back."""
        self.let_go()
        if self._session.comes_back:
            for stream_id in self._events.open_streams:
                self.transport.close_sse_stream(stream_id)

    async def _serve(self) -> None:
        async with self.transport.connect() as (incoming, outgoing):
            dispatcher: JSONRPCDispatcher[TransportContext] = JSONRPCDispatcher(
                incoming, outgoing, inline_methods=frozenset({INITIALIZE})
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


def _asked(request: McpRequest, request_id: str) -> Asked:
    """Return what is asked, as its stream will name it. Raises `NotAMessage`."""
    if len(str(request.id)) > _MAX_ID_LENGTH or request.id == GET_STREAM_KEY:
        raise NotAMessage(f"an id is a number, or a text of at most {_MAX_ID_LENGTH}", None)
    tool = request.params.get("name") if request.method == CALL_TOOL else None
    name = tool[:_MAX_ID_LENGTH] if isinstance(tool, str) else None
    return Asked(request.id, request.method[:_MAX_ID_LENGTH], name, request_id)


async def _body(receive: Receive) -> tuple[bytes, Receive]:
    """Return the body of a request, and what receives it again."""
    first = await receive()
    messages = [first]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return first.get("body", b""), receive_again


class _Answered:
    """Sends an answer on, and remembers whether it was a good one, and written to its end."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.well = self.in_full = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.well = message["status"] < HTTPStatus.BAD_REQUEST
        await self._send(message)
        self.in_full = self.well and not message.get("more_body", True)


def _no_session() -> Response:
    return _refusal(404, INVALID_REQUEST, "Session not found")


def _refusal(status: int, code: int, message: str, id_: Id | None = None) -> Response:
    error = {"code": code, "message": message}
    return json_response({"jsonrpc": "2.0", "id": id_, "error": error}, status)
