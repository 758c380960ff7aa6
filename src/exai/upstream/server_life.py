"""One life of an MCP server: from its start, over the handshake, to its end.

Knows what a running server can be asked; knows nothing of earlier lives or of the next.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from exai.core.errors import ToolFailed
from exai.core.outcomes import Completed
from exai.core.tool import ToolRun
from exai.upstream.carrier import Carrier
from exai.upstream.handshake import Handshake, HandshakeFailed, Terms
from exai.upstream.json_rpc import (
    FAULTS,
    ErrorAnswer,
    JsonRpcConnection,
    OnNotification,
    ServerLost,
)
from exai.upstream.server_requests import OnRequest
from exai.upstream.speech import Speech
from exai.upstream.tool_call import tool_call_params
from exai.upstream.tool_listing import list_tools
from exai.upstream.tool_result import read_tool_result

_TOOLS_CHANGED = "notifications/tools/list_changed"
_CHANGES_PAUSE_S = 1.0
_MAX_LISTEN_DELAY_S = 60.0
_MESSAGE_LENGTH = 1000


class ServerLife:
    """A server that runs. `shake_hands` comes before everything else that is asked of it.

    `on_notification` is told what concerns no request, `on_request` answers what it asks.
    """

    _hearing: asyncio.Task[str]
    _subscribing: asyncio.Task[None] | None = None

    def __init__(
        self,
        name: str,
        carrier: Carrier,
        speech: Speech,
        max_result_bytes: int,
        *,
        on_notification: OnNotification | None = None,
        on_request: OnRequest | None = None,
    ) -> None:
        self.pid = carrier.pid
        self.ready_at: float | None = None
        self.terms = Terms()
        self._name = name
        self._carrier = carrier
        self._connection = JsonRpcConnection(
            carrier,
            speech=speech,
            max_result_bytes=max_result_bytes,
            on_notification=self._take_notification,
            on_request=on_request,
        )
        self._on_notification = on_notification
        self._tasks = asyncio.TaskGroup()
        self._tools_changed = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """Whether the server can be asked nothing any more."""
        return self._connection.is_over

    async def run(self, serve: Callable[[], Awaitable[None]]) -> str:
        """Hear the server while `serve` runs, then stop it; return how its life ended."""
        async with self._tasks as tasks:
            tasks.create_task(self._carrier.attend())
            self._hearing = tasks.create_task(self._connection.run())
            self._hearing.add_done_callback(lambda _: self._tools_changed.set())
            try:
                fault = await _fault_in(serve)
            finally:
                has_ended = self.is_over
                if self._subscribing is not None:
                    self._subscribing.cancel()
                await self._carrier.stop()
        return self._hearing.result() if has_ended or fault is None else fault

    async def shake_hands(self, handshake: Handshake, *, discover: bool) -> None:
        """Agree on how to speak; raises `HandshakeFailed`."""
        self.terms = await handshake.negotiate(self._connection, discover=discover)
        if self.terms.must_subscribe:
            self._subscribing = self._tasks.create_task(self._subscribe())

    async def list_tools(self) -> list[dict[str, Any]]:
        """Return the tools as the server describes them; raises as a request does."""
        tools = await list_tools(self._connection, self.terms)
        await self._carrier.know_tools(tools)
        return tools

    async def wait_tools_changed(self) -> bool:
        """Wait until the tools are others, and for a while for more of it. False: it ended."""
        await self._tools_changed.wait()
        await asyncio.wait([self._hearing], timeout=_CHANGES_PAUSE_S)
        self._tools_changed.clear()
        return not self.is_over

    async def call_tool(
        self, tool: str, arguments: dict[str, Any], run: ToolRun, cancel_grace_s: float
    ) -> Completed:
        """Call a tool; raises `ToolFailed`, and what a request raises but for `ErrorAnswer`."""
        try:
            result = await self._connection.request(
                "tools/call",
                tool_call_params(tool, arguments, run, self.terms),
                on_progress=lambda params: _report(params, run),
                cancel_grace_s=cancel_grace_s,
            )
        except ErrorAnswer as error:
            message = error.message[:_MESSAGE_LENGTH]
            raise ToolFailed(message, jsonrpc_code=error.code) from None
        return read_tool_result(result, self._name)

    def _take_notification(self, method: str, params: dict[str, Any]) -> None:
        if method == _TOOLS_CHANGED:
            self._tools_changed.set()
        if self._on_notification is not None:
            self._on_notification(method, params)

    async def _subscribe(self) -> None:
        """Ask to be told of changed tools; a server that refuses keeps those it has."""
        wish = {"notifications": {"toolsListChanged": True}, "_meta": self.terms.request_meta}
        delay_s = _CHANGES_PAUSE_S
        while not self.is_over:
            try:
                await self._connection.request("subscriptions/listen", wish)
            except ServerLost:
                await asyncio.wait([self._hearing], timeout=delay_s)
                delay_s = min(2 * delay_s, _MAX_LISTEN_DELAY_S)
                self._tools_changed.set()  # as they may have, while nobody listened
            except FAULTS:
                return
            else:
                return


async def _fault_in(serve: Callable[[], Awaitable[None]]) -> str | None:
    """Return how serving failed; None where it ended because the server did."""
    try:
        await serve()
    except TimeoutError:
        return "did not become ready in time"
    except ServerLost as lost:
        return str(lost)
    except (HandshakeFailed, *FAULTS) as fault:
        return f"cannot be used: {fault}"
    return None


def _report(params: dict[str, Any], run: ToolRun) -> None:
    message = params.get("message")
    run.report(
        message if isinstance(message, str) else None,
        progress=_number(params.get("progress")),
        total=_number(params.get("total")),
    )


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number else None
