"""One life of an MCP server: from its start, over the handshake, to its end.

Knows what a running server can be asked; knows nothing of earlier lives or of the next.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from exai.core.errors import ToolFailed
from exai.core.mcp_words import LISTEN_ACKNOWLEDGED
from exai.core.tool import ToolRun
from exai.upstream.carrier import Carrier
from exai.upstream.handshake import NO_CAPABILITIES, Handshake, HandshakeFailed, Terms
from exai.upstream.json_rpc import (
    FAULTS,
    ErrorAnswer,
    JsonRpcConnection,
    OnNotification,
    ServerLost,
)
from exai.upstream.listing import (
    KINDS_CHANGED_BY,
    TOOLS,
    Description,
    Kind,
    list_all,
)
from exai.upstream.request_params import request_params
from exai.upstream.server_requests import OnRequest
from exai.upstream.speech import Speech
from exai.upstream.subscriber import Subscriber
from exai.upstream.wishes import Wishes

_CHANGES_PAUSE_S = 1.0
_MESSAGE_LENGTH = 1000


class ServerLife:
    """A server that runs. `shake_hands` comes before everything else that is asked of it.

    It is kept to the `wishes`. `on_notification` is told what concerns no request, `on_request`
    answers what it asks.
    """

    _hearing: asyncio.Task[str]
    _keeping: asyncio.Task[None] | None = None

    def __init__(
        self,
        name: str,
        carrier: Carrier,
        speech: Speech,
        max_result_bytes: int,
        *,
        wishes: Wishes | None = None,
        on_notification: OnNotification | None = None,
        on_request: OnRequest | None = None,
    ) -> None:
        self.pid = carrier.pid
        self.ready_at: float | None = None
        self.terms = Terms()
        self._name = name
        self._speech = speech
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
        self._wishes = wishes or Wishes()
        self._subscriber = Subscriber(self._connection, self._wishes, self.suppose_changes)
        self._changed: dict[Kind, None] = {}
        self._has_changed = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """Whether the server can be asked nothing any more."""
        return self._connection.is_over

    async def run(self, serve: Callable[[], Awaitable[None]]) -> str:
        """Hear the server while `serve` runs, then stop it; return how its life ended."""
        async with self._tasks as tasks:
            tasks.create_task(self._carrier.attend())
            self._hearing = tasks.create_task(self._connection.run())
            self._hearing.add_done_callback(lambda _: self._has_changed.set())
            try:
                fault = await _fault_in(serve)
            finally:
                has_ended = self.is_over
                if self._keeping is not None:
                    self._keeping.cancel()
                await self._carrier.stop()
        return self._hearing.result() if has_ended or fault is None else fault

    async def shake_hands(
        self,
        handshake: Handshake,
        *,
        discover: bool,
        capabilities: Mapping[str, Any] = NO_CAPABILITIES,
    ) -> None:
        """Agree on how to speak: as a client that has `capabilities`; raises `HandshakeFailed`."""
        self.terms = await handshake.negotiate(
            self._connection, discover=discover, capabilities=capabilities
        )
        self._keeping = self._tasks.create_task(self._subscriber.run(self.terms))

    async def list(self, kind: Kind) -> list[Description] | None:
        """Return all of a kind as the server describes it; raises as a request does.

        None where the server says that it has no such thing; of tools it need not say so.
        """
        if kind is not TOOLS and not self.terms.offers(kind.capability):
            return None
        listed = await list_all(self._connection, self.terms, kind)
        if kind is not TOOLS:
            return listed
        unusable = await self._carrier.know_tools(listed)
        for name, fault in unusable.items():
            self._speech.say(f"[its tool {name} is left out: {fault}]".encode())
        return [tool for tool in listed if tool.get("name") not in unusable]

    async def wait_changed(self) -> tuple[Kind, ...]:
        """Wait until lists are others, and for a while for more of it; none where it ended."""
        await self._has_changed.wait()
        await asyncio.wait([self._hearing], timeout=_CHANGES_PAUSE_S)
        self._has_changed.clear()
        changed, self._changed = tuple(self._changed), {}
        return () if self.is_over else changed

    async def ask(
        self,
        method: str,
        params: dict[str, Any],
        run: ToolRun,
        cancel_grace_s: float,
        given: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Make one request for a call, `given` what the server had asked for; return its result.

        Raises `ToolFailed`, and what a request raises but for `ErrorAnswer`.
        """
        try:
            return await self._connection.request(
                method,
                request_params(params, given or {}, run, self.terms, self._wishes.log_level()),
                on_progress=lambda params: _report(params, run),
                cancel_grace_s=cancel_grace_s,
            )
        except ErrorAnswer as error:
            data = {} if error.data is None else {"jsonrpc_data": error.data}
            message = error.message[:_MESSAGE_LENGTH]
            raise ToolFailed(message, jsonrpc_code=error.code, **data) from None

    def _take_notification(self, method: str, params: dict[str, Any]) -> None:
        if method in KINDS_CHANGED_BY:
            self._note_changed(KINDS_CHANGED_BY[method])
        elif method == LISTEN_ACKNOWLEDGED:
            self._subscriber.take_agreement(params)
        if self._on_notification is not None:
            self._on_notification(method, params)

    def _note_changed(self, kinds: Iterable[Kind]) -> None:
        self._changed.update(dict.fromkeys(kinds))
        self._has_changed.set()

    def suppose_changes(self) -> None:
        """Take every list for another one, where nobody can tell."""
        for kinds in KINDS_CHANGED_BY.values():
            self._note_changed(kinds)


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
