"""A connection that speaks MCP in a WebSocket's subprotocol `mcp`."""

import asyncio

import picows

from bench.load.caller import Call, Caller
from bench.load.mcp_messages import INITIALIZED, call_request, discover, initialize, read_answer

_TEXT = picows.WSMsgType.TEXT
_CLOSE = picows.WSMsgType.CLOSE


class McpWebSocketCaller(Caller, picows.WSListener):
    """One connection, with a handshake where the older era has one."""

    def __init__(self, url: str, token: str, *, is_modern: bool) -> None:
        super().__init__()
        self._url = url
        self._headers = {"Sec-WebSocket-Protocol": "mcp"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._is_modern = is_modern
        self._greeting: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        """Connect, have the server ready, and shake hands where that is done."""
        self._transport, _ = await picows.ws_connect(
            lambda: self, self._url, extra_headers=self._headers
        )
        self._transport.send(_TEXT, discover() if self._is_modern else initialize())
        await self._greeting
        if not self._is_modern:
            self._transport.send(_TEXT, INITIALIZED)

    def call(self, call: Call) -> None:
        """Send a call."""
        self._transport.send(_TEXT, call_request(call, is_modern=self._is_modern))

    async def close(self) -> None:
        """Disconnect."""
        self._transport.disconnect()

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """Take one message."""
        if frame.msg_type is not _TEXT:
            if frame.msg_type is _CLOSE:
                transport.disconnect()
        elif not self._greeting.done():
            self._greeting.set_result(None)
        else:
            self.on_answer(read_answer(frame.get_payload_as_bytes()))

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        """Tell that the connection has ended."""
        self.on_lost()
