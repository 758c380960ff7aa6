"""Equal calls share one execution, within whom their tool's policy lets them."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from exai.core.config import (
    LimitsConfig,
    PrincipalConfig,
    RatesConfig,
    Secret,
    ServerConfig,
    ToolsConfig,
)
from exai.core.errors import ToolFailed
from exai.core.outcomes import Completed, text_block
from exai.core.tool import Share, SharingPolicy, ToolRun
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from exai.testing.scripted_tool import Gates, ScriptedTool
from tests.journeys.wire import Frame, Wire, open_wire

OTHER_TOKEN = "token-of-somebody-else-0123456789"
PRINCIPALS = {
    "default": PrincipalConfig(token=Secret(TOKEN)),
    "other": PrincipalConfig(token=Secret(OTHER_TOKEN)),
}


def shared(share: Share = "principal", cache_ttl_s: float = 0.0) -> SharingPolicy:
    return SharingPolicy(share, cache_ttl_s, idempotent=True, read_only=True)


class Counter:
    """A tool whose every execution has a number, and may fail."""

    def __init__(self) -> None:
        self.count = 0
        self.fails_next = False

    async def __call__(self, arguments: dict[str, Any], run: ToolRun) -> Completed:
        self.count += 1
        if self.fails_next:
            self.fails_next = False
            raise ToolFailed("not now")
        return Completed([text_block(str(self.count) + "x" * arguments.get("size", 0))])


class Teller:
    """A tool that streams, in pieces that a test lets go."""

    def __init__(self) -> None:
        self.has_begun = asyncio.Event()
        self.may_end = asyncio.Event()

    async def __call__(self, arguments: dict[str, Any], run: ToolRun) -> Completed:
        run.stream("Once ")
        run.stream("upon ")
        self.has_begun.set()
        await self.may_end.wait()
        run.stream("a time")
        return Completed([text_block("Once upon a time")])


@pytest.fixture
def gates() -> Gates:
    return Gates()


@pytest.fixture
def counter() -> Counter:
    return Counter()


@pytest.fixture
def teller() -> Teller:
    return Teller()


@pytest.fixture
async def daemon(
    tmp_path: Path, gates: Gates, counter: Counter, teller: Teller
) -> AsyncIterator[RunningDaemon]:
    config = daemon_config(
        tmp_path,
        principals=PRINCIPALS,
        limits=LimitsConfig(result_cache_entries=2, result_cache_bytes=5000),
        tools=ToolsConfig(never_share=("never_EXAI-WS",)),
    )
    tools = [
        ScriptedTool("none", gates),
        ScriptedTool("session", gates, policy=shared("session")),
        ScriptedTool("principal", gates, policy=shared()),
        ScriptedTool("all", gates, policy=shared("all")),
        ScriptedTool("never", gates, policy=shared("all")),
        ScriptedTool("cached", counter, policy=shared("principal", 60.0)),
        ScriptedTool("brief", counter, policy=shared("principal", 0.02)),
        ScriptedTool("uncached", counter, policy=shared()),
        ScriptedTool("write", gates, policy=SharingPolicy("principal")),
        ScriptedTool("tell", teller, policy=shared()),
    ]
    async with running_daemon(config, tools) as running:
        yield running


@pytest.fixture
async def wires(daemon: RunningDaemon) -> AsyncIterator[tuple[Wire, Wire, Wire]]:
    """Two sessions of one principal, and one of another."""
    async with AsyncExitStack() as stack:
        one, two, other = [
            await stack.enter_async_context(open_wire(daemon.url, token=token))
            for token in (TOKEN, TOKEN, OTHER_TOKEN)
        ]
        yield one, two, other


@pytest.mark.parametrize(
    ("name", "executions"),
    [("none", 4), ("session", 3), ("principal", 2), ("all", 1), ("never", 4)],
)
async def test_work_is_shared_within_whom_the_policy_says(
    wires: tuple[Wire, Wire, Wire], gates: Gates, name: str, executions: int
) -> None:
    one, two, other = wires
    callers = [(one, "a"), (one, "b"), (two, "c"), (other, "d")]
    for wire, request_id in callers:
        await wire.begin(name, request_id)
    gates.open()
    answers = [await wire.result(request_id) for wire, request_id in callers]
    assert all(answer["ok"] for answer in answers)
    assert len(gates.runs) == executions
    assert sum(not answer["meta"]["joined"] for answer in answers) == executions
    assert len({answer["meta"]["call_id"] for answer in answers}) == 4


async def test_equal_is_what_means_the_same(wires: tuple[Wire, Wire, Wire], gates: Gates) -> None:
    one, two, _ = wires
    await one.begin("principal", "a", arguments={"n": 1, "gate": "g"})
    await two.begin("principal", "b", arguments={"gate": "g", "n": 1.0})
    await two.begin("principal", "c", arguments={"gate": "g", "n": True})
    gates.open()
    joined = [(await two.result(request_id))["meta"]["joined"] for request_id in ("b", "c")]
    assert joined == [True, False]
    assert len(gates.runs) == 2


async def test_a_caller_leaves_alone(wires: tuple[Wire, Wire, Wire], gates: Gates) -> None:
    one, two, _ = wires
    await one.begin("principal", "leader")
    await two.begin("principal", "impatient", timeout_s=0.05)
    await two.begin("principal", "patient")
    late = await two.result("impatient")
    assert (late["error"]["code"], late["error"]["details"]) == ("TIMEOUT", {"phase": "run"})
    await one.say("cancel_tool", request_id="leader")
    assert (await one.result("leader"))["error"]["code"] == "CANCELLED"
    assert gates.cancelled == []
    gates.open()
    assert (await two.result("patient"))["text"] == "through g"
    assert gates.runs == ["g"]


async def test_the_last_to_leave_ends_the_work_and_nobody_joins_it_then(
    wires: tuple[Wire, Wire, Wire], gates: Gates
) -> None:
    one, two, _ = wires
    await one.begin("principal", "a")
    await two.begin("principal", "b")
    await gates.until_inside("g")
    for wire, request_id in ((one, "a"), (two, "b")):
        await wire.say("cancel_tool", request_id=request_id)
        await wire.result(request_id)
    await gates.until_cancelled()
    gates.open()
    answer = await two.call("principal", "c")
    assert answer["meta"]["joined"] is False
    assert gates.runs == ["g", "g"]


async def test_who_has_time_left_when_the_tool_has_none_has_the_work_done_anew_once(
    tmp_path: Path, gates: Gates
) -> None:
    config = daemon_config(tmp_path, server=ServerConfig(progress_interval_s=0.4))
    short = ScriptedTool("short", gates, policy=shared(), timeout_s=1.0)
    async with (
        running_daemon(config, [short]) as daemon,
        open_wire(daemon.url, token=TOKEN) as one,
        open_wire(daemon.url, token=TOKEN) as two,
    ):
        await one.begin("short", "leader")
        await one.hear_op("progress")  # a heartbeat: time has passed
        await two.begin("short", "follower")
        assert (await one.result("leader"))["error"]["code"] == "TIMEOUT"
        await gates.until_cancelled()
        gates.open()
        assert (await two.result("follower"))["ok"]
    assert gates.runs == ["g", "g"]


async def test_a_success_is_served_again_where_the_tool_allows(
    wires: tuple[Wire, Wire, Wire], counter: Counter
) -> None:
    one, two, other = wires
    first = await one.call("cached", "a")
    again = await two.call("cached", "b")
    assert (first["meta"]["cached"], again["meta"]["cached"]) == (False, True)
    assert first["text"] == again["text"] == "1"
    assert (await other.call("cached", "c"))["text"] == "2"
    for request_id in ("d", "e"):
        assert not (await one.call("uncached", request_id))["meta"]["cached"]


async def test_a_success_is_served_only_as_long_as_the_tool_allows(
    wires: tuple[Wire, Wire, Wire], counter: Counter
) -> None:
    assert not (await wires[0].call("brief", "first"))["meta"]["cached"]
    async with asyncio.timeout(5):
        for n in itertools.count():
            if not (await wires[0].call("brief", f"later-{n}"))["meta"]["cached"]:
                break
    assert counter.count == 2


async def test_a_failure_is_not_served_again(
    wires: tuple[Wire, Wire, Wire], counter: Counter
) -> None:
    counter.fails_next = True
    assert not (await wires[0].call("cached", "a"))["ok"]
    assert (await wires[0].call("cached", "b"))["text"] == "2"


async def test_a_caller_may_want_it_fresh_or_for_itself(wires: tuple[Wire, Wire, Wire]) -> None:
    wire = wires[0]
    uses = ("use", "off", "use", "refresh", "use")
    texts = [(await wire.call("cached", f"r{n}", cache=use))["text"] for n, use in enumerate(uses)]
    assert texts == ["1", "2", "1", "3", "3"]


async def test_a_refresh_joins_nothing_and_is_joined(
    wires: tuple[Wire, Wire, Wire], gates: Gates
) -> None:
    one, two, _ = wires
    await one.begin("principal", "a")
    await one.begin("principal", "b", cache="refresh")
    await two.begin("principal", "c")
    await two.begin("principal", "d", cache="off")
    gates.open()
    answers: list[Frame] = [await one.result("a"), await one.result("b")]
    answers += [await two.result("c"), await two.result("d")]
    assert [answer["meta"]["joined"] for answer in answers] == [False, False, True, False]
    assert len(gates.runs) == 3


async def test_the_cache_is_bounded_in_entries_and_in_bytes(
    wires: tuple[Wire, Wire, Wire], daemon: RunningDaemon
) -> None:
    wire = wires[0]

    async def is_cached(request_id: str, **arguments: object) -> bool:
        answer = await wire.call("cached", request_id, arguments=arguments)
        return bool(answer["meta"]["cached"])

    for n in range(3):
        assert not await is_cached(f"fill-{n}", n=n)
    assert [await is_cached("1", n=1), await is_cached("2", n=2), await is_cached("0", n=0)] == [
        True, True, False,
    ]  # fmt: skip
    assert not await is_cached("large", size=6000)
    assert not await is_cached("large-again", size=6000)
    assert not await is_cached("big", size=4900)
    assert await is_cached("big-again", size=4900)
    health = (await wire.ask("health", "health_res"))["health"]["result_cache"]
    assert health["entry_count"] == 1
    assert 4900 < health["size_bytes"] <= 5000


async def test_you_read_what_you_have_written(
    wires: tuple[Wire, Wire, Wire], gates: Gates, counter: Counter
) -> None:
    one, two, _ = wires
    gates.open("write")
    await one.begin("principal", "before")
    assert (await one.call("cached", "c1"))["text"] == "1"
    await one.call("write", "w", arguments={"gate": "write"})
    await two.begin("principal", "after")
    assert (await two.call("cached", "c2"))["text"] == "2"
    gates.open()
    assert (await one.result("before"))["ok"]
    assert (await two.result("after"))["meta"]["joined"] is False
    assert gates.runs == ["g", "write", "g"]


async def test_equal_writes_that_may_be_shared_are_one_while_it_runs(
    wires: tuple[Wire, Wire, Wire], gates: Gates
) -> None:
    one, two, _ = wires
    await one.begin("write", "a")
    await gates.until_inside("g")
    await two.begin("write", "b")
    gates.open()
    assert (await two.result("b"))["meta"]["joined"] is True
    assert not (await two.call("write", "c"))["meta"]["joined"]
    assert gates.runs == ["g", "g"]


async def test_who_comes_late_hears_the_text_from_its_beginning(
    wires: tuple[Wire, Wire, Wire], teller: Teller
) -> None:
    one, two, _ = wires
    await one.begin("tell", "a")
    await teller.has_begun.wait()
    await two.begin("tell", "b")
    first = await two.hear_op("progress")
    assert (first["delta"], first["offset"], first["attempt"]) == ("Once upon ", 0, 1)
    teller.may_end.set()
    last = await two.hear_op("progress")
    assert (last["delta"], last["offset"]) == ("a time", 10)
    assert (await two.result("b"))["text"] == "Once upon a time"
    assert [(await one.hear_op("progress"))["delta"] for _ in range(3)] == [
        "Once ", "upon ", "a time",
    ]  # fmt: skip


async def test_two_hundred_equal_calls_of_twenty_clients_are_one_execution(
    daemon: RunningDaemon, gates: Gates
) -> None:
    async with AsyncExitStack() as stack:
        wires = [
            await stack.enter_async_context(open_wire(daemon.url, token=TOKEN)) for _ in range(20)
        ]
        for wire in wires:
            for n in range(10):
                await wire.begin("principal", f"r{n}")
        gates.open()
        answers = [await wire.result(f"r{n}") for wire in wires for n in range(10)]
    assert all(answer["ok"] for answer in answers)
    assert gates.runs == ["g"]


@pytest.mark.slow
async def test_a_leader_that_leaves_at_any_moment_leaves_no_follower_behind(
    tmp_path: Path,
) -> None:
    moments = random.Random(7)

    async def turns(count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    async def work(arguments: dict[str, Any], run: ToolRun) -> Completed:
        await turns(arguments["turns"])
        return Completed([text_block("done")])

    tool = ScriptedTool("work", work, policy=shared())
    config = daemon_config(tmp_path, rates=RatesConfig(principal_per_s=0))  # 3,000 frames come
    async with (
        running_daemon(config, [tool]) as daemon,
        open_wire(daemon.url, token=TOKEN) as leader,
        open_wire(daemon.url, token=TOKEN) as follower,
    ):
        outcomes = set()
        for n in range(1000):
            arguments = {"turns": moments.randrange(40), "n": n}
            for wire in (leader, follower):
                await wire.say("call_tool", name="work", request_id=f"r{n}", arguments=arguments)
                await turns(moments.randrange(10))
            await turns(moments.randrange(20))
            await leader.say("cancel_tool", request_id=f"r{n}")
            assert (await follower.result(f"r{n}"))["text"] == "done"
            left = await leader.result(f"r{n}")
            outcomes.add("done" if left["ok"] else left["error"]["code"])
    assert outcomes == {"done", "CANCELLED"}
