"""MCP's way in: `/mcp` on the HTTP port, and the subprotocol `mcp` on the WebSocket's.

Says who may come in, and imports the SDK when the first one does: that takes long and much
memory, so it happens once, in a thread. What is said then is not known here.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exai.calls.defects import Defects
from exai.connections.outbox import Outbox
from exai.connections.reception import Reception
from exai.core.addresses import canonical_address, origin_of
from exai.core.channel import Channel, ChannelClosed
from exai.core.config import Config
from exai.core.errors import QueueFull
from exai.core.events import ConnectionRefused, EventSink
from exai.core.identity import Principal
from exai.core.slow_imports import import_in_thread
from exai.protocols import close_codes
from exai.protocols.close_codes import Close
from exai.protocols.hello import Refused, ServerName
from exai.tools.registry import ToolRegistry
from exai.transports.json_responses import json_response, unauthorized
from exai.transports.request_headers import headers_of
from exai.transports.upgrade_rules import MCP_SUBPROTOCOL, bearer_token_of, forwarded_for_of
from exai.transports.websocket import ServeChannel

if TYPE_CHECKING:
    from exai.transports.mcp_sdk import McpSdk
    from exai.transports.mcp_websocket import Conversation

PATH = "/mcp"

_WHY = {
    close_codes.SERVICE_RESTART: "the daemon is stopping",
    close_codes.TRY_AGAIN_LATER: (
        "as many requests of MCP clients are under way as may be (server.max_connections)"
    ),
    close_codes.CONNECTION_LIMIT: (
        "you have as many connections, and requests under way, as you may have "
        "(principals.NAME.max_connections)"
    ),
}
"""What a refused HTTP request is told."""


class McpDoor:
    """Serves MCP while `run` does."""

    def __init__(
        self,
        config: Config,
        reception: Reception,
        tools: ToolRegistry,
        name: ServerName,
        events: EventSink,
    ) -> None:
        self._config = config
        self._reception = reception
        self._tools = tools
        self._name = name
        self._events = events
        self._loading = asyncio.Lock()
        self._sdk: McpSdk | None = None
        self._tasks = asyncio.TaskGroup()
        self._has_begun = asyncio.Event()
        self._is_closing = self._is_over = False
        self._conversations: set[Conversation] = set()
        self._owed_count = 0
        """How many HTTP requests are owed an answer."""
        self._has_left = asyncio.Event()

    @property
    def route(self) -> Route:
        """The route of streamable HTTP."""
        return Route(PATH, _AsgiApp(self._serve_http))

    def may_enter(self, token: str | None) -> bool:
        """Tell whether a bearer token, or its absence, is somebody's."""
        return self._reception.tokens.authenticate(token) is not None

    async def run(self) -> None:
        """Let clients be served, until cancelled."""
        try:
            async with self._tasks:
                self._has_begun.set()
                await asyncio.Event().wait()
        finally:
            self._is_over = True

    def beside(self, serve: ServeChannel) -> ServeChannel:
        """Return what serves every channel: those that speak MCP here, the others with `serve`."""

        async def serve_either(channel: Channel) -> None:
            speaks_mcp = channel.subprotocol == MCP_SUBPROTOCOL
            await (self._serve_channel if speaks_mcp else serve)(channel)

        return serve_either

    async def _serve_channel(self, channel: Channel) -> None:
        """Serve one channel until either side ends it; the channel is closed afterwards."""
        try:
            close = await self._serve_admitted(channel)
        except Refused as refused:
            close = refused.close
            self._events.emit(ConnectionRefused(channel.remote_address, close.reason))
        except ChannelClosed:
            return
        await channel.close(close.code, close.reason)

    async def close_all(self, close: Close, patience_s: float) -> None:
        """Close every connection once it has sent what it owes; wait so long for all answers."""
        self._is_closing = True
        if self._sdk is not None:
            await self._sdk.let_go()
        for each in list(self._conversations):
            each.finish(close)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while self._conversations or self._owed_count:
                    self._has_left.clear()
                    await self._has_left.wait()
        self._is_over = True

    async def _serve_admitted(self, channel: Channel) -> Close:
        connections, sessions = self._reception.connections, self._reception.mcp_sessions
        principal = self._reception.tokens.authenticate(channel.bearer_token)
        if principal is None:
            raise Refused(close_codes.UNAUTHORIZED)
        if self._is_closing:
            raise Refused(close_codes.SERVICE_RESTART)
        with (
            connections.admit(channel),
            connections.admit_principal(principal, takes_over=False),
        ):
            channel.allow_large_messages()
            sdk = await self._load()
            if sdk is None or self._is_closing:
                raise Refused(close_codes.SERVICE_RESTART)
            try:
                session = sessions.open_for_connection(principal, channel.remote_address)
            except QueueFull:
                raise Refused(close_codes.TRY_AGAIN_LATER) from None
            outbox = Outbox(
                sdk.frame_text,
                max_bytes=self._config.server.outbox_bytes,
                patience_s=self._config.server.slow_consumer_s,
            )
            conversation = sdk.conversation(channel, outbox, session)
            with self._open(conversation), sessions.held(session):
                slow_down = partial(self._slow_down, principal, channel.remote_address)
                return await conversation.run(slow_down)

    async def _serve_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal = self._reception.tokens.authenticate(bearer_token_of(headers_of(scope)))
        if principal is None:
            await unauthorized()(scope, receive, send)
            return
        address = self._address_of(scope)
        connections = self._reception.connections
        try:
            with (
                connections.admit_request(),
                connections.admit_principal(principal, takes_over=False),
            ):
                await self._slow_down(principal, address)
                await self._serve_request(principal, address, scope, receive, send)
        except Refused as refused:
            refusal = {"error": f"{_WHY[refused.close]}; try again"}
            await json_response(refusal, 503, {"retry-after": "2"})(scope, receive, send)

    async def _serve_request(
        self, principal: Principal, address: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        sdk = None if self._is_over else self._sdk or await self._load()
        if sdk is None:
            raise Refused(close_codes.SERVICE_RESTART)
        owed_count = 0

        async def receive_all() -> Message:
            """Owe an answer to who has sent all of a request."""
            nonlocal owed_count
            message = await receive()
            if scope["method"] == "POST" and not owed_count and not message.get("more_body"):
                owed_count = 1
                self._owed_count += 1
            return message

        try:
            await sdk.serve_http(principal, address, scope, receive_all, send)
        finally:
            self._owed_count -= owed_count
            self._has_left.set()

    @contextmanager
    def _open(self, conversation: "Conversation") -> Iterator[None]:
        self._conversations.add(conversation)
        try:
            yield
        finally:
            self._conversations.discard(conversation)
            self._has_left.set()

    def _address_of(self, scope: Scope) -> str:
        (peer, _), forwarded = scope["client"], forwarded_for_of(headers_of(scope))
        return origin_of(canonical_address(peer), forwarded, self._config.server.trusted_proxies)

    async def _slow_down(self, principal: Principal, address: str) -> None:
        """Wait until one more message of somebody may come."""
        wait_s = self._reception.rates.take(principal.name, address)
        while wait_s:
            await asyncio.sleep(wait_s)
            wait_s = self._reception.rates.take(principal.name, address)

    async def _load(self) -> "McpSdk | None":
        """Return what knows the SDK, imported at the first use; None where that is too late."""
        await self._has_begun.wait()
        async with self._loading:
            if self._sdk is None:
                module = await import_in_thread("exai.transports.mcp_sdk")
                if self._is_over:
                    return None
                sessions, defects = self._reception.mcp_sessions, Defects(self._events)
                self._sdk = module.McpSdk(self._name, sessions, self._tools, defects, self._config)
                self._tasks.create_task(self._sdk.run())
        return self._sdk


class _AsgiApp:
    """An ASGI application that is no function, so that Starlette hands it the whole request."""

    def __init__(self, serve: ASGIApp) -> None:
        self._serve = serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._serve(scope, receive, send)
