"""Having a running server tell what is wished for: by a request for each, or by one for all.

Servers of before 2026 are asked `resources/subscribe` and `logging/setLevel`; newer ones by one
long `subscriptions/listen`, which is made anew for other wishes. Knows the two ways of one life;
knows nothing of who wishes.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from exai.core.mcp_words import (
    INVALID_PARAMS,
    LIST_CHANGED,
    LISTEN,
    LISTEN_FLAGS,
    LISTEN_URIS,
    METHOD_NOT_FOUND,
    PROMPTS_CHANGED,
    RESOURCES_CHANGED,
    SET_LEVEL,
    SUBSCRIBE,
    TOOLS_CHANGED,
    UNSUBSCRIBE,
    Era,
)
from exai.upstream.handshake import Terms
from exai.upstream.json_rpc import (
    FAULTS,
    ErrorAnswer,
    JsonRpcConnection,
    ServerLost,
    StatusAnswer,
)
from exai.upstream.wishes import Wishes

_PATIENCE_S = 10.0
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0

_NEWS = {
    "tools": LISTEN_FLAGS[TOOLS_CHANGED],
    "resources": LISTEN_FLAGS[RESOURCES_CHANGED],
    "prompts": LISTEN_FLAGS[PROMPTS_CHANGED],
}


class Subscriber:
    """Keeps one life of a server to the wishes, while it runs.

    `on_gap` is told where news may have been missed.
    """

    def __init__(
        self, connection: JsonRpcConnection, wishes: Wishes, on_gap: Callable[[], object]
    ) -> None:
        self._connection = connection
        self._wishes = wishes
        self._on_gap = on_gap
        self._terms = Terms()
        self._told: dict[str, Exception | None] = {}
        """Per resource that the server was asked for, why it tells nothing; None: it does."""
        self._told_level: str | None = None
        self._stream: _Stream | None = None
        self._pause_s = _FIRST_PAUSE_S

    async def run(self, terms: Terms) -> None:
        """Keep the server to the wishes until it ends, or until cancelled."""
        self._terms = terms
        self._wishes.begin_anew()
        async with asyncio.TaskGroup() as streams:
            while not self._connection.is_over:
                await self._wishes.wait_changed()
                try:
                    if terms.era is Era.MODERN:
                        await self._settle_stream(streams)
                    else:
                        await self._settle_requests()
                except ServerLost:
                    return

    def take_agreement(self, params: dict[str, Any]) -> None:
        """Hear what the server agrees to tell, as it says when a stream begins."""
        agreed = params.get("notifications")
        if self._stream is not None and isinstance(agreed, dict):
            self._stream.begin(agreed.get(LISTEN_URIS))

    async def _settle_requests(self) -> None:
        """Ask for what is wished for and not told, and end what is told and not wished for."""
        await self._settle_level()
        while (uri := next(filter(self._is_to_ask, self._wishes.uris), None)) is not None:
            fault = self._told[uri] = await self._ask(SUBSCRIBE, {"uri": uri})
            if fault is None:
                self._wishes.agree(uri)
            else:
                self._wishes.refuse(uri, fault)
        for uri in self._told.keys() - self._wishes.uris:
            if self._told.pop(uri) is None:
                await self._ask(UNSUBSCRIBE, {"uri": uri})
                self._wishes.touch()  # somebody may have come for it meanwhile

    def _is_to_ask(self, uri: str) -> bool:
        if not self._terms.offers("resources", "subscribe"):
            return False
        return uri not in self._told or self._wishes.is_waited_for(uri)

    async def _settle_level(self) -> None:
        level = self._wishes.log_level()
        if level not in (None, self._told_level) and self._terms.offers("logging"):
            self._told_level = level
            await self._ask(SET_LEVEL, {"level": level})

    async def _ask(self, method: str, params: dict[str, Any]) -> Exception | None:
        """Make a request, for a bounded time; return how it failed. Raises `ServerLost`."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._connection.request(method, params, cancel_grace_s=0.0)
        except ServerLost as lost:
            if self._connection.is_over:
                raise
            return lost
        except TimeoutError:
            return ErrorAnswer(METHOD_NOT_FOUND, f"the server did not answer {method} in time")
        except FAULTS as fault:
            return fault
        return None

    async def _settle_stream(self, streams: asyncio.TaskGroup) -> None:
        """Have one stream bring all that is wished for; it takes over before another ends."""
        if self._stream is not None and self._stream.is_over:
            await self._wait_out(self._stream)
        uris = self._wishes.uris if self._terms.offers("resources", "subscribe") else frozenset()
        before = self._stream
        if before is not None and before.is_good_for(uris, self._wishes):
            return
        wanted, self._stream = self._wanted(uris), None
        if wanted:
            self._stream = _Stream(uris)
            self._stream.task = streams.create_task(self._listen(self._stream, wanted))
            await self._stream.wait_begun()
            self._tell_wishes(self._stream, uris)
        if before is not None and before.task is not None:
            before.task.cancel()

    async def _wait_out(self, stream: "_Stream") -> None:
        """Let time pass after a stream that has ended, unless somebody waits, or it was refused."""
        if stream.is_worth_repeating:
            self._stream = None
            if stream.age_s > _LONGEST_PAUSE_S:
                self._pause_s = _FIRST_PAUSE_S
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s):
                    while not self._wishes.has_waiting:
                        await self._wishes.wait_changed()
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
            self._wishes.begin_anew()
            self._on_gap()

    def _wanted(self, uris: Iterable[str]) -> dict[str, Any]:
        wanted: dict[str, Any] = {
            news: True
            for capability, news in _NEWS.items()
            if self._terms.offers(capability, LIST_CHANGED)
        }
        if watched := sorted(uris):
            wanted[LISTEN_URIS] = watched
        return wanted

    async def _listen(self, stream: "_Stream", wanted: dict[str, Any]) -> None:
        params = {"notifications": wanted, "_meta": self._terms.request_meta}
        try:
            await self._connection.request(LISTEN, params, cancel_grace_s=0.0)
        except FAULTS as fault:
            stream.end(fault)
        else:
            stream.end(None)
        self._wishes.touch()

    def _tell_wishes(self, stream: "_Stream", uris: Iterable[str]) -> None:
        for uri in uris:
            if uri in stream.agreed:
                self._wishes.agree(uri)
            else:
                why = stream.fault or ErrorAnswer(
                    INVALID_PARAMS, "the server does not tell of this resource"
                )
                if not isinstance(why, ServerLost):
                    self._wishes.refuse(uri, why)


class _Stream:
    """One `subscriptions/listen`, from its request to its end."""

    def __init__(self, uris: frozenset[str]) -> None:
        self.uris = uris
        self.agreed: frozenset[str] = frozenset()
        self.fault: Exception | None = None
        self.is_over = False
        self.task: asyncio.Task[None] | None = None
        self._begun = asyncio.Event()
        self._asked_at = asyncio.get_running_loop().time()

    @property
    def age_s(self) -> float:
        """How long ago it was asked for."""
        return asyncio.get_running_loop().time() - self._asked_at

    @property
    def is_worth_repeating(self) -> bool:
        """Whether the same request may well succeed: it ended, or broke, and was not refused."""
        if isinstance(self.fault, StatusAnswer):
            return self.fault.retryable
        return not isinstance(self.fault, ErrorAnswer)

    def is_good_for(self, uris: frozenset[str], wishes: Wishes) -> bool:
        """Tell whether nothing is to be gained by another stream."""
        is_refused = any(wishes.is_waited_for(uri) for uri in uris - self.agreed)
        return self.uris == uris and not is_refused

    def begin(self, agreed: Any) -> None:
        """Take note of what the server agrees to tell."""
        if isinstance(agreed, list):
            self.agreed = frozenset(uri for uri in agreed if isinstance(uri, str))
        self._begun.set()

    def end(self, fault: Exception | None) -> None:
        """Take note of the end, and of its reason."""
        self.fault, self.is_over = fault, True
        self._begun.set()

    async def wait_begun(self) -> None:
        """Wait until the server has agreed, or refused, or for so long."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._begun.wait()
        except TimeoutError:
            self.fault = ErrorAnswer(METHOD_NOT_FOUND, "the server did not agree in time")
