"""One instance of an MCP server: started when it is wanted, and again after it ended.

    IDLE -> STARTING -> READY -> BACKING_OFF (or GAVE_UP, after too many short lives) -> IDLE …

Knows an instance's lives and who waits for the next one; knows nothing of other instances,
of what its tools are, nor of who may call them.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from exai.core.errors import UpstreamFailed
from exai.core.events import (
    UpstreamDied,
    UpstreamGaveUp,
    UpstreamStarted,
    UpstreamStopped,
)
from exai.core.mcp_words import CALL_TOOL
from exai.core.outcomes import Completed
from exai.core.tool import ToolRun
from exai.upstream.call_failures import CALL_FAULTS, can_move_on, upstream_failed
from exai.upstream.carrier import CarrierUnusable
from exai.upstream.client_questions import ClientQuestions
from exai.upstream.daemon_services import DaemonServices
from exai.upstream.handshake import HandshakeFailed, Terms
from exai.upstream.hearing import Hearing
from exai.upstream.input_rounds import ask_in_rounds
from exai.upstream.json_rpc import FAULTS
from exai.upstream.listing import KINDS_BESIDE_TOOLS, TOOLS, Kind
from exai.upstream.server_life import ServerLife
from exai.upstream.server_state import ServerState
from exai.upstream.shared_by_instances import SharedByInstances
from exai.upstream.tool_result import read_result, read_tool_result
from exai.upstream.wishes import Wishes

T = TypeVar("T")


class ServerInstance:
    """An instance and its lives.

    One that `is_kept` is alive whether somebody uses it or not; another is started by its
    first call. One that `lists` is also kept until it has said what its tools are. `on_unused`
    is told when its last user has left.
    """

    def __init__(
        self,
        shared: SharedByInstances,
        services: DaemonServices,
        questions: ClientQuestions,
        on_unused: "Callable[[ServerInstance], None]",
        *,
        is_kept: bool = False,
        lists: bool = False,
        wishes: Wishes | None = None,
    ) -> None:
        self.questions = questions
        self.wishes = wishes or Wishes()
        self.start_count = self.running_count = 0
        self.state = ServerState.STARTING
        self.last_end: str | None = None
        self.task: asyncio.Task[None] | None = None
        self._shared = shared
        self._services = services
        self._on_unused = on_unused
        self._hearing = Hearing(shared.name, self.wishes, services.listener, services.clock)
        is_started_here = shared.config.url is None
        restart = services.restart
        self._restart = restart if is_started_here else restart.for_others()
        self._is_kept = is_kept
        self._lists = lists
        self._life: ServerLife | None = None
        self._discovers = True
        self._user_count = self._waiting_count = 0
        self._wanted = asyncio.Event()
        self._start_over = asyncio.Event()
        self._first_start_over = asyncio.Event()
        self._has_listed = False
        self._retry_at: float | None = None

    @property
    def terms(self) -> Terms | None:
        """How to speak with it; None while it does not run."""
        return self._life.terms if self._life else None

    @property
    def pid(self) -> int | None:
        """The process that runs now, if one does."""
        return self._life.pid if self._life else None

    @property
    def is_in_use(self) -> bool:
        """Whether somebody waits for it, works with it or watches one of its resources, or it has
        not yet listed its tools.
        """
        return self._user_count > 0 or bool(self.wishes.uris) or self._must_list

    @property
    def had_first_start(self) -> bool:
        """Whether the first start has succeeded or failed."""
        return self._first_start_over.is_set()

    @property
    def has_listed(self) -> bool:
        """Whether it has said what its tools are."""
        return self._has_listed

    @property
    def retry_in_s(self) -> float | None:
        """How long it stays down from now on; None where it is not held back."""
        if self._retry_at is None:
            return None
        return max(0.0, self._retry_at - self._services.clock.monotonic_s())

    async def run(self) -> None:
        """Live one life after the other, whenever one is wanted, until cancelled."""
        policy, short_lives = self._restart, 0
        while True:
            await self._wait_wanted()
            end, ready_s = await self._live()
            short_lives = short_lives + 1 if policy.is_short(ready_s) else 1
            await self._back_off(end, ready_s, short_lives)

    def stop(self, reason: str) -> None:
        """Have it stopped for good; whoever uses it is told so."""
        life = self._life
        self.end()
        if self.task is not None and self.task.cancel() and life is not None:
            self._services.events.emit(
                UpstreamStopped(upstream=self._shared.name, pid=life.pid, reason=reason)
            )

    def list_again(self) -> None:
        """Say anew what there is, as it may be something else; starts for it, if it must."""
        self._has_listed = False
        self._wanted.set()
        if self._life is not None:
            self._life.suppose_changes()

    def end(self) -> None:
        """Wake whoever waits: it is not started again."""
        self.state, self.last_end = ServerState.STOPPED, "was stopped"
        self._tell_start_over()

    async def wait_first_start(self) -> None:
        """Wait until the first start has succeeded or failed."""
        await self._first_start_over.wait()

    async def call(
        self, tool: str, arguments: dict[str, Any], run: ToolRun, *, idempotent: bool
    ) -> Completed:
        """Call a tool; waits for the start that is under way, or next. See `UpstreamServer`."""

        async def call_on(life: ServerLife) -> Completed:
            params = {"name": tool, "arguments": arguments}
            result = await self._ask(life, CALL_TOOL, params, run)
            return read_tool_result(result, self._shared.name)

        return await self._do(call_on, run, idempotent=idempotent)

    async def relay(self, method: str, params: dict[str, Any], run: ToolRun) -> Completed:
        """Make a request that changes nothing, whose result stays whole; raises as `call` does."""

        async def relay_on(life: ServerLife) -> Completed:
            result = await self._ask(life, method, params, run)
            return read_result(result, self._shared.name)

        return await self._do(relay_on, run, idempotent=True)

    async def watch(self, uri: str, run: ToolRun) -> None:
        """Have the session of a run told of a resource's updates; raises as `call` does.

        Raises `ToolFailed` where the server does not agree, and `QueueFull` for too many.
        """
        most = self._services.limits.session_max_subscriptions

        async def watch_on(life: ServerLife) -> None:
            await self._hearing.watch(life, uri, run.session_id, most)

        await self._do(watch_on, run, idempotent=True)

    def unwatch(self, uri: str, session_id: str) -> None:
        """Have a session told no more of a resource's updates."""
        with self._watched():
            self.wishes.unwatch(uri, session_id)

    def end_session(self, session_id: str) -> None:
        """Have a session that has ended told nothing any more."""
        with self._watched():
            self.wishes.end_session(session_id)

    async def _ask(
        self, life: ServerLife, method: str, params: dict[str, Any], run: ToolRun
    ) -> dict[str, Any]:
        grace_s = self._services.limits.cancel_grace_s
        return await ask_in_rounds(
            lambda given: life.ask(method, params, run, grace_s, given), run, self.questions
        )

    async def _do(
        self, work: Callable[[ServerLife], Awaitable[T]], run: ToolRun, *, idempotent: bool
    ) -> T:
        """Do work with the life that is under way, or next, or the one after that."""
        name = self._shared.name
        with self._used():
            try:
                return await self._do_once(work, run)
            except CALL_FAULTS as fault:
                if not can_move_on(fault, idempotent=idempotent):
                    raise upstream_failed(name, fault, idempotent=idempotent) from None
            try:
                return await self._do_once(work, run)
            except CALL_FAULTS as fault:
                raise upstream_failed(name, fault, idempotent=idempotent) from None

    async def _do_once(self, work: Callable[[ServerLife], Awaitable[T]], run: ToolRun) -> T:
        run.may_have_begun = False
        life = await self._require_life()
        run.may_have_begun = True
        self.running_count += 1
        try:
            with self.questions.asked_for(run), self._hearing.log.heard_by(run):
                return await work(life)
        finally:
            self.running_count -= 1

    @contextmanager
    def _used(self) -> Iterator[None]:
        self._user_count += 1
        try:
            yield
        finally:
            self._user_count -= 1
            self._note_unused()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        was_watched = bool(self.wishes.uris)
        yield
        if was_watched:
            self._note_unused()

    def _note_unused(self) -> None:
        if not self._user_count:
            self._on_unused(self)

    @property
    def _must_list(self) -> bool:
        return self._lists and not self._has_listed

    async def _require_life(self) -> ServerLife:
        if (life := self._running_life()) is not None:
            return life
        if self.state not in (ServerState.GAVE_UP, ServerState.STOPPED):
            await self._wait_start()
        if (life := self._running_life()) is not None:
            return life
        raise UpstreamFailed(
            f"{self._shared.name} {self.last_end}",
            retryable=True,
            retry_after_s=self.retry_in_s if self.state is ServerState.GAVE_UP else None,
        )

    async def _wait_start(self) -> None:
        self._waiting_count += 1
        self._wanted.set()
        try:
            await self._start_over.wait()
        finally:
            self._waiting_count -= 1

    async def _wait_wanted(self) -> None:
        while not (self._is_kept or self._must_list or self._waiting_count or self.wishes.uris):
            self.state, self._retry_at = ServerState.IDLE, None
            self._wanted.clear()
            await self._wanted.wait()

    def _running_life(self) -> ServerLife | None:
        return None if self._life is None or self._life.is_over else self._life

    async def _live(self) -> tuple[str, float]:
        """Live one life; return how it ended, and how long the server had been ready."""
        self.state, self._retry_at = ServerState.STARTING, None
        self.start_count += 1
        started_at = self._services.clock.monotonic_s()
        try:
            life = await self._begin_life()
        except OSError as error:
            return f"cannot be started: {_reason_of(error)}", 0.0
        except CarrierUnusable as unusable:
            return f"cannot be used: {unusable}", 0.0
        try:
            end = await life.run(lambda: self._serve(life, started_at))
        finally:
            self._life = None
        if life.ready_at is None:
            return end, 0.0
        return end, self._services.clock.monotonic_s() - life.ready_at

    async def _begin_life(self) -> ServerLife:
        shared, max_result_bytes = self._shared, self._services.limits.max_result_bytes
        return ServerLife(
            shared.name,
            await self._services.open_carrier(shared.config, shared.speech),
            shared.speech,
            max_result_bytes,
            wishes=self.wishes,
            on_notification=self._hearing.take_notification,
            on_request=self.questions.answer,
        )

    async def _serve(self, life: ServerLife, started_at: float) -> None:
        tools = None
        async with asyncio.timeout(self._shared.config.start_timeout_s):
            await self._shake_hands(life)
            if self._lists:
                tools = await life.list(TOOLS)
        self._life = life
        if tools is not None:
            await self._hearing.take_lists(life, KINDS_BESIDE_TOOLS)
            await self._offer(life, tools)
        self._become_ready(life, started_at)
        while changed := await life.wait_changed():
            if self._lists:
                await self._list_again(life, changed)
            else:
                self._shared.on_changed()

    async def _list_again(self, life: ServerLife, changed: Sequence[Kind]) -> None:
        await self._hearing.take_lists(life, [kind for kind in changed if kind is not TOOLS])
        with suppress(*FAULTS):  # it keeps the tools it had
            if TOOLS in changed:
                await self._offer(life, await life.list(TOOLS) or [])
        self._has_listed = True
        if not self._user_count:
            self._on_unused(self)

    async def _shake_hands(self, life: ServerLife) -> None:
        try:
            await life.shake_hands(
                self._services.handshake,
                discover=self._discovers,
                capabilities=self.questions.declared,
            )
        except HandshakeFailed:
            if self._shared.config.url is None:
                # Some servers of before 2026 end at a request that they do not know.
                self._discovers = not (self._discovers and life.is_over)
            raise

    async def _offer(self, life: ServerLife, tools: list[dict[str, Any]]) -> None:
        await self._shared.on_listed(tools, life.terms.server_version)
        self._has_listed = True

    def _become_ready(self, life: ServerLife, started_at: float) -> None:
        life.ready_at = self._services.clock.monotonic_s()
        self.state, self.last_end = ServerState.READY, None
        self._shared.is_known_to_work = True
        self._services.events.emit(
            UpstreamStarted(
                upstream=self._shared.name,
                pid=life.pid,
                url=self._shared.shown_url,
                tool_count=self._shared.tool_count,
                start_s=life.ready_at - started_at,
            )
        )
        self._tell_start_over()
        if not self._user_count:
            self._on_unused(self)

    async def _back_off(self, end: str, ready_s: float, short_lives: int) -> None:
        policy, gave_up = self._restart, self._restart.gives_up(short_lives)
        delay_s = policy.delay_s(short_lives, random.random())
        self._retry_at = self._services.clock.monotonic_s() + delay_s
        self.last_end = end
        self.state = ServerState.GAVE_UP if gave_up else ServerState.BACKING_OFF
        event = UpstreamGaveUp if gave_up else UpstreamDied
        self._services.events.emit(event(upstream=self._shared.name, reason=end, retry_s=delay_s))
        if gave_up or (ready_s == 0.0 and not self._shared.may_come_back):
            self._tell_start_over()
        await asyncio.sleep(delay_s)

    def _tell_start_over(self) -> None:
        """Wake whoever waits for a start; who comes later waits for the next one."""
        self._first_start_over.set()
        self._start_over.set()
        self._start_over.clear()


def _reason_of(error: OSError) -> str:
    named = f": {error.filename}" if error.filename else ""
    return f"{error.strerror or str(error) or 'it takes too long'}{named}"
