"""A session of an MCP client, and each of its calls, which waits for its one answer.

MCP names a call by a JSON-RPC id, which means nothing beyond one connection; so request ids are
minted here, and only an idempotency key lets a client ask for an answer again.
"""

import asyncio
import itertools
import secrets
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol

import msgspec

from exai.connections.handed_over import HandedOver
from exai.core import mcp_words
from exai.core.client_side import ClientSide
from exai.core.identity import Principal
from exai.core.outcomes import Completed
from exai.core.peer import Peer
from exai.core.replies import CallAnswered, CallProgressed, Reply, ToolsListed
from exai.core.requests import (
    Acknowledge,
    CallTool,
    CancelTool,
    GetResult,
    ListTools,
    Request,
)
from exai.core.session_store import SessionRecord, SessionStore
from exai.core.tokens import digest_of
from exai.core.tool import ToolSpec

_NOTHING_ABOUT = b"{}"
_MAX_UNTOLD = 100
_STREAMS_CAN_BE_RESUMED_SINCE = "2025-11-25"

Listener = Callable[[Reply], object]
"""Told what concerns a session as a whole, as that its tools have changed; never waits."""


class McpCalls(Protocol):
    """What MCP sessions ask of whoever handles their calls."""

    def handle_message(self, peer: Peer, request: Request) -> None:
        """Do what `peer` asks, or see to it that it is done. Never waits, never raises."""

    async def note_sent(self, peer: Peer, request_ids: list[str]) -> None:
        """Take note that results were written to a socket."""


class ClientFacts(msgspec.Struct, frozen=True):
    """What a later process must know of a client to go on with its session.

    `client` are the params of its `initialize`; `log_level` and `uris`, which resources it watches,
    are what it wants to hear.
    """

    protocol_version: str
    client: dict[str, Any]
    log_level: str | None = None
    uris: tuple[str, ...] = ()


class McpSession(Peer):
    """What outlives the connections and requests of one client.

    `facts` are None where only calls need the session; `on_wish` is called when its client wants
    to hear something else than before. It ends `ends_after_s` after `idle_since`, when it was seen
    in use last (monotonic), unless a connection or a request holds it, or a call is under way.
    """

    def __init__(
        self,
        session_id: str,
        principal: Principal,
        calls: McpCalls,
        store: SessionStore,
        tasks: asyncio.TaskGroup,
        *,
        ends_after_s: float,
    ) -> None:
        self.session_id = session_id
        self.principal = principal
        self.ends_after_s = ends_after_s
        self.facts: ClientFacts | None = None
        self.is_kept = False
        self.acknowledges = self.comes_back = False
        self.has_ended = False
        self.client: ClientSide | None = None
        self.log_level: str | None = None
        self.subscriptions: set[str] = set()
        self.on_wish: Callable[[], object] = lambda: None
        self.listeners: set[Listener] = set()
        self.holder_count = 0
        self.idle_since = 0.0
        self._calls = calls
        self._store = store
        self._tasks = tasks
        self._watchers: Counter[str] = Counter()
        self._asked_again: set[McpCall] = set()
        self._handed_over = HandedOver(self._acknowledge, self._note_sent)
        boot = secrets.token_hex(6)
        self._request_ids = (f"{boot}-{number:x}" for number in itertools.count(1))

    def know_client(self, facts: ClientFacts) -> None:
        """Take note of what a later process must know, once it is kept."""
        self.facts, self.is_kept = facts, False
        self.comes_back = facts.protocol_version >= _STREAMS_CAN_BE_RESUMED_SINCE

    async def keep(self) -> None:
        """Have the session known to later processes. Raises `ServiceUnavailable`."""
        digest = digest_of(secrets.token_urlsafe(16))  # nobody resumes it by a token
        about = _NOTHING_ABOUT if self.facts is None else msgspec.json.encode(self.facts)
        await self._store.keep(SessionRecord(self.session_id, self.principal.name, digest, about))
        self.is_kept = True

    def restore(self, record: SessionRecord) -> None:
        """Be the session of an earlier process. Raises `MsgspecError` for another version's facts.

        What its client wanted to hear is wanted at `restore_wishes`.
        """
        if record.about != _NOTHING_ABOUT:
            self.know_client(msgspec.json.decode(record.about, type=ClientFacts))
        self.is_kept = True

    def send(self, reply: Reply) -> None:
        """Tell whoever listens, or has asked again for the answer to an earlier process's call."""
        for listener in list(self.listeners):
            listener(reply)
        for call in self._asked_again:
            call.send(reply)

    def list_tools(self) -> list[ToolSpec]:
        """Return the tools that this identity may use."""
        asked = _Question(self)
        self._calls.handle_message(asked, ListTools())
        return asked.tools

    def mint_request_id(self) -> str:
        """Return what no call of this session was named by, in any process."""
        return next(self._request_ids)

    def call(
        self,
        request: CallTool,
        client: ClientSide | None = None,
        *,
        request_id: str | None = None,
        comes_back: bool = False,
    ) -> "McpCall":
        """Begin a call.

        `client` may be asked back by the work that is done for it alone; one that `comes_back`
        may ask for the answer again by `request_id`, which was minted for it.
        """
        request = msgspec.structs.replace(request, request_id=request_id or self.mint_request_id())
        can_be_asked_for = comes_back or request.idempotency_key is not None
        noted = self._handed_over
        note = noted.note_sent if can_be_asked_for else noted.note_received
        call = McpCall(self, request, client, note, comes_back=comes_back)
        self._calls.handle_message(call, request)
        return call

    def note_written(self, request_id: str) -> None:
        """Note that an answer was written; its client may miss it, and would soon ask again."""
        self._handed_over.note_written(request_id)

    @contextmanager
    def asked_again(self, request: CallTool) -> "Iterator[McpCall]":
        """Hear of a call that this, or an earlier process, took on under the request's name."""
        assert request.request_id is not None
        call = McpCall(self, request, None, self._handed_over.note_sent, comes_back=True)
        self._asked_again.add(call)
        try:
            self._calls.handle_message(call, GetResult(request.request_id))
            yield call
        finally:
            self._asked_again.discard(call)

    def take_back(self, request_id: str) -> None:
        """Cancel a call."""
        self._calls.handle_message(self, CancelTool(request_id))

    def note_wish(self, method: str, params: dict[str, Any]) -> None:
        """Take note of what the client wants to hear from now on: it is what it said last."""
        match method, params:
            case mcp_words.SET_LEVEL, {"level": str() as level}:
                self.log_level = level
            case mcp_words.SUBSCRIBE, {"uri": str() as uri}:
                self.subscriptions.add(uri)
            case mcp_words.UNSUBSCRIBE, {"uri": str() as uri}:
                self.subscriptions.discard(uri)
            case _:
                return
        self.on_wish()

    def restore_wishes(self) -> None:
        """Want to hear what the client wanted to hear of an earlier process."""
        assert self.facts is not None
        self.log_level, self.subscriptions = self.facts.log_level, set(self.facts.uris)
        wishes = [(mcp_words.SUBSCRIBE, {"uri": uri}) for uri in self.subscriptions]
        if self.log_level is not None:
            wishes.append((mcp_words.SET_LEVEL, {"level": self.log_level}))
        for method, params in wishes:
            self._tasks.create_task(self._succeeds(method, params))

    @asynccontextmanager
    async def watching(self, uris: Collection[str]) -> AsyncIterator[set[str]]:
        """Hear of changes of these resources while the context is open: of those that it yields.

        Several may watch the same one: only the last lets it go.
        """
        self._watchers.update(uris)
        try:
            yield {uri for uri in uris if await self._succeeds(mcp_words.SUBSCRIBE, {"uri": uri})}
        finally:
            self._watchers.subtract(uris)
            for uri in [uri for uri in uris if not self._watchers[uri]]:
                del self._watchers[uri]
                self._tasks.create_task(self._succeeds(mcp_words.UNSUBSCRIBE, {"uri": uri}))

    async def _succeeds(self, method: str, params: dict[str, Any]) -> bool:
        """Make a call of one of MCP's methods; tell whether it succeeded."""
        call = self.call(CallTool(name=method, arguments=params))
        try:
            while await call.hear() is not None:
                pass
        except BaseException:
            call.leave()
            raise
        return call.answer is not None and isinstance(call.answer.outcome, Completed)

    def _acknowledge(self, request_ids: list[str]) -> None:
        self._calls.handle_message(self, Acknowledge(request_ids))

    def _note_sent(self, request_ids: list[str]) -> None:
        self._tasks.create_task(self._calls.note_sent(self, request_ids))


class _OfSession(Peer):
    """A peer that is part of a session."""

    def __init__(self, session: McpSession) -> None:
        self._session = session
        self.session_id = session.session_id
        self.principal = session.principal
        self.acknowledges = self.comes_back = False
        self.client: ClientSide | None = None

    @property
    def has_ended(self) -> bool:  # type: ignore[override]
        """Whether the session is over."""
        return self._session.has_ended

    @property
    def is_kept(self) -> bool:  # type: ignore[override]
        """Whether a later process will know the session."""
        return self._session.is_kept

    async def keep(self) -> None:
        """Have the session known to later processes. Raises `ServiceUnavailable`."""
        await self._session.keep()


class _Question(_OfSession):
    """Asks for the tools, which is answered at once."""

    tools: list[ToolSpec]

    def send(self, reply: Reply) -> None:
        assert isinstance(reply, ToolsListed)
        self.tools = reply.tools


class McpCall(_OfSession):
    """One call, as the peer that it is for: hears how it fares, until its answer."""

    def __init__(
        self,
        session: McpSession,
        request: CallTool,
        client: ClientSide | None,
        note_handed_over: Callable[[str], object],
        *,
        comes_back: bool,
    ) -> None:
        super().__init__(session)
        self.request = request
        self.client = client
        self.comes_back = comes_back
        self._note_handed_over = note_handed_over
        self.answer: CallAnswered | None = None
        self._untold: deque[CallProgressed] = deque(maxlen=_MAX_UNTOLD)
        self._waiting: asyncio.Future[Any] | None = None

    def send(self, reply: Reply) -> None:
        """Take note of what is said; of too much that nobody has read the oldest is dropped."""
        match reply:
            case CallAnswered(request_id=self.request.request_id):
                self.answer = self.answer or reply
            case CallProgressed(request_id=self.request.request_id):
                self._untold.append(reply)
            case _:
                return
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def hear(self) -> CallProgressed | None:
        """Return what is said next; None once the answer has come, which is `answer` then.

        Whoever is cancelled meanwhile leaves the call as it is; see `leave`.
        """
        while not self._untold:
            if self.answer is not None:
                if self.answer.meta is not None:
                    self._note_handed_over(self.answer.request_id)
                return None
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        return self._untold.popleft()

    def leave(self) -> None:
        """Let the call be, where its caller has gone and nobody can ask for it again."""
        has_key = self.request.idempotency_key is not None
        if self.answer is None and not has_key and not self.comes_back:
            self.take_back()

    def take_back(self) -> None:
        """Cancel the call."""
        assert self.request.request_id is not None
        self._session.take_back(self.request.request_id)
