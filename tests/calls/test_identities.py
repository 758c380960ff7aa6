"""Nothing of one identity reaches another, whatever they ask at once and however alike.

50 principals with four sessions each use the same few arguments, request ids and
idempotency keys, so that whatever is shared or remembered is a chance to mix them up. Each
execution has a number, and whoever is told of it must be somebody whom its tool allows.

The long profile, a million calls:

    EXAI_LONG=1 make test ARGS="tests/calls/test_identities.py -o faulthandler_timeout=900"
"""

import asyncio
import os
import random
from collections import Counter
from typing import Any

import pytest

from exai.calls.call_path import CallPath
from exai.core.client_side import ClientSide
from exai.core.clock import SystemClock
from exai.core.config import LimitsConfig
from exai.core.events import CallFailedInside, Event
from exai.core.identity import Principal
from exai.core.outcomes import Completed, Failed, text_block
from exai.core.replies import CallAnswered, CallProgressed, Reply
from exai.core.requests import Acknowledge, CacheUse, CallTool, CancelTool, GetResult
from exai.core.tool import Share, SharingPolicy, Tool, ToolRun, ToolSpec
from exai.stores.memory_store import MemoryCallStore
from exai.tools.registry import ToolRegistry

LONG = bool(os.environ.get("EXAI_LONG"))
CALL_COUNT = 1_000_000 if LONG else 20_000
PRINCIPAL_COUNT = 50
SESSIONS_EACH = 4
BATCH = 10

LIMITS = LimitsConfig(
    global_max_inflight=400,
    global_max_waiting=10_000,
    principal_max_idempotency_keys=200,
    session_max_remembered=500,
    result_cache_entries=300,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900 if LONG else 60)]


class Execution:
    def __init__(self, principal: str) -> None:
        self.principal = principal
        self.session_id: str | None = None


class NumberedTool(Tool):
    """Says the number of its execution, and nothing else: whose it was, the test knows."""

    def __init__(self, world: "World", name: str, share: Share, cache_ttl_s: float = 0.0) -> None:
        is_read = bool(cache_ttl_s)
        policy = SharingPolicy(share, cache_ttl_s, idempotent=True, read_only=is_read)
        self.spec = ToolSpec(
            name=name, description="", input_schema={}, provider=name, policy=policy
        )
        self._world = world

    def check(self, arguments: dict[str, Any]) -> None:
        pass

    async def run(self, arguments: dict[str, Any], run: ToolRun) -> Completed:
        number = len(self._world.executions)
        self._world.executions.append(Execution(run.principal.name))
        run.stream(f"{self.spec.name} {number}")
        for _ in range(arguments["turns"]):
            await asyncio.sleep(0)
        return Completed([text_block(f"{self.spec.name} {number}")])


class Caller:
    """One session: sends mixed requests, waits for the answers, and checks whose they are."""

    acknowledges = True
    comes_back = True
    has_ended = False
    is_kept = True
    client: ClientSide | None = None

    def __init__(self, world: "World", principal: Principal, session_id: str) -> None:
        self.principal = principal
        self.session_id = session_id
        self._world = world
        self._chance = random.Random(session_id)
        self._sent: dict[str, CallTool] = {}
        self._awaited: set[str] = set()
        self._all_came = asyncio.Event()

    async def keep(self) -> None: ...

    def send(self, reply: Reply) -> None:
        if isinstance(reply, CallProgressed) and reply.delta is not None:
            self._check(reply.request_id, reply.delta)
        elif isinstance(reply, CallAnswered):
            self._hear(reply)

    def _hear(self, answer: CallAnswered) -> None:
        if isinstance(answer.outcome, Completed):
            self._check(answer.request_id, answer.outcome.outputs[0]["text"])
            self._world.heard["ok"] += 1
        elif isinstance(answer.outcome, Failed):
            self._world.heard[answer.outcome.error.code] += 1
        self._awaited.discard(answer.request_id)
        if not self._awaited:
            self._all_came.set()

    def _check(self, request_id: str, told: str) -> None:
        """What is told must come from an execution that this caller may know of."""
        tool, number = told.split()
        call, execution = self._sent[request_id], self._world.executions[int(number)]
        assert call.name == tool
        if tool != "for-all":
            assert execution.principal == self.principal.name, told
        if tool == "for-session" and call.idempotency_key is None:
            execution.session_id = execution.session_id or self.session_id
            assert execution.session_id == self.session_id, told

    async def ask(self, count: int) -> None:
        say = self._world.path.router.handle_message
        for first in range(0, count, BATCH):
            calls = [self._some_call(f"r{n}") for n in range(first, first + BATCH)]
            self._awaited = {call.request_id for call in calls if call.request_id}
            self._sent |= {call.request_id: call for call in calls if call.request_id}
            self._all_came.clear()
            for call in calls:
                say(self, call)
                self._do_something_else(call.request_id or "")
            async with asyncio.timeout(60):
                await self._all_came.wait()
            say(self, Acknowledge([f"r{n}" for n in range(first, first + BATCH)]))

    def _some_call(self, request_id: str) -> CallTool:
        chance = self._chance
        name = chance.choice(self._world.names)
        arguments = {"n": chance.randrange(5), "turns": chance.randrange(4)}
        key = f"{name}-{arguments}".replace(" ", "") if chance.random() < 0.2 else None
        if key is not None and chance.random() < 0.1:
            key = "one-for-all"
        uses: tuple[CacheUse, ...] = ("use", "use", "use", "refresh", "off")
        return CallTool(name, request_id, arguments, cache=chance.choice(uses), idempotency_key=key)

    def _do_something_else(self, request_id: str) -> None:
        """Cancel, or ask for results: mostly one's own, by names that others have too."""
        say, draw = self._world.path.router.handle_message, self._chance.random()
        if draw < 0.05:
            say(self, CancelTool(request_id))
        elif draw < 0.1:
            say(self, GetResult(request_id))
        elif draw < 0.15:
            asked = f"r{self._chance.randrange(10_000)}"
            if asked in self._sent:
                say(self, GetResult(asked))


class World:
    """A call path, its tools, and everything that happened."""

    path: CallPath

    def __init__(self) -> None:
        self.executions: list[Execution] = []
        self.heard: Counter[str] = Counter()
        self.defects: list[BaseException] = []
        tools = [
            NumberedTool(self, "for-all", "all", 0.05),
            NumberedTool(self, "for-principal", "principal", 0.05),
            NumberedTool(self, "for-session", "session", 0.05),
            NumberedTool(self, "joined-only", "principal"),
            NumberedTool(self, "for-none", "none"),
        ]
        self.names = [tool.spec.name for tool in tools]
        self._tools = ToolRegistry()
        self._tools.replace("world", tools)

    def emit(self, event: Event) -> None:
        if isinstance(event, CallFailedInside):
            self.defects.append(event.exception)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            self.path = CallPath(
                LIMITS,
                {},
                tools=self._tools,
                never_share=(),
                store=MemoryCallStore(),
                tasks=tasks,
                clock=SystemClock(),
                events=self,
                health=lambda _: {},
                progress_interval_s=8.0,
                on_session_end=lambda _: None,
            )
            async with asyncio.TaskGroup() as callers:
                for n in range(PRINCIPAL_COUNT * SESSIONS_EACH):
                    principal = Principal(f"p{n % PRINCIPAL_COUNT}")
                    caller = Caller(self, principal, f"s{n}")
                    each = CALL_COUNT // PRINCIPAL_COUNT // SESSIONS_EACH
                    callers.create_task(caller.ask(each))


async def test_nothing_of_one_identity_reaches_another() -> None:
    world = World()
    await world.run()
    assert world.defects == []
    assert sum(world.heard.values()) >= CALL_COUNT
    assert world.heard["ok"] > CALL_COUNT * 0.7, world.heard
    assert world.heard["CANCELLED"] > CALL_COUNT * 0.01, world.heard
    assert len(world.executions) < CALL_COUNT * 0.9, "work was shared"
    left = world.path.admission.statistics()
    assert set(left.waiting_count.values()) <= {0}
    assert [pool.in_use for pool in left.pools] == [0]
    assert left.session_pools == []
