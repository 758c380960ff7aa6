"""A client whose connection fails: no answer of a real daemon is lost, and none comes twice."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from exai.client.answers import CallResult, OnProgress, Progress
from exai.client.backoff import Backoff
from exai.client.daemon_client import DaemonClient
from exai.client.errors import AnswerLost, ConnectionLost, RequestTooLarge
from exai.core.config import LimitsConfig, RatesConfig, ServerConfig
from exai.core.events import CallSettled, SessionResumed, TokenReplaced
from exai.core.outcomes import Completed, text_block
from exai.core.tool import ToolRun
from exai.testing.fault_proxy import FaultProxy
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from exai.testing.scripted_tool import Gates, ScriptedTool

SOON = Backoff(first_s=0.001, longest_s=0.01)


class Work:
    """A tool that takes a moment, streams a little, and counts how often each call ran."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()

    async def __call__(self, arguments: dict[str, Any], run: ToolRun) -> Completed:
        name = arguments["name"]
        self.runs[name] += 1
        run.stream(f"{name} ")
        await asyncio.sleep(arguments.get("work_s", 0.0))
        run.stream("done")
        return Completed([text_block(f"{name} done")])


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def gates() -> Gates:
    return Gates()


@pytest.fixture
async def daemon(tmp_path: Path, work: Work, gates: Gates) -> AsyncIterator[RunningDaemon]:
    limits = LimitsConfig(session_max_inflight=20, session_max_waiting=50)
    config = daemon_config(
        tmp_path,
        limits=limits,
        rates=RatesConfig(principal_per_s=0),
        server=ServerConfig(max_message_bytes=100_000),
    )
    tools = [ScriptedTool("work", work), ScriptedTool("gate", gates)]
    async with running_daemon(config, tools) as running:
        yield running


@pytest.fixture
async def proxy(daemon: RunningDaemon) -> AsyncIterator[FaultProxy]:
    port = urlsplit(daemon.url).port
    assert port is not None
    async with FaultProxy(port) as running:
        yield running


def client_of(proxy: FaultProxy, **options: Any) -> DaemonClient:
    return DaemonClient(
        f"ws://127.0.0.1:{proxy.port}/", token=TOKEN, **{"backoff": SOON, **options}
    )


async def test_a_call_goes_on_over_a_new_connection(
    daemon: RunningDaemon, proxy: FaultProxy, gates: Gates
) -> None:
    said: list[str] = []
    async with client_of(proxy, on_connection=said.append) as client:
        async with asyncio.TaskGroup() as tasks:
            call = tasks.create_task(client.call("gate"))
            await gates.until_inside("g")
            proxy.reset()
            await daemon.events.first_of(SessionResumed)
            gates.open()
        assert call.result().text == "through g"
        assert call.result().accepted
    assert gates.runs == ["g"]
    assert said[0].startswith("connection lost")
    assert said[-1] == "connected again"


async def test_an_answer_that_was_lost_on_its_way_comes_again(
    daemon: RunningDaemon, proxy: FaultProxy, gates: Gates
) -> None:
    async with client_of(proxy) as client, asyncio.TaskGroup() as tasks:
        call = tasks.create_task(client.call("gate"))
        await gates.until_inside("g")
        proxy.stall()
        gates.open()
        await daemon.events.first_of(CallSettled)
        proxy.reset()
        assert (await call).frame["meta"]["replayed"] is True


async def test_a_half_open_connection_is_noticed_and_replaced(
    daemon: RunningDaemon, proxy: FaultProxy, gates: Gates
) -> None:
    async with client_of(proxy, ping_interval_s=0.05) as client, asyncio.TaskGroup() as tasks:
        call = tasks.create_task(client.call("gate"))
        await gates.until_inside("g")
        proxy.stall()
        await daemon.events.first_of(SessionResumed)
        gates.open()
        assert (await call).text == "through g"


async def test_what_is_called_while_there_is_no_connection_is_sent_later(
    daemon: RunningDaemon, proxy: FaultProxy
) -> None:
    lost = asyncio.Event()
    async with client_of(proxy, on_connection=lambda _: lost.set()) as client:
        proxy.reset()
        await lost.wait()
        first, tools = await asyncio.gather(
            client.call("echo", {"text": "late"}), client.list_tools()
        )
    assert first.text == "late"
    assert {"echo", "work"} <= {tool["name"] for tool in tools}


async def test_a_cancelled_call_is_taken_back_over_the_next_connection(
    daemon: RunningDaemon, proxy: FaultProxy, gates: Gates
) -> None:
    lost = asyncio.Event()
    async with client_of(proxy, on_connection=lambda _: lost.set()) as client:
        async with asyncio.TaskGroup() as tasks:
            call = tasks.create_task(client.call("gate"))
            await gates.until_inside("g")
            proxy.reset()
            await lost.wait()
            call.cancel()
        await gates.until_cancelled()


async def test_a_call_that_is_cancelled_while_there_is_no_connection_ends(
    daemon: RunningDaemon, proxy: FaultProxy, gates: Gates
) -> None:
    lost = asyncio.Event()
    async with client_of(proxy, on_connection=lambda _: lost.set()) as client:
        async with asyncio.TaskGroup() as tasks:
            call = tasks.create_task(client.call("gate", request_id="r1"))
            await gates.until_inside("g")
            proxy.reset()
            await lost.wait()
            await client.cancel("r1", "no longer wanted")
            error = (await call).error
        await gates.until_cancelled()
        assert error is not None
        assert error.code == "CANCELLED"


async def test_who_is_taken_over_does_not_come_back(
    daemon: RunningDaemon, proxy: FaultProxy, gates: Gates
) -> None:
    async with client_of(proxy) as client:
        thief = DaemonClient(daemon.url, token=TOKEN)
        thief.session = client.session  # as a second process would, that has its resume token
        async with thief:
            with pytest.raises(ConnectionLost, match="4004 session taken over"):
                await _forever(client)
            assert (await thief.call("echo", {"text": "mine"})).text == "mine"
    assert proxy.connection_count == 1


async def _forever(client: DaemonClient) -> None:
    while True:
        await client.health()


async def test_in_a_fresh_session_a_call_is_sent_again_only_under_its_key(
    daemon: RunningDaemon, proxy: FaultProxy, gates: Gates
) -> None:
    async with client_of(proxy) as client, asyncio.TaskGroup() as tasks:
        plain, keyed = (
            tasks.create_task(outcome_of(client.call("gate", {"gate": gate}, idempotency_key=key)))
            for gate, key in (("a", None), ("b", "k"))
        )
        await gates.until_inside("a", "b")
        proxy.is_refusing = True
        proxy.reset()
        gates.open("b")
        await daemon.events.first_of(CallSettled)
        other = DaemonClient(daemon.url, token=TOKEN)
        other.session = client.session
        async with other:
            pass  # which ends the session
        proxy.is_refusing = False
        lost, kept = await plain, await keyed
    assert isinstance(lost, AnswerLost)
    assert "nobody knows whether the call" in str(lost)
    assert isinstance(kept, CallResult)
    assert kept.text == "through b"
    assert gates.runs == ["a", "b"]


async def test_another_daemon_that_remembers_nothing_is_not_asked_again(
    daemon: RunningDaemon, proxy: FaultProxy, gates: Gates, tmp_path: Path
) -> None:
    async with (
        running_daemon(daemon_config(tmp_path / "other")) as other,
        client_of(proxy) as client,
        asyncio.TaskGroup() as tasks,
    ):
        call = tasks.create_task(outcome_of(client.call("gate", idempotency_key="k")))
        await gates.until_inside("g")
        proxy.target_port = urlsplit(other.url).port or 0
        proxy.reset()
        assert isinstance(await call, AnswerLost)
        assert (await client.call("echo", {"text": "x"})).ok
        gates.open()


async def outcome_of(call: Awaitable[CallResult]) -> CallResult | ConnectionLost:
    try:
        return await call
    except ConnectionLost as error:
        return error


async def test_nobody_there_for_too_long_ends_the_session(
    daemon: RunningDaemon, proxy: FaultProxy, gates: Gates
) -> None:
    async with client_of(proxy, patience_s=0.05) as client, asyncio.TaskGroup() as tasks:
        call = tasks.create_task(outcome_of(client.call("gate")))
        await gates.until_inside("g")
        proxy.is_refusing = True
        proxy.reset()
        error = await call
        assert "nobody answered for 0.05 s" in str(error)
        with pytest.raises(ConnectionLost, match="nobody answered"):
            await client.health()
        gates.open()


async def test_a_request_the_daemon_would_not_take_is_not_sent(proxy: FaultProxy) -> None:
    async with client_of(proxy) as client:
        with pytest.raises(RequestTooLarge, match="the daemon takes 100,000"):
            await client.call("echo", {"text": "x" * 100_000})
        assert (await client.call("echo", {"text": "x"})).ok
    assert proxy.connection_count == 1


async def test_a_rotation_whose_answer_was_lost_is_told_and_the_session_goes_on(
    daemon: RunningDaemon, proxy: FaultProxy
) -> None:
    new = "the-new-token-0123456789"
    async with client_of(proxy) as client:
        async with asyncio.TaskGroup() as tasks:
            proxy.delay_s = 0.05  # the answer is on its way when the link ends
            rotation = tasks.create_task(client.rotate_token(new))
            await daemon.events.first_of(TokenReplaced)
            proxy.reset()
            await rotation
            proxy.delay_s = 0.0
        assert (await client.call("echo", {"text": "x"})).ok
    async with DaemonClient(daemon.url, token=new) as client:
        assert (await client.call("echo", {"text": "x"})).ok
    assert len(daemon.events.of(TokenReplaced)) == 1


FAULTS = 1000


@pytest.mark.slow
async def test_whatever_befalls_the_link_every_call_gets_its_one_answer(
    daemon: RunningDaemon, proxy: FaultProxy, work: Work
) -> None:
    chance = random.Random(7)
    told: dict[str, str] = {}
    answers: list[CallResult] = []

    def hear(name: str) -> OnProgress:
        def listen(progress: Progress) -> None:
            if progress.delta is not None:
                kept = told.get(name, "")[: progress.offset]
                assert len(kept) == progress.offset, "no piece is missing from the middle"
                told[name] = kept + progress.delta

        return listen

    async def call_on(client: DaemonClient, worker: int) -> None:
        n = 0
        while fault_count < FAULTS:
            n += 1
            name = f"{worker}-{n}"
            arguments = {"name": name, "work_s": chance.uniform(0, 0.01)}
            result = await client.call("work", arguments, on_progress=hear(name))
            assert result.text == f"{name} done", result.frame
            assert told.get(name, "") == result.text[: len(told.get(name, ""))]
            answers.append(result)

    faults = (proxy.cut, proxy.reset, proxy.stall)  # a stalled link hangs until the next fault
    fault_count = 0
    async with client_of(proxy) as client, asyncio.TaskGroup() as tasks:
        for worker in range(20):
            tasks.create_task(call_on(client, worker))
        while fault_count < FAULTS:
            proxy.delay_s = chance.choice((0.0, 0.0, 0.0, 0.002))
            await asyncio.sleep(chance.uniform(0, 0.01))
            chance.choice(faults)()
            fault_count += 1
        proxy.delay_s = 0.0
        proxy.reset()
    assert len(answers) >= 20
    assert set(work.runs.values()) == {1}
    assert len(work.runs) == len(answers)
    assert proxy.connection_count > 100
