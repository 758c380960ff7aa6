"""A session of an MCP client, and each of its calls, which waits for its one answer.

MCP names a call by a JSON-RPC id, which means nothing beyond one connection; so request ids are
minted here, and only an idempotency key lets a client ask for an answer again.
"""

import asyncio
import itertools
import secrets
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from typing import Any, Protocol

import msgspec

from exai.core import mcp_words
from exai.core.client_side import ClientSide
from exai.core.identity import Principal
from exai.core.outcomes import Completed
from exai.core.peer import Peer
from exai.core.replies import CallAnswered, CallProgressed, Reply, ToolsListed
from exai.core.requests import Acknowledge, CallTool, CancelTool, ListTools, Request
from exai.core.session_store import SessionRecord, SessionStore
from exai.core.tokens import digest_of
from exai.core.tool import ToolSpec

NOTHING_ABOUT = b"{}"
"""What is said about a session that only its calls need."""

_MAX_UNTOLD = 100
_NOTED_AT_ONCE = 20
_NOTED_AFTER_S = 0.05

Listener = Callable[[Reply], object]
"""Told what concerns a session as a whole, as that its tools have changed; never waits."""


class McpCalls(Protocol):
    """What MCP sessions ask of whoever handles their calls."""

    def handle_message(self, peer: Peer, request: Request) -> None:
        """Do what `peer` asks, or see to it that it is done. Never waits, never raises."""

    async def note_sent(self, peer: Peer, request_ids: list[str]) -> None:
        """Take note that results were written to a socket."""


class McpSession(Peer):
    """What outlives the connections and requests of one client.

    `about` is what a later process must know of it to go on with it; `on_wish` is called when its
    client wants to hear something else than before. It ends `ends_after_s` after
    `idle_since`, when it was seen in use last (monotonic), unless a connection or a request holds
    it, or a call is under way.
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
        about: bytes = NOTHING_ABOUT,
        is_kept: bool = False,
    ) -> None:
        self.session_id = session_id
        self.principal = principal
        self.ends_after_s = ends_after_s
        self.about = about
        self.is_kept = is_kept
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
        self._received: list[str] = []
        self._told: list[str] = []
        self._note: asyncio.TimerHandle | None = None
        boot = secrets.token_hex(6)
        self._request_ids = (f"{boot}-{number:x}" for number in itertools.count(1))

    async def keep(self) -> None:
        """Have the session known to later processes. Raises `ServiceUnavailable`."""
        digest = digest_of(secrets.token_urlsafe(16))  # nobody resumes it by a token
        await self._store.keep(
            SessionRecord(self.session_id, self.principal.name, digest, self.about)
        )
        self.is_kept = True

    def send(self, reply: Reply) -> None:
        """Tell whoever listens. Answers of an earlier process's calls rest in the ledger."""
        for listener in list(self.listeners):
            listener(reply)

    def list_tools(self) -> list[ToolSpec]:
        """Return the tools that this identity may use."""
        asked = _Question(self)
        self._calls.handle_message(asked, ListTools())
        return asked.tools

    def call(self, request: CallTool, client: ClientSide | None = None) -> "McpCall":
        """Begin a call; `client` may be asked back by the work that is done for it alone."""
        named = msgspec.structs.replace(request, request_id=next(self._request_ids))
        call = McpCall(self, named, client)
        self._calls.handle_message(call, named)
        return call

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

    def restore_wishes(self, log_level: str | None, uris: Iterable[str]) -> None:
        """Want to hear what the client wanted to hear of an earlier process."""
        self.log_level, self.subscriptions = log_level, set(uris)
        wishes = [(mcp_words.SUBSCRIBE, {"uri": uri}) for uri in self.subscriptions]
        if log_level is not None:
            wishes.append((mcp_words.SET_LEVEL, {"level": log_level}))
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

    def note_answer(self, call: "McpCall", answer: CallAnswered) -> None:
        """Let the ledger know that an answer was handed over.

        Nobody can ask again for one without an idempotency key: it is as good as acknowledged.
        """
        if answer.meta is None:
            return
        has_key = call.request.idempotency_key is not None
        noted = self._told if has_key else self._received
        noted.append(answer.request_id)
        if len(noted) >= _NOTED_AT_ONCE:
            self._note_now()
        elif self._note is None:
            loop = asyncio.get_running_loop()
            self._note = loop.call_later(_NOTED_AFTER_S, self._note_now)

    def _note_now(self) -> None:
        if self._note is not None:
            self._note.cancel()
            self._note = None
        received, self._received = self._received, []
        told, self._told = self._told, []
        if received:
            self._calls.handle_message(self, Acknowledge(received))
        if told:
            self._tasks.create_task(self._calls.note_sent(self, told))


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

    def __init__(self, session: McpSession, request: CallTool, client: ClientSide | None) -> None:
        super().__init__(session)
        self.request = request
        self.client = client
        self.answer: CallAnswered | None = None
        self._untold: deque[CallProgressed] = deque(maxlen=_MAX_UNTOLD)
        self._waiting: asyncio.Future[Any] | None = None

    def send(self, reply: Reply) -> None:
        """Take note of what is said; of too much that nobody has read the oldest is dropped."""
        if isinstance(reply, CallAnswered):
            self.answer = self.answer or reply
        elif isinstance(reply, CallProgressed):
            self._untold.append(reply)
        else:
            return
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def hear(self) -> CallProgressed | None:
        """Return what is said next; None once the answer has come, which is `answer` then.

        Whoever is cancelled meanwhile leaves the call as it is; see `leave`.
        """
        while not self._untold:
            if self.answer is not None:
                self._session.note_answer(self, self.answer)
                return None
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        return self._untold.popleft()

    def leave(self) -> None:
        """Let the call be, where its caller has gone: without a key nobody can ask for it again."""
        if self.answer is None and self.request.idempotency_key is None:
            self.take_back()

    def take_back(self) -> None:
        """Cancel the call."""
        assert self.request.request_id is not None
        self._session.take_back(self.request.request_id)
