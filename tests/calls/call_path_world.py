"""A world around one call path: virtual time, callers who keep what they hear, tools on strings."""

import asyncio
import random
import selectors
from collections import Counter
from collections.abc import Callable
from typing import Any

from exai.calls.call_path import CallPath
from exai.core.call_store import CallRecord, Settlement
from exai.core.client_side import ClientSide
from exai.core.clock import Clock
from exai.core.config import LimitsConfig
from exai.core.errors import ProviderFailed, ToolFailed
from exai.core.events import CallFailedInside, Event
from exai.core.identity import Principal
from exai.core.outcomes import Completed, text_block
from exai.core.replies import CallAcked, CallAnswered, CallProgressed, Reply
from exai.core.requests import Request
from exai.core.tool import Demand, SharingPolicy, Tool, ToolRun, ToolSpec
from exai.stores.memory_store import MemoryCallStore
from exai.tools.registry import ToolRegistry

SCOPES = {"provider:one": 1, "provider:two": 2, "upstream:box": 3}
LIMITS = LimitsConfig(
    global_max_inflight=5,
    session_max_inflight=2,
    session_max_waiting=4,
    principal_max_waiting=7,
    global_max_waiting=12,
    call_timeout_s=60.0,
    result_cache_entries=3,
)
_TURNS_UNTIL_IDLE = 80


class _NeverWaits(selectors.DefaultSelector):
    """A selector for a loop whose time stands still."""

    def select(self, timeout: float | None = None) -> Any:
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time a test moves."""

    def __init__(self) -> None:
        super().__init__(_NeverWaits())
        self.now = 100.0

    def time(self) -> float:
        return self.now


class VirtualClock(Clock):
    """The loop's time, for both clocks."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def wall_s(self) -> float:
        return 1_000_000.0 + self._loop.now

    def monotonic_s(self) -> float:
        return self._loop.now


class HesitantStore(MemoryCallStore):
    """A store whose answers take a few turns of the loop, now more, now fewer."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)

    async def _hesitate(self) -> None:
        for _ in range(self._random.randrange(5)):
            await asyncio.sleep(0)

    async def accept(self, record: CallRecord) -> CallRecord | None:
        await self._hesitate()
        known = await super().accept(record)
        await self._hesitate()
        return known

    async def start(self, call_id: str, owner: str, attempt: int, now: float) -> bool:
        await self._hesitate()
        return await super().start(call_id, owner, attempt, now)

    async def settle(self, call_id: str, settlement: Settlement, now: float) -> bool:
        await self._hesitate()
        return await super().settle(call_id, settlement, now)


class Caller:
    """One session. What it is told about each of its requests, in order."""

    def __init__(self, principal: str, session_id: str) -> None:
        self.principal = Principal(principal)
        self.session_id = session_id
        self.acknowledges = False
        self.comes_back = True
        self.has_ended = False
        self.is_kept = True
        self.client: ClientSide | None = None
        self.acks: dict[str, list[CallAcked]] = {}
        self.progress: dict[str, list[CallProgressed]] = {}
        self.answers: dict[str, list[CallAnswered]] = {}
        self.out_of_order: list[Reply] = []
        self._open: set[str] = set()

    async def keep(self) -> None: ...

    def send(self, reply: Reply) -> None:
        match reply:
            case CallAcked(request_id=request_id):
                self.acks.setdefault(request_id, []).append(reply)
                self._open.add(request_id)
            case CallProgressed(request_id=request_id):
                self.progress.setdefault(request_id, []).append(reply)
                if request_id not in self._open:
                    self.out_of_order.append(reply)
            case CallAnswered(request_id=request_id):
                self.answers.setdefault(request_id, []).append(reply)
                is_own = reply.meta is None or not reply.meta.replayed
                if isinstance(reply.outcome, Completed) and request_id not in self.acks and is_own:
                    self.out_of_order.append(reply)
                self._open.discard(request_id)


class Execution:
    """One run of a tool, held on a string."""

    def __init__(self, number: int, tool: "StringTool", arguments: dict[str, Any], run: ToolRun):
        self.number = number
        self.tool = tool
        self.arguments = arguments
        self.run = run
        self.began = 0
        self.ended: int | None = None
        self.is_cancelled = False
        self.told = ""
        self.pull: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.unwound: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def text(self) -> str:
        return f"{self.told}{self.number}"


class StringTool(Tool):
    """A tool whose executions do what a test says, when it says so."""

    def __init__(
        self,
        world: "World",
        name: str,
        policy: SharingPolicy,
        *,
        provider: str = "box",
        scope: str | None = None,
        legs: tuple[str, ...] = (),
        timeout_s: float | None = None,
    ) -> None:
        self.spec = ToolSpec(
            name=name,
            description="",
            input_schema={},
            provider=provider,
            policy=policy,
            timeout_s=timeout_s,
        )
        self.scope = scope
        self._legs = legs
        self._world = world

    def check(self, arguments: dict[str, Any]) -> None:
        pass

    async def demand_of(self, arguments: dict[str, Any], principal: Principal) -> Demand:
        talk = arguments.get("talk")
        return Demand(self.scope, None if talk is None else f"{principal.name}/{talk}")

    async def run(self, arguments: dict[str, Any], run: ToolRun) -> Completed:
        execution = self._world.begin(self, arguments, run)
        try:
            await self._meet_providers(execution)
            how = await execution.pull
        except asyncio.CancelledError:
            execution.is_cancelled = True
            if arguments.get("slow"):
                await execution.unwound
            raise
        finally:
            self._world.end(execution)
        if how == "fail":
            raise ToolFailed("it failed")
        if how == "congested":
            raise ProviderFailed("it is busy", retryable=True, status=429)
        if how == "crash":
            raise ZeroDivisionError("a defect")
        return Completed([text_block(execution.text)])

    async def _meet_providers(self, execution: Execution) -> None:
        # A task group would cancel its legs in the order of their addresses in memory.
        await asyncio.gather(*(self._leg(execution, scope) for scope in self._legs))

    async def _leg(self, execution: Execution, scope: str) -> None:
        async with execution.run.permit(scope):
            self._world.in_use[scope] += 1
            try:
                await asyncio.shield(self._world.leg_of(execution, scope))
            finally:
                self._world.in_use[scope] -= 1


class World:
    """A call path with its tools and callers; `turn` counts what has happened."""

    def __init__(self, seed: int | None) -> None:
        self.loop = VirtualLoop()
        self.turn = 0
        self.executions: list[Execution] = []
        self.live: list[Execution] = []
        self.legs: dict[tuple[int, str], asyncio.Future[None]] = {}
        self.in_use: Counter[str] = Counter()
        self.defects: list[BaseException] = []
        self._stop = asyncio.Event()
        self._store = MemoryCallStore() if seed is None else HesitantStore(seed)
        self._living = self.loop.create_task(self._live())
        self.run_turns()

    def emit(self, event: Event) -> None:
        if isinstance(event, CallFailedInside):
            self.defects.append(event.exception)

    async def _live(self) -> None:
        tools = ToolRegistry()
        tools.replace("world", _tools(self))
        self.tools = tools
        async with asyncio.TaskGroup() as tasks:
            self.path = CallPath(
                LIMITS,
                SCOPES,
                tools=tools,
                never_share=(),
                store=self._store,
                tasks=tasks,
                clock=VirtualClock(self.loop),
                events=self,
                health=lambda _: {},
                progress_interval_s=8.0,
                on_session_end=lambda _: None,
            )
            await self._stop.wait()

    def run_turns(self, count: int = _TURNS_UNTIL_IDLE) -> None:
        self.turn += 1
        self.loop.run_until_complete(_turns(count))

    def end_session(self, caller: Caller) -> None:
        """End a session, which must not have to wait for any execution."""
        ending = self.path.router.end_session(caller.session_id, caller.principal.name)
        task = self.loop.create_task(ending)
        self.run_turns()
        assert task.done(), "the session's end waits for something that does not come"
        task.result()

    def say(self, caller: Caller, request: Request) -> None:
        self.path.router.handle_message(caller, request)

    def begin(self, tool: StringTool, arguments: dict[str, Any], run: ToolRun) -> Execution:
        execution = Execution(len(self.executions), tool, arguments, run)
        self.turn += 1
        execution.began = self.turn
        self.executions.append(execution)
        self.live.append(execution)
        if tool.scope:
            self.in_use[tool.scope] += 1
        return execution

    def end(self, execution: Execution) -> None:
        self.turn += 1
        execution.ended = self.turn
        self.live.remove(execution)
        if execution.tool.scope:
            self.in_use[execution.tool.scope] -= 1

    def leg_of(self, execution: Execution, scope: str) -> asyncio.Future[None]:
        leg: asyncio.Future[None] = self.loop.create_future()
        return self.legs.setdefault((execution.number, scope), leg)

    def close(self) -> None:
        self._stop.set()
        self.run_turns()
        assert self._living.done(), "something still runs"
        self._living.result()
        assert not asyncio.all_tasks(self.loop)
        self.loop.close()


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def _tools(world: World) -> list[StringTool]:
    def read(share: Any, cache_ttl_s: float = 0.0) -> SharingPolicy:
        return SharingPolicy(share, cache_ttl_s, idempotent=True, read_only=True)

    make: Callable[..., StringTool] = lambda *args, **kwargs: StringTool(world, *args, **kwargs)  # noqa: E731
    return [
        make("read", read("principal"), scope="upstream:box"),
        make("read-all", read("all", 30.0), scope="upstream:box"),
        make("read-session", read("session", 5.0), scope="upstream:box"),
        make("write", SharingPolicy("principal"), scope="upstream:box"),
        make("pure", read("principal"), provider="pure"),
        make("alone", SharingPolicy(), provider="alone", scope="provider:two"),
        make("one", read("principal"), provider="one", scope="provider:one"),
        make("short", read("all"), provider="short", timeout_s=5.0),
        make("talk", read("principal"), provider="talk", scope="upstream:box"),
        make("consensus", SharingPolicy(), provider="c", legs=("provider:one", "provider:two")),
    ]
