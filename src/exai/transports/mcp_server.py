"""MCP as the daemon's clients speak it, over any transport: its methods are our calls.

The official SDK (importing this module imports it, which takes long) knows the eras, their
envelopes and shapes; here each method becomes a request to the router, and each answer what MCP
says of it. Knows nothing of HTTP or WebSockets but what a request brings along.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import msgspec
from mcp.server.caching import CacheHint
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.shared.exceptions import MCPError
from mcp.shared.jsonrpc_dispatcher import cancelled_request_id_from_params
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp_types import (
    CLIENT_INFO_META_KEY,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    PROTOCOL_VERSION_META_KEY,
    CallToolRequestParams,
    CompleteRequestParams,
    GetPromptRequestParams,
    JSONRPCMessage,
    JSONRPCNotification,
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
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from exai.connections.mcp_session import McpCall, McpSession
from exai.connections.mcp_sessions import McpSessions
from exai.core.errors import ErrorCode, ErrorInfo, ExaiError
from exai.core.identity import Principal
from exai.core.outcomes import Failed
from exai.core.replies import CallAnswered
from exai.core.requests import CallTool
from exai.core.requests import RequestId as Key
from exai.protocols import mcp_results
from exai.protocols.hello import ServerName
from exai.transports.mcp_client_side import client_side_of
from exai.transports.mcp_news import Listening, Send
from exai.transports.mcp_raw import RawMessage
from exai.transports.mcp_telling import Telling

Context = ServerRequestContext[Any, Any]

CALLER = "exai.mcp_caller"
"""Where an HTTP request without a session carries its `McpCaller`, in its scope."""

_CANCELLED = "notifications/cancelled"
_IDEMPOTENCY_KEY = "exai/idempotencyKey"
_NOT_HANDED_ON = {"progressToken", PROTOCOL_VERSION_META_KEY, CLIENT_INFO_META_KEY}
_LISTS_STAY_FRESH_MS = 5000
_COMPLETE = {"resultType": "complete"}
"""What a result of 2026 says where it does not say otherwise; the SDK leaves it out before."""

_RESOURCE_NOT_FOUND = -32002
_RELAYED: Mapping[str, type[RequestParams]] = {
    "resources/list": PaginatedRequestParams,
    "resources/templates/list": PaginatedRequestParams,
    "resources/read": ReadResourceRequestParams,
    "resources/subscribe": SubscribeRequestParams,
    "resources/unsubscribe": UnsubscribeRequestParams,
    "prompts/list": PaginatedRequestParams,
    "prompts/get": GetPromptRequestParams,
    "completion/complete": CompleteRequestParams,
}
_LISTS = ("tools/list", "prompts/list", "resources/list", "resources/templates/list")


class McpCaller(NamedTuple):
    """Who makes a request that belongs to no session."""

    principal: Principal
    remote_address: str


class McpServer:
    """The methods of MCP. `sdk` has their handlers."""

    def __init__(self, name: ServerName, sessions: McpSessions, schema_of: "SchemaOf") -> None:
        self._sessions = sessions
        self._under_way: dict[tuple[str, str], McpCall] = {}
        hint = CacheHint(ttl_ms=_LISTS_STAY_FRESH_MS)
        self.sdk: Server[Any] = Server(
            name.name,
            version=name.version,
            cache_hints=dict.fromkeys(_LISTS, hint),  # type: ignore[arg-type]
            get_tool_input_schema=schema_of,
        )
        add = self.sdk.add_request_handler
        add("tools/list", PaginatedRequestParams, self._list_tools)
        add("tools/call", CallToolRequestParams, self._call_tool)
        add("logging/setLevel", SetLevelRequestParams, self._set_level)
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

    def note_cancellation(self, session: McpSession, message: JSONRPCMessage) -> None:
        """Take a call back, if a message says so, before the SDK stops to wait for it.

        To the SDK a caller that has gone and one that cancels are the same.
        """
        if isinstance(message, JSONRPCNotification) and message.method == _CANCELLED:
            request_id = cancelled_request_id_from_params(message.params)
            call = self._under_way.get((session.session_id, str(request_id)))
            if call is not None:
                call.take_back()

    async def tell_news(self, session: McpSession, send: Send) -> None:
        """Tell a client of before 2026 what is new, for as long as it is there; once is enough."""
        if not session.listeners:
            async with Listening(session, None, send) as listening:
                await listening.run()

    async def _list_tools(self, ctx: Context, params: PaginatedRequestParams) -> dict[str, Any]:
        _require_no_cursor(params)
        tools = self._session_of(ctx).list_tools()
        return _COMPLETE | {"tools": [mcp_results.listing_of(spec) for spec in tools]}

    async def _call_tool(self, ctx: Context, params: CallToolRequestParams) -> dict[str, Any]:
        raw = ctx.params or {}
        request = CallTool(
            name=params.name,
            arguments=raw.get("arguments") or {},
            idempotency_key=_idempotency_key(ctx),
            traceparent=_meta_of(ctx).get("traceparent"),
            meta=_handed_on(ctx),
            input={key: raw[key] for key in ("inputResponses", "requestState") if key in raw},
        )
        try:
            answer = await self._answer_to(ctx, request)
        except ExaiError as refused:
            return _COMPLETE | mcp_results.result_of(Failed(refused.describe()))
        if isinstance(answer.outcome, Failed):
            _raise_if_unknown(params.name, answer.outcome.error)
        return _COMPLETE | mcp_results.result_of(answer.outcome)

    async def _relay(self, ctx: Context, params: RequestParams) -> dict[str, Any]:
        arguments = {key: value for key, value in (ctx.params or {}).items() if key != "_meta"}
        request = CallTool(name=ctx.method, arguments=arguments, meta=_handed_on(ctx))
        try:
            answer = await self._answer_to(ctx, request)
        except ExaiError as refused:
            raise _error_of(ctx, refused.describe()) from None
        if isinstance(answer.outcome, Failed):
            raise _error_of(ctx, answer.outcome.error)
        return _COMPLETE | (answer.outcome.structured or {})

    async def _set_level(self, ctx: Context, params: SetLevelRequestParams) -> dict[str, Any]:
        self._session_of(ctx).log_level = params.level
        return await self._relay(ctx, params)

    async def _listen(
        self, ctx: Context, params: SubscriptionsListenRequestParams
    ) -> dict[str, Any]:
        meta = {SUBSCRIPTION_ID_META_KEY: ctx.request_id}

        async def send(method: str, params: dict[str, Any]) -> None:
            await _notify(ctx, method, {**params, "_meta": meta}, related=True)

        with self._sessions.held(self._session_of(ctx)) as session:
            async with Listening(session, params.notifications, send) as listening:
                return await listening.run()

    async def _initialized(self, ctx: Context, params: NotificationParams) -> None:
        async def send(method: str, params: dict[str, Any]) -> None:
            await _notify(ctx, method, params, related=False)

        await self.tell_news(self._session_of(ctx), send)

    async def _answer_to(self, ctx: Context, request: CallTool) -> CallAnswered:
        """Make a call, and tell the client how it fares until its answer has come.

        Raises `ExaiError` where it could not even be made.
        """
        with self._sessions.held(self._session_of(ctx)) as session:
            call = session.call(request, client_side_of(ctx))
            named = session.session_id, str(ctx.request_id)
            self._under_way[named] = call
            telling = Telling(ctx, session.log_level)
            try:
                async for said in call.progress():
                    await telling.tell(said)
            except BaseException:
                call.leave()
                raise
            finally:
                if self._under_way.get(named) is call:
                    del self._under_way[named]
        assert call.answer is not None
        return call.answer

    def _session_of(self, ctx: Context) -> McpSession:
        if isinstance(ctx.lifespan_context, McpSession):
            return ctx.lifespan_context
        assert ctx.request is not None
        caller: McpCaller = ctx.request.scope[CALLER]
        client = ctx.session.client_params
        name = "" if client is None else client.client_info.name
        return self._sessions.shared(caller.principal, caller.remote_address, name)


SchemaOf = Callable[[str], Mapping[str, Any] | None]
"""Returns the input schema of a tool, where whoever asks may use it."""


async def _notify(ctx: Context, method: str, params: dict[str, Any], *, related: bool) -> None:
    message = cast(ServerNotification, RawMessage(method=method, params=params))
    await ctx.session.send_notification(message, ctx.request_id if related else None)


def _require_no_cursor(params: PaginatedRequestParams) -> None:
    if params.cursor is not None:
        raise MCPError(INVALID_PARAMS, "there is no such cursor: all is on one page")


def _meta_of(ctx: Context) -> dict[str, Any]:
    return (ctx.params or {}).get("_meta") or {}


def _handed_on(ctx: Context) -> dict[str, Any]:
    """Return what of a request's `_meta` its MCP server gets to see."""
    meta = _meta_of(ctx)
    return {k: v for k, v in meta.items() if k not in _NOT_HANDED_ON and not k.startswith("exai/")}


def _idempotency_key(ctx: Context) -> str | None:
    """Return the key under which a request may be sent again, from its `_meta` or a header."""
    key = _meta_of(ctx).get(_IDEMPOTENCY_KEY)
    if key is None and ctx.request is not None:
        key = ctx.request.headers.get("idempotency-key")
    try:
        return None if key is None else msgspec.convert(key, Key)
    except msgspec.ValidationError:
        raise MCPError(
            INVALID_PARAMS,
            f"{_IDEMPOTENCY_KEY}: expected 1 to 128 printable ASCII characters, without space",
        ) from None


def _raise_if_unknown(name: str, error: ErrorInfo) -> None:
    """Raise the protocol's own error for a tool that is not there; all else is a result."""
    if error.code is ErrorCode.TOOL_NOT_FOUND:
        raise MCPError(INVALID_PARAMS, f"Unknown tool: {name}", {"hint": error.message})


def _error_of(ctx: Context, error: ErrorInfo) -> MCPError:
    """Return why a method other than `tools/call` failed, in the words of MCP."""
    details = error.details or {}
    code = details.get("jsonrpc_code")
    if code == _RESOURCE_NOT_FOUND and ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
        code = INVALID_PARAMS
    if isinstance(code, int):
        return MCPError(code, error.message, details.get("jsonrpc_data"))
    is_about_params = error.code in (ErrorCode.VALIDATION_ERROR, ErrorCode.INVALID_REQUEST)
    return MCPError(
        INVALID_PARAMS if is_about_params else INTERNAL_ERROR,
        error.message,
        mcp_results.reason_of(error),
    )
