"""All of the daemon's doors that stand on the official SDK, as `mcp_door` imports them."""

from starlette.types import Receive, Scope, Send

from exai.calls.defects import Defects
from exai.connections.mcp_session import McpSession
from exai.connections.mcp_sessions import McpSessions
from exai.connections.outbox import Outbox
from exai.core.channel import Channel
from exai.core.config import Config
from exai.core.errors import ToolNotFound
from exai.core.identity import Principal
from exai.core.tool import ToolSpec
from exai.protocols.hello import ServerName
from exai.tools.registry import ToolRegistry
from exai.transports.mcp_http import McpHttp
from exai.transports.mcp_server import CALLER, McpCaller, McpServer
from exai.transports.mcp_websocket import Conversation, frame_text


class McpSdk:
    """MCP over HTTP and over channels, with one set of methods behind both."""

    frame_text = staticmethod(frame_text)

    def __init__(
        self,
        name: ServerName,
        sessions: McpSessions,
        tools: ToolRegistry,
        defects: Defects,
        config: Config,
    ) -> None:
        self._tools = tools
        self._max_requests = config.limits.mcp_max_requests
        listeners = config.limits.mcp_max_listeners
        self._server = McpServer(name, sessions, self._tool_of, max_listeners=listeners)
        self._http = McpHttp(self._server, sessions, defects, config.server.max_message_bytes)

    async def run(self) -> None:
        """Let requests be served, until cancelled."""
        await self._http.run()

    def conversation(self, channel: Channel, outbox: Outbox, session: McpSession) -> Conversation:
        """Return what will be said over a channel."""
        return Conversation(channel, outbox, self._server, session, self._max_requests)

    async def let_go(self) -> None:
        """Answer who listens, and have those come back whose answer the next process will give."""
        self._http.let_go()
        await self._server.let_go()

    async def serve_http(
        self, principal: Principal, remote_address: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer one HTTP request of somebody."""
        scope[CALLER] = McpCaller(principal, remote_address)
        await self._http.serve(scope, receive, send)

    def _tool_of(self, principal: Principal, name: str) -> ToolSpec | None:
        try:
            return self._tools.require_tool(name, principal).spec
        except ToolNotFound:
            return None
