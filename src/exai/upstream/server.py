"""One MCP server behind us: as many instances of it as its configuration says.

Everybody shares one, which is kept alive; or each principal, or each session, has one of its
own, which is started by its first call and stopped when nobody used it for a while. Knows
whom an instance serves and how many there may be; knows nothing of what its tools are.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from exai.core.config import UpstreamConfig
from exai.core.errors import QueueFull, UpstreamFailed
from exai.core.identity import Principal
from exai.core.lifecycle import PatientTaskGroup
from exai.core.outcomes import Completed
from exai.core.tool import ToolRun, upstream_scope
from exai.upstream.client_questions import EVERYTHING, ClientQuestions, declared_by
from exai.upstream.daemon_services import DaemonServices
from exai.upstream.instance import ServerInstance
from exai.upstream.server_state import ServerState
from exai.upstream.shared_by_instances import SharedByInstances
from exai.upstream.speech import Speech
from exai.upstream.wishes import Wishes


class UpstreamStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """How one server fares. `last_end` says how its last life ended.

    `state` is that of the one instance that all share; where each has its own, that of the
    one that says what the tools are, and `ready` from then on. There is either a process
    (`pid`), or a `url`, of which nothing secret is shown.
    """

    upstream: str
    state: ServerState
    pid: int | None
    url: str | None
    protocol_version: str | None
    tool_count: int
    running_count: int
    start_count: int
    """Starts, also of those that it has replaced."""
    retry_in_s: float | None
    last_end: str | None
    instance: str
    instance_count: int
    """Instances that run."""


class OwnInstance(msgspec.Struct, frozen=True, kw_only=True):
    """An instance as whom it serves may see it. Without a `session_id` it serves a principal."""

    upstream: str
    session_id: str | None
    state: ServerState
    pid: int | None
    running_count: int


class _Place:
    """An instance in the table of its server: whose it is, and when it is stopped."""

    def __init__(self, key: str, principal: str, instance: ServerInstance) -> None:
        self.key = key
        self.principal = principal
        self.instance = instance
        self.timer: asyncio.TimerHandle | None = None


_LISTING = ""
"""The key of the instance that everybody shares, or that only says what the tools are."""


class UpstreamServer:
    """A configured MCP server and its instances.

    What these are to tell, its `wishes`, outlives one that is `replaced`, by another of its name.
    """

    def __init__(
        self,
        name: str,
        config: UpstreamConfig,
        services: DaemonServices,
        on_tools: "OnTools",
        replaced: "UpstreamServer | None" = None,
    ) -> None:
        self.name = name
        self.server_version = ""
        self._services = services
        self._on_tools = on_tools
        self._shared = SharedByInstances(
            name,
            config,
            Speech(name, services.events, services.clock),
            self._take_tools,
            self._list_again,
        )
        self._tasks = PatientTaskGroup()
        self._living_count = 0
        self._has_room = asyncio.Event()
        self._is_over = False
        self._rests = asyncio.Event()
        self._gone_start_count = replaced.statistics().start_count if replaced else 0
        self._places: dict[str, _Place] = {}
        self._by_instance: dict[ServerInstance, _Place] = {}
        is_like = replaced is not None and replaced.config.instance == config.instance
        self.wishes: dict[str, Wishes] = dict(replaced.wishes) if replaced and is_like else {}
        self._first = self._new_lister()

    @property
    def config(self) -> UpstreamConfig:
        """How it is run and offered now."""
        return self._shared.config

    @property
    def had_first_start(self) -> bool:
        """Whether the first start has succeeded or failed."""
        return self._first.had_first_start

    async def run(self) -> None:
        """Keep instances alive that are wanted until cancelled."""
        async with self._tasks:
            self._open(_Place(_LISTING, "", self._first))
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self._is_over = True

    def adjust(self, config: UpstreamConfig) -> None:
        """Let this be its configuration from now on, which differs in what needs no restart.

        Times count anew from now; a start that is under way keeps its own.
        """
        self._shared.config = config
        self._has_room.set()
        for place in list(self._places.values()):
            if not place.instance.is_in_use:
                self._note_unused(place.instance)

    def end(self) -> None:
        """Let nobody wait for it any more, also where it never came to run."""
        self._is_over = True
        self._first.end()

    async def wait_idle(self) -> None:
        """Wait until it has no call to work on."""
        while any(place.instance.running_count for place in self._places.values()):
            self._rests.clear()
            await self._rests.wait()

    async def wait_first_start(self) -> None:
        """Wait until the first start has succeeded or failed."""
        await self._first.wait_first_start()

    async def call(
        self, tool: str, arguments: dict[str, Any], run: ToolRun, *, idempotent: bool = False
    ) -> Completed:
        """Call a tool; waits for the start that is under way, or next.

        When cancelled, tells the server, and returns when its work has ended or can no
        longer be waited for. Raises `UpstreamFailed`, retryable where the server cannot
        have got the request or the tool is `idempotent`; `ToolFailed`; `ResultTooLarge`;
        `QueueFull` where there may be no more instances, and all are in use.
        """
        instance = await self._wait_instance(run)
        return await instance.call(tool, arguments, run, idempotent=idempotent)

    async def relay(self, method: str, params: dict[str, Any], run: ToolRun) -> Completed:
        """Make a request that changes nothing, whose result stays whole; raises as `call` does."""
        return await (await self._wait_instance(run)).relay(method, params, run)

    async def _wait_instance(self, run: ToolRun) -> ServerInstance:
        run.may_have_begun = False
        if self.config.instance != "shared":
            await self.wait_first_start()
        return self._instance_for(run)

    async def watch(self, uri: str, run: ToolRun) -> None:
        """Have the session of a run told of a resource's updates; raises as `call` does.

        Raises `ToolFailed` where the server does not agree.
        """
        await (await self._wait_instance(run)).watch(uri, run)

    def unwatch(self, uri: str, run: ToolRun) -> None:
        """Have the session of a run told no more of a resource's updates."""
        key = self._key_of(run)
        if (place := self._places.get(key)) is not None:
            place.instance.unwatch(uri, run.session_id)
        elif key in self.wishes:
            self.wishes[key].unwatch(uri, run.session_id)
            self._forget_wishes(key)

    def note_log_levels(self) -> None:
        """Have every instance write to its log what is wanted of it now."""
        for place in self._places.values():
            place.instance.wishes.touch()

    def end_session(self, session_id: str) -> None:
        """Stop what works for this session alone, which has ended, and tell it nothing more."""
        for each in list(self._places.values()):
            each.instance.end_session(session_id)
        for key, wishes in list(self.wishes.items()):
            wishes.end_session(session_id)
            self._forget_wishes(key)
        if self.config.instance == "session" and (place := self._places.get(session_id)):
            self._dismiss(place, "its session ended")

    def statistics(self) -> UpstreamStatistics:
        """Return how the server fares now."""
        first, terms = self._first, self._first.terms
        instances = [place.instance for place in self._places.values()]
        is_ready = self.config.instance != "shared" and first.has_listed and not self._is_over
        return UpstreamStatistics(
            upstream=self.name,
            state=ServerState.READY if is_ready else first.state,
            pid=first.pid,
            url=self._shared.shown_url,
            protocol_version=terms.protocol_version if terms else None,
            tool_count=self._shared.tool_count,
            running_count=sum(instance.running_count for instance in instances),
            start_count=self._gone_start_count + sum(each.start_count for each in instances),
            retry_in_s=None if is_ready else first.retry_in_s,
            last_end=None if is_ready else first.last_end,
            instance=self.config.instance,
            instance_count=sum(instance.terms is not None for instance in instances),
        )

    def instances_of(self, principal: Principal) -> Iterator[OwnInstance]:
        """Yield the instances that serve this principal alone, or one of its sessions."""
        for place in self._places.values():
            if place.key != _LISTING and place.principal == principal.name:
                yield OwnInstance(
                    upstream=self.name,
                    session_id=place.key if self.config.instance == "session" else None,
                    state=place.instance.state,
                    pid=place.instance.pid,
                    running_count=place.instance.running_count,
                )

    def _instance_for(self, run: ToolRun) -> ServerInstance:
        """Return whoever is to do this work; the caller uses it in this turn of the loop."""
        if self._is_over:
            raise UpstreamFailed(f"{self.name} was stopped", retryable=True)
        if self.config.instance == "shared":
            return self._first
        key = self._key_of(run)
        place = self._places.get(key)
        if place is None:
            self._make_room()
            place = _Place(key, run.principal.name, self._new_instance(run))
            self._open(place)
        self._touch(place)
        return place.instance

    def _patience_s(self) -> float:
        """Return how long a client has for a question that no call waits for."""
        return self.config.start_timeout_s

    def _key_of(self, run: ToolRun) -> str:
        keys = {"shared": _LISTING, "principal": run.principal.name, "session": run.session_id}
        return keys[self.config.instance]

    def _new_instance(self, run: ToolRun) -> ServerInstance:
        client = run.client if self.config.instance == "session" else None
        questions = ClientQuestions(client, declared_by(client), self._patience_s)
        levels, key = self._services.log_levels, self._key_of(run)
        of_whom = levels.of_principal if self.config.instance == "principal" else levels.of_session
        wishes = self._wishes_of(key, partial(of_whom, key))
        return ServerInstance(
            self._shared, self._services, questions, self._note_unused, wishes=wishes
        )

    def _wishes_of(self, key: str, log_level: Callable[[], str | None]) -> Wishes:
        """Return what an instance is to tell; those of a server that was replaced are kept."""
        return self.wishes.setdefault(key, Wishes(log_level))

    def _forget_wishes(self, key: str) -> None:
        """Forget what nobody is there to tell, where there is nothing that it should tell."""
        is_of_nobody = key != _LISTING and key not in self._places
        if is_of_nobody and not self.wishes[key].uris:
            del self.wishes[key]

    def _new_lister(self) -> ServerInstance:
        """Return the instance that everybody shares, or that only says what there is."""
        asks = self.config.instance == "session"
        return ServerInstance(
            self._shared,
            self._services,
            ClientQuestions(None, EVERYTHING if asks else {}, self._patience_s),
            self._note_unused,
            is_kept=self.config.instance == "shared",
            lists=True,
            wishes=self._wishes_of(_LISTING, self._services.log_levels.of_all),
        )

    def _list_again(self) -> None:
        """Have it said anew what there is: what one of its own has is for its owner to see."""
        place = self._places.get(_LISTING)
        if place is not None:
            place.instance.list_again()
            return
        with suppress(QueueFull):  # then it waits for one to end
            self._make_room()
        self._open(_Place(_LISTING, "", self._new_lister()))

    def _open(self, place: _Place) -> None:
        self._places[place.key] = self._by_instance[place.instance] = place
        task = self._tasks.create_task(self._live(place.instance))
        task.add_done_callback(lambda _: place.instance.end())
        place.instance.task = task

    async def _live(self, instance: ServerInstance) -> None:
        """Let an instance live once one of those before it has really ended, if it must."""
        while self._living_count >= self.config.max_instances:
            self._has_room.clear()
            await self._has_room.wait()
        self._living_count += 1
        try:
            await instance.run()
        finally:
            self._living_count -= 1
            self._has_room.set()

    def _make_room(self) -> None:
        """Stop the least recently used instance where there may be no more. Raises `QueueFull`."""
        if len(self._places) < self.config.max_instances:
            return
        unused = (place for place in self._places.values() if not place.instance.is_in_use)
        if (place := next(unused, None)) is None:
            raise QueueFull(
                f"all {len(self._places)} instances of {self.name} are in use",
                retry_after_s=_RETRY_AFTER_S,
                scope=upstream_scope(self.name),
            )
        self._dismiss(place, _MAKES_ROOM)

    def _touch(self, place: _Place) -> None:
        """Let a place count as the most recently used."""
        self._places[place.key] = self._places.pop(place.key)
        if place.timer is not None:
            place.timer.cancel()

    def _note_unused(self, instance: ServerInstance) -> None:
        self._rests.set()
        place = self._by_instance.get(instance)
        if place is None or self.config.instance == "shared":
            return
        self._touch(place)
        is_one_too_many = len(self._places) > self.config.max_instances
        if is_one_too_many and not place.instance.is_in_use:
            self._dismiss(place, _MAKES_ROOM)
        else:
            self._stop_later(place, self.config.idle_stop_s)

    def _stop_later(self, place: _Place, wait_s: float) -> None:
        if self.config.idle_stop_s:
            loop = asyncio.get_running_loop()
            place.timer = loop.call_later(wait_s, self._stop_idle, place)

    def _stop_idle(self, place: _Place) -> None:
        """Stop an instance; one that is held back is remembered for as long as it is."""
        if self._by_instance.get(place.instance) is not place or place.instance.is_in_use:
            return
        if place.instance.retry_in_s:
            self._stop_later(place, place.instance.retry_in_s)
        else:
            self._dismiss(place, "is idle")

    def _dismiss(self, place: _Place, reason: str) -> None:
        if place.timer is not None:
            place.timer.cancel()
        del self._places[place.key]
        del self._by_instance[place.instance]
        self._forget_wishes(place.key)
        self._gone_start_count += place.instance.start_count
        place.instance.stop(reason)

    async def _take_tools(self, tools: list[dict[str, Any]], server_version: str) -> None:
        self._shared.tool_count = len(tools)
        self.server_version = server_version
        await self._on_tools(self, tools)


_RETRY_AFTER_S = 1.0
_MAKES_ROOM = "makes room for another"

OnTools = Callable[[UpstreamServer, list[dict[str, Any]]], Awaitable[None]]
"""Told of a server's tools, as it describes them, before it is ready and at each change."""
