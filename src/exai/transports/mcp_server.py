"""MCP as the daemon's clients speak it, over any transport: its methods are our calls.

The official SDK (importing this module imports it, which takes long) knows the eras, their
envelopes and shapes; here each method becomes a request to the router, and each answer what MCP
says of it. Knows nothing of HTTP or WebSockets but what a request brings along.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple, cast

from mcp.server.caching import CacheableMethod, CacheHint
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolRequestParams,
    CompleteRequestParams,
    GetPromptRequestParams,
    NotificationParams,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    RequestParams,
    ServerNotification,
    SetLevelRequestParams,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    UnsubscribeRequestParams,
)

from exai.connections.mcp_session import McpCall, McpSession
from exai.connections.mcp_sessions import McpSessions
from exai.core.errors import ExaiError
from exai.core.identity import Principal
from exai.core.mcp_words import CALL_TOOL, LISTEN_ACKNOWLEDGED, Era
from exai.core.message_ids import Id
from exai.core.outcomes import Failed
from exai.core.replies import CallProgressed
from exai.core.requests import CallTool
from exai.core.tool import ToolSpec
from exai.protocols import mcp_calls, mcp_results
from exai.protocols.hello import ServerName
from exai.protocols.mcp_calls import Answer, answer_of
from exai.protocols.mcp_eras import MODERN_VERSIONS, meta_of
from exai.protocols.mcp_messages import McpError
from exai.protocols.mcp_news import read_listen
from exai.protocols.mcp_notifications import CallNotifications
from exai.transports.mcp_client_side import client_side_of
from exai.transports.mcp_news import NewsOfSession, Notify
from exai.transports.mcp_raw import RawMessage

Context = ServerRequestContext[Any, Any]
ToolOf = Callable[[Principal, str], ToolSpec | None]
"""Returns the tool that somebody means by a name, and may use."""

asking_principal: ContextVar[Principal] = ContextVar("asking_principal")
"""Who makes the HTTP request that is being served."""

IDEMPOTENCY_HEADER = "idempotency-key"
CALLER = "exai.mcp_caller"
"""Where an HTTP request carries its `McpCaller`, in its scope."""

_LISTS_STAY_FRESH_MS = 5000
_CONTENTS_ARE_STALE_AT_ONCE = CacheHint(ttl_ms=0)
"""What a resource's server may say otherwise, since 2026."""

_LISTS: tuple[CacheableMethod, ...] = (
    "tools/list",
    "prompts/list",
    "resources/list",
    "resources/templates/list",
)
_RELAYED: Mapping[str, type[RequestParams]] = {
    "resources/list": PaginatedRequestParams,
    "resources/templates/list": PaginatedRequestParams,
    "resources/read": ReadResourceRequestParams,
    "resources/subscribe": SubscribeRequestParams,
    "resources/unsubscribe": UnsubscribeRequestParams,
    "prompts/list": PaginatedRequestParams,
    "prompts/get": GetPromptRequestParams,
    "completion/complete": CompleteRequestParams,
    "logging/setLevel": SetLevelRequestParams,
}


class McpCaller(NamedTuple):
    """Who makes an HTTP request; `request_id` is how the call that it makes is to be known."""

    principal: Principal
    remote_address: str
    request_id: str | None = None


class _UnderWay(NamedTuple):
    """A call that is waited for; `close_stream` has its client ask for the answer again."""

    call: McpCall
    close_stream: Callable[[], Awaitable[None]] | None = None


class McpServer:
    """The methods of MCP. `sdk` has their handlers."""

    def __init__(
        self, name: ServerName, sessions: McpSessions, tool_of: ToolOf, *, max_listeners: int
    ) -> None:
        self._max_listeners = max_listeners
        self._sessions = sessions
        self._tool_of = tool_of
        self._is_over = False
        self._listening: set[NewsOfSession] = set()
        self._under_way: dict[tuple[str, str], _UnderWay] = {}
        hints: dict[CacheableMethod, CacheHint] = dict.fromkeys(
            _LISTS, CacheHint(ttl_ms=_LISTS_STAY_FRESH_MS)
        )
        self.sdk: Server[Any] = Server(
            name.name,
            version=name.version,
            cache_hints=hints | {"resources/read": _CONTENTS_ARE_STALE_AT_ONCE},
            get_tool_input_schema=self._schema_of,
        )
        self.sdk.middleware.clear()  # its spans of OpenTelemetry would go nowhere, at some cost
        add = self.sdk.add_request_handler
        add("tools/list", PaginatedRequestParams, self._list_tools)
        add("tools/call", CallToolRequestParams, self._call_tool)
        add("subscriptions/listen", SubscriptionsListenRequestParams, self._listen)
        for method, params in _RELAYED.items():
            add(method, params, self._relay)
        self.sdk.add_notification_handler(
            "notifications/initialized", NotificationParams, self._initialized
        )

    @property
    def greeting(self) -> InitializationOptions:
        """What `initialize` is answered with."""
        changed = NotificationOptions(
            prompts_changed=True, resources_changed=True, tools_changed=True
        )
        return self.sdk.create_initialization_options(changed)

    def take_back(self, session: McpSession, request_id: Id) -> bool:
        """Cancel a call, before the SDK stops to wait for it; False where it is not under way.

        To the SDK a caller that has gone and one that cancels are the same.
        """
        under_way = self._under_way.get((session.session_id, str(request_id)))
        if under_way is not None:
            under_way.call.take_back()
        return under_way is not None

    async def let_go(self) -> None:
        """Answer all requests that listen, or will: they would go on for ever.

        Close the streams of calls that were left to the next process.
        """
        self._is_over = True
        for news in self._listening:
            news.end()
        for call, close_stream in list(self._under_way.values()):
            if close_stream is not None and call.answer is None:
                await close_stream()

    async def answer_again(
        self, session: McpSession, id_: Id, method: str, call: CallTool
    ) -> dict[str, Any]:
        """Wait for the answer to a request of before 2026 that was made of another process.

        `call` is no more than its names. Raises `MCPError`.
        """
        with session.asked_again(call) as asked:
            named = session.session_id, str(id_)
            answer = await self._wait_for(named, _UnderWay(asked))
        with _AS_THE_SDKS:
            if method != CALL_TOOL:
                return mcp_calls.method_result(method, answer, Era.HANDSHAKE)
            has_schema = partial(self._promises_structure, session.principal, call.name)
            return mcp_calls.tool_result(call, answer, Era.HANDSHAKE, has_schema)

    async def tell_news(self, session: McpSession, notify: Notify) -> None:
        """Tell a client of before 2026 what is new, for as long as it is there; once is enough."""
        if not session.listeners:
            async with NewsOfSession(session, None, notify) as news:
                await news.tell()

    async def _list_tools(self, ctx: Context, params: PaginatedRequestParams) -> dict[str, Any]:
        if params.cursor is not None:
            raise MCPError(INVALID_PARAMS, "there is no such cursor: all is on one page")
        tools = map(mcp_results.listing_of, self._session_of(ctx).list_tools())
        return _complete(ctx, mcp_results.tools_result(tools, _era_of(ctx)))

    async def _call_tool(self, ctx: Context, params: CallToolRequestParams) -> dict[str, Any]:
        with _AS_THE_SDKS:
            call = mcp_calls.read_tool_call(ctx.params or {}, _header_key(ctx))
            answer = await self._answer_to(ctx, call)
            has_schema = partial(self._promises_structure, self._principal_of(ctx), call.name)
            return _complete(ctx, mcp_calls.tool_result(call, answer, _era_of(ctx), has_schema))

    async def _relay(self, ctx: Context, params: RequestParams) -> dict[str, Any]:
        with _AS_THE_SDKS:
            call = mcp_calls.read_method_call(ctx.method, ctx.params or {})
            answer = await self._answer_to(ctx, call)
            result = mcp_calls.method_result(ctx.method, answer, _era_of(ctx))
        self._session_of(ctx).note_wish(call.name, call.arguments)
        return _complete(ctx, result)

    async def _listen(
        self, ctx: Context, params: SubscriptionsListenRequestParams
    ) -> dict[str, Any]:
        assert ctx.request_id is not None
        with _AS_THE_SDKS:
            listening = read_listen(ctx.request_id, dict(ctx.params or {}))
        notify = _notifying(ctx, related=True)
        with self._sessions.held(self._session_of(ctx)) as session:
            if len(session.listeners) >= self._max_listeners:
                raise MCPError(INTERNAL_ERROR, "too many listen (limits.mcp_max_listeners)")
            async with (
                NewsOfSession(session, listening, notify) as news,
                session.watching(listening.uris) as watched,
            ):
                honored = listening._replace(uris=frozenset(watched))
                await notify(LISTEN_ACKNOWLEDGED, honored.acknowledgement())
                self._listening.add(news)
                if self._is_over:
                    news.end()
                try:
                    await news.tell()
                finally:
                    self._listening.discard(news)
        return _complete(ctx, listening.result())

    async def _initialized(self, ctx: Context, params: NotificationParams) -> None:
        await self.tell_news(self._session_of(ctx), _notifying(ctx, related=False))

    async def _answer_to(self, ctx: Context, request: CallTool) -> Answer:
        """Make a call, and tell the client how it fares until its answer has come."""
        try:
            session = self._session_of(ctx)
        except ExaiError as refused:
            return answer_of(Failed(refused.describe()))
        with self._sessions.held(session):
            close_stream = ctx.close_sse_stream
            comes_back = close_stream is not None
            call = session.call(
                request,
                client_side_of(ctx),
                request_id=_minted_request_id(ctx),
                comes_back=comes_back,
            )
            clock, notify = asyncio.get_running_loop().time, _notifying(ctx, related=True)
            notifications = CallNotifications(meta_of(ctx.params or {}), _era_of(ctx), clock())

            async def tell(said: CallProgressed) -> None:
                told = notifications.told(said, clock(), session.log_level)
                if told is not None:
                    await notify(*told)

            assert ctx.request_id is not None
            named = session.session_id, str(ctx.request_id)
            return await self._wait_for(named, _UnderWay(call, close_stream), tell)

    async def _wait_for(
        self,
        named: tuple[str, str],
        under_way: _UnderWay,
        tell: Callable[[CallProgressed], Awaitable[None]] | None = None,
    ) -> Answer:
        """Return what came of a call, once it has; `tell` hears how it fares until then."""
        call, self._under_way[named] = under_way.call, under_way
        try:
            while (said := await call.hear()) is not None:
                if tell is not None:
                    await tell(said)
        except BaseException:
            call.leave()
            raise
        finally:
            if self._under_way.get(named) is under_way:
                del self._under_way[named]
        assert call.answer is not None
        return answer_of(call.answer.outcome)

    def _schema_of(self, name: str) -> Mapping[str, Any] | None:
        """Return a tool's input schema, by which the SDK judges headers that mirror arguments."""
        tool = self._tool_of(asking_principal.get(), name)
        return None if tool is None else tool.input_schema

    def _promises_structure(self, principal: Principal, name: str) -> bool:
        tool = self._tool_of(principal, name)
        return tool is not None and tool.output_schema is not None

    def _principal_of(self, ctx: Context) -> Principal:
        if isinstance(ctx.lifespan_context, McpSession):
            return ctx.lifespan_context.principal
        assert ctx.request is not None
        caller: McpCaller = ctx.request.scope[CALLER]
        return caller.principal

    def _session_of(self, ctx: Context) -> McpSession:
        """Return whose session a message belongs to. Raises `QueueFull`."""
        if isinstance(ctx.lifespan_context, McpSession):
            return ctx.lifespan_context
        assert ctx.request is not None
        caller: McpCaller = ctx.request.scope[CALLER]
        client = ctx.session.client_params
        name = "" if client is None else client.client_info.name
        return self._sessions.shared(caller.principal, caller.remote_address, name)


class _AsTheSdks:
    """A context that lets the protocol's errors out as the SDK's own; entered by each call."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, McpError):
            raise MCPError(error.code, error.message, error.data) from None


_AS_THE_SDKS = _AsTheSdks()


def _complete(ctx: Context, result: dict[str, Any]) -> dict[str, Any]:
    """Return a result that says, to those who look for it, that it is one."""
    return result if _era_of(ctx) is Era.HANDSHAKE else {"resultType": "complete"} | result


def _era_of(ctx: Context) -> Era:
    return Era.MODERN if ctx.protocol_version in MODERN_VERSIONS else Era.HANDSHAKE


def _notifying(ctx: Context, *, related: bool) -> Notify:
    """Return what sends a notification, on the stream of a request or on that of its client."""

    async def notify(method: str, params: dict[str, Any]) -> None:
        message = cast(ServerNotification, RawMessage(method=method, params=params))
        await ctx.session.send_notification(message, ctx.request_id if related else None)

    return notify


def _minted_request_id(ctx: Context) -> str | None:
    caller: McpCaller | None = None if ctx.request is None else ctx.request.scope[CALLER]
    return None if caller is None else caller.request_id


def _header_key(ctx: Context) -> str | None:
    """Return the idempotency key that came beside the message."""
    header: str | None = None
    if ctx.request is not None:
        header = ctx.request.headers.get(IDEMPOTENCY_HEADER)
    return header
