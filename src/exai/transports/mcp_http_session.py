"""One session of MCP over HTTP: its loop, its streams, and which call each of them will answer."""

import asyncio
from contextlib import suppress
from http import HTTPStatus

from mcp.server.connection import Connection
from mcp.server.runner import serve_connection
from mcp.server.streamable_http import GET_STREAM_KEY, StreamableHTTPServerTransport
from mcp.shared.exceptions import MCPError
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from mcp.shared.transport_context import TransportContext
from mcp_types import InitializeRequestParams, JSONRPCError, JSONRPCMessage, JSONRPCResponse
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from exai.connections.mcp_session import ClientFacts, McpSession
from exai.core.errors import ServiceUnavailable
from exai.core.lifecycle import running
from exai.core.mcp_words import CALL_TOOL, CANCELLED, INITIALIZE
from exai.core.message_ids import Id
from exai.core.requests import CallTool
from exai.protocols.mcp_eras import IDEMPOTENCY_KEY, meta_of
from exai.protocols.mcp_messages import McpNotification, McpRequest, NotAMessage
from exai.transports.mcp_events import Asked, McpEvents
from exai.transports.mcp_reading import read_text
from exai.transports.mcp_server import CALLER, IDEMPOTENCY_HEADER, McpServer

_MAX_NAME_LENGTH = 256
_MAX_CANCELLED = 100
_RETRY_MS = 3000
"""After which a client asks for a lost stream; the SDKs' ask twice, and a restart may take 5 s."""


class HttpSession:
    """Serves a session while `run` does. `client` is known of one of an earlier process."""

    def __init__(
        self, session: McpSession, server: McpServer, client: InitializeRequestParams | None
    ) -> None:
        self._events = McpEvents(self._fetch)
        self._transport = StreamableHTTPServerTransport(
            session.session_id, event_store=self._events, retry_interval=_RETRY_MS
        )
        self._session = session
        self._server = server
        self._client = client
        self._connection: Connection | None = None
        self._has_begun = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        self._fetching: set[asyncio.Task[None]] = set()
        self._cancelled_early: set[str] = set()

    @property
    def is_ended(self) -> bool:
        """Whether its client has ended it."""
        return self._transport.is_terminated

    @property
    def facts(self) -> ClientFacts | None:
        """What another process must know; None before `initialize`."""
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

    async def run(self) -> None:
        """Serve until cancelled, or until the client ends the session."""
        async with self._tasks:
            try:
                await self._serve()
            finally:
                self.let_go()
                for task in self._fetching:
                    task.cancel()

    async def handle(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request. Raises `NotAMessage`, `MalformedFrame`."""
        await self._has_begun.wait()
        if scope["method"] == "POST":
            match await read_text(body):
                case McpRequest() as request:
                    await self._handle_request(request, scope, receive, send)
                    return
                case McpNotification(method, {"requestId": str() | int() as id_}):
                    if method == CANCELLED:
                        self._take_back(id_)
        await self._transport.handle_request(scope, receive, send)

    def let_go(self) -> None:
        """End the streams that were picked up, and have not brought their answer."""
        self._events.let_go()

    def close_streams(self) -> None:
        """End all streams that have not brought their answer, where the client may come back."""
        self.let_go()
        if self._session.comes_back:
            for stream_id in self._events.open_streams:
                self._transport.close_sse_stream(stream_id)

    async def _serve(self) -> None:
        async with self._transport.connect() as (incoming, outgoing):
            dispatcher: JSONRPCDispatcher[TransportContext] = JSONRPCDispatcher(
                incoming, outgoing, inline_methods=frozenset({INITIALIZE})
            )
            connection = Connection.for_loop(dispatcher, session_id=self._session.session_id)
            if self._client is not None and self._session.facts is not None:
                connection.client_params = self._client
                connection.protocol_version = self._session.facts.protocol_version
                connection.initialized.set()
            self._connection = connection
            self._has_begun.set()
            async with running(self._server.tell_news(self._session, connection.notify)):
                await serve_connection(
                    self._server.sdk,
                    dispatcher,
                    connection=connection,
                    lifespan_state=self._session,
                    init_options=self._server.greeting,
                )

    async def _handle_request(
        self, request: McpRequest, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer a request, on a stream whose events say which call it is."""
        asked = _asked(request, self._session.mint_request_id())
        if not self._events.open(asked):
            problem = f"a request with the id {asked.id!r} is under way in this session"
            raise NotAMessage(problem, None)
        scope[CALLER] = scope[CALLER]._replace(request_id=asked.request_id)
        answered = Answered(send)
        try:
            await self._transport.handle_request(scope, receive, answered)
        finally:
            if not answered.well:
                self._events.drop(asked)
        if answered.in_full and not self._events.is_open(asked):
            self._note_written(asked, request, scope)

    def _note_written(self, asked: Asked, request: McpRequest, scope: Scope) -> None:
        """Let an answer be forgotten soon; one that has a key, or whose stream broke, is kept."""
        has_key = IDEMPOTENCY_KEY in meta_of(request.params)
        has_key = has_key or IDEMPOTENCY_HEADER in Headers(scope=scope)
        if self._session.comes_back and not has_key:
            self._session.note_written(asked.request_id)

    def _take_back(self, id_: Id) -> None:
        """Cancel a call. To the SDK a caller that has gone and one that cancels are the same."""
        is_known = self._server.take_back(self._session, id_)
        is_of_earlier_process = not is_known and self._client is not None
        if is_of_earlier_process and len(self._cancelled_early) < _MAX_CANCELLED:
            self._cancelled_early.add(str(id_))

    def _fetch(self, asked: Asked) -> None:
        task = self._tasks.create_task(self._store_answer(asked))
        self._fetching.add(task)
        task.add_done_callback(self._fetching.discard)

    async def _store_answer(self, asked: Asked) -> None:
        """Store the answer to a request that an earlier process had, once it is known."""
        if str(asked.id) in self._cancelled_early:
            self._session.take_back(asked.request_id)
        call = CallTool(name=asked.tool or asked.method, request_id=asked.request_id)
        try:
            result = await self._server.answer_again(self._session, asked.id, asked.method, call)
        except MCPError as fault:
            answer: JSONRPCMessage = JSONRPCError(jsonrpc="2.0", id=asked.id, error=fault.error)
        else:
            answer = JSONRPCResponse(jsonrpc="2.0", id=asked.id, result=result)
        await self._events.store_event(str(asked.id), answer)


class Answered:
    """Sends an answer on, and remembers whether it was a good one, and written to its end."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.well = self.in_full = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.well = message["status"] < HTTPStatus.BAD_REQUEST
        await self._send(message)
        self.in_full = self.well and not message.get("more_body", True)


def _asked(request: McpRequest, request_id: str) -> Asked:
    """Return what is asked, as its stream will name it. Raises `NotAMessage`."""
    if len(str(request.id)) > _MAX_NAME_LENGTH or request.id == GET_STREAM_KEY:
        raise NotAMessage(f"an id is a number, or a text of at most {_MAX_NAME_LENGTH}", None)
    tool = request.params.get("name") if request.method == CALL_TOOL else None
    name = tool[:_MAX_NAME_LENGTH] if isinstance(tool, str) else None
    return Asked(request.id, request.method[:_MAX_NAME_LENGTH], name, request_id)
