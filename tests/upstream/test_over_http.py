"""Real servers behind HTTP, in both eras, do all that they do over stdio."""

import asyncio
import json
import signal
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

import pytest

from exai.core.config import UpstreamConfig
from exai.core.errors import ResultTooLarge, UpstreamFailed
from exai.core.events import UpstreamDied, UpstreamGaveUp, UpstreamStarted
from exai.core.outcomes import text_of
from exai.testing.scripted_client import ScriptedClient
from exai.upstream.restart_policy import RestartPolicy
from exai.upstream.server_state import ServerState
from tests.upstream.http_servers import SharedServers, serving
from tests.upstream.loop_time import loop_time
from tests.upstream.running_server import BOUND_S, Run, Running, running, until

pytestmark = pytest.mark.slow

KINDS = {
    "2026": (),
    "2026-json": ("--json",),
    "stateful": ("--legacy",),
    "stateful-json": ("--legacy", "--json"),
    "stateless": ("--legacy", "--stateless"),
    "stateless-json": ("--legacy", "--stateless", "--json"),
}
ERAS = {kind: "2026-07-28" if kind.startswith("2026") else "2025-11-25" for kind in KINDS}
STREAMING = ("2026", "stateful", "stateless")
TOLD = ("2026", "stateful")
FEW = ("2026", "stateful", "stateless-json")
PATIENT = RestartPolicy(first_delay_s=0.1, max_delay_s=0.2, give_up_after=1000)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_answers(kind: str, shared: SharedServers) -> None:
    served = await shared(*KINDS[kind])
    async with running(served.config()) as srv:
        statistics = srv.server.statistics()
        assert statistics.protocol_version == ERAS[kind]
        assert (statistics.pid, statistics.url) == (None, served.url)
        (started,) = srv.events.of(UpstreamStarted)
        assert (started.pid, started.url) == (None, served.url)
        assert statistics.tool_count == len(srv.listings["srv"][0])
        runs_before = (await _counts(srv))["runs"]
        assert await srv.say("echo", text="ä\u2028") == "ä\u2028"
        assert (await _counts(srv))["runs"] == runs_before + 1


@pytest.mark.parametrize("kind", STREAMING)
async def test_progress_is_reported_in_order(kind: str, shared: SharedServers) -> None:
    run = Run()
    served = await shared(*KINDS[kind])
    async with running(served.config()) as srv:
        await srv.call("progress", run, steps=50)
    assert run.reports == [(f"step {done}", done, 50) for done in range(1, 51)]


@pytest.mark.parametrize("kind", KINDS)
async def test_many_calls_at_once_get_their_own_answers(kind: str, shared: SharedServers) -> None:
    served = await shared(*KINDS[kind])
    async with running(served.config()) as srv:
        texts = [str(n) for n in range(30)]
        assert await asyncio.gather(*(srv.say("echo", text=t) for t in texts)) == texts


@pytest.mark.parametrize("kind", TOLD)
async def test_cancelling_reaches_the_server(kind: str, shared: SharedServers) -> None:
    served = await shared(*KINDS[kind])
    async with running(served.config()) as srv:
        async with asyncio.TaskGroup() as tasks:
            call = tasks.create_task(srv.call("wait", name="x"))
            await _until_waiting(srv, "x")
            call.cancel()
        assert call.cancelled()
        while (await _counts(srv))["cancelled"] != 1:
            pass
        assert srv.server.statistics().running_count == 0


@pytest.mark.parametrize("kind", TOLD)
async def test_new_tools_are_listed_when_the_server_says_so(kind: str) -> None:
    async with serving(*KINDS[kind]) as served, running(served.config()) as srv:
        await srv.call("grow", name="second")
        await until(lambda: "second" in srv.listings["srv"][-1])
        await srv.call("grow", name="third")
        await until(lambda: "third" in srv.listings["srv"][-1])
        assert srv.server.statistics().start_count == 1


async def test_a_stream_that_the_server_closes_is_resumed(shared: SharedServers) -> None:
    run = Run()
    options = ("--legacy", "--resumable")
    served = await shared(*options)
    async with running(served.config()) as srv:
        assert text_of((await srv.call("hang_up", run)).outputs) == "resumed"
    assert [message for message, _, _ in run.reports] == ["before", "after"]


@pytest.mark.parametrize("kind", FEW)
async def test_a_server_that_was_started_anew_is_found_again(kind: str) -> None:
    async with serving(*KINDS[kind]) as served, running(served.config(), restart=PATIENT) as srv:
        await srv.say("echo", text="before")
        await served.stop()
        await served.start()
        assert await srv.say("echo", text="after") == "after"
        assert (await _counts(srv))["runs"] == 1
        assert srv.server.statistics().state is ServerState.READY


@pytest.mark.parametrize("kind", TOLD)
async def test_a_call_waits_for_a_server_that_is_being_started_anew(kind: str) -> None:
    async with (
        serving(*KINDS[kind]) as served,
        running(served.config(), restart=PATIENT) as srv,
        asyncio.TaskGroup() as tasks,
    ):
        await served.stop()
        call = tasks.create_task(srv.say("echo", text="late"))
        await srv.events.wait_for(UpstreamDied, 3)
        assert srv.server.statistics().state is not ServerState.READY
        await served.start()
        assert await call == "late"
        assert srv.server.statistics().protocol_version == ERAS[kind]
        assert (await _counts(srv))["runs"] == 1


@pytest.mark.parametrize("kind", FEW)
async def test_a_death_in_mid_call_fails_the_call_and_nothing_is_done_twice(kind: str) -> None:
    async with serving(*KINDS[kind]) as served, running(served.config(), restart=PATIENT) as srv:
        async with asyncio.TaskGroup() as tasks:
            call = tasks.create_task(_failure_of(srv.call("wait", name="x")))
            await _until_waiting(srv, "x")
            await served.stop()
        error = call.result().describe()
        assert (error.retryable, error.details) == (False, {"may_have_run": True})
        assert error.message == "srv broke the connection off before it answered"
        await served.start()
        assert await srv.say("echo", text="back") == "back"
        assert (await _counts(srv))["runs"] == 1


async def test_an_idempotent_call_may_be_tried_again_after_a_death() -> None:
    async with serving() as served, running(served.config(), restart=PATIENT) as srv:
        failure = await _failure_of(srv.server.call("end", {"status": 1}, Run(), idempotent=True))
        assert failure.describe().retryable


async def test_a_call_that_waits_for_the_next_start_has_not_begun() -> None:
    async with serving() as served, running(served.config(), restart=PATIENT) as srv:
        await served.stop()
        run = Run()
        async with asyncio.TaskGroup() as tasks:
            call = tasks.create_task(srv.call("echo", run, text="x"))
            await srv.events.wait_for(UpstreamDied, 2)
            assert not run.may_have_begun
            call.cancel()


async def test_a_server_that_stays_away_is_given_up_and_found_again_later() -> None:
    restart = RestartPolicy(first_delay_s=0.01, max_delay_s=0.01, give_up_after=3, rare_delay_s=0.5)
    async with serving() as served, running(served.config(), restart=restart) as srv:
        await served.stop()
        failure = await _failure_of(srv.call("echo", text="x"))
        assert "cannot be reached: Connection refused" in str(failure)
        assert failure.describe().retryable
        await srv.events.wait_for(UpstreamGaveUp)
        await served.start()
        await srv.events.wait_for(UpstreamStarted, 2)
        assert await srv.say("echo", text="back") == "back"


async def test_a_server_that_was_never_there_is_said_to_be_unreachable_at_once() -> None:
    async with serving() as served:
        await served.stop()
        async with running(served.config(), restart=PATIENT) as srv:
            failure = await _failure_of(srv.call("echo", text="x"))
            assert str(failure) == "srv cannot be reached: Connection refused"
            assert failure.describe().retryable


async def test_calls_under_way_go_on_when_the_server_takes_no_new_ones() -> None:
    """As when a server is told to end and finishes what it has begun."""
    async with (
        serving("--slow-end") as served,
        running(served.config(), restart=PATIENT) as srv,
        asyncio.TaskGroup() as tasks,
    ):
        under_way = tasks.create_task(srv.say("nap", name="x", time_s=1.0))
        await _until_waiting(srv, "x")
        stopping = tasks.create_task(served.stop(signal.SIGTERM))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                while True:
                    with suppress(UpstreamFailed):  # one may come just when it is told to end
                        await srv.say("echo", text="x")
        assert srv.events.of(UpstreamDied)
        assert not under_way.done()
        assert await under_way == "rested"
        await stopping


@pytest.mark.parametrize("kind", TOLD)
async def test_headers_are_sent_and_never_shown(kind: str) -> None:
    token = "secret-token-of-mine"
    headers = {"Authorization": f"Bearer {token}", "X-Mine": "1"}
    async with serving(*KINDS[kind], "--token", token) as served:
        async with running(served.config(headers=headers)) as srv:
            found = (await srv.call("headers_of_call", region="ü")).structured or {}
            assert (found["x-mine"], found["user-agent"]) == ("1", "exai/1")
            assert ("mcp-param-region" in found) is (kind == "2026")
            assert found.get("mcp-name") == ("headers_of_call" if kind == "2026" else None)
        wrong = {"Authorization": "Bearer another-secret"}
        async with running(served.config(headers=wrong)) as srv:
            failure = await _failure_of(srv.call("echo", text="x"))
            assert "does not accept our credentials (401 Unauthorized)" in str(failure)
            assert "another-secret" not in repr(srv.events.events) + str(failure)


async def test_a_header_that_cannot_be_sent_is_named_without_its_value(
    shared: SharedServers,
) -> None:
    for headers in ({"X-Key": "a\nb-secret"}, {"X-Key": "b-secret\u20ac"}, {"X Key": "b-secret"}):
        served = await shared()
        async with running(served.config(headers=headers)) as srv:
            failure = str(await _failure_of(srv.call("echo", text="x")))
            assert "header" in failure
            assert "secret" not in failure
            assert "X" in failure


@pytest.mark.parametrize("url", ["ftp://there/mcp", "http://", "http://[bad/mcp", "nonsense"])
async def test_a_url_that_is_none_is_said_to_be_none(url: str) -> None:
    async with running(UpstreamConfig(url=url)) as srv:
        failure = await _failure_of(srv.call("echo", text="x"))
        assert str(failure) == "srv cannot be used: its url is none of http:// or https://"


async def test_a_redirect_within_the_origin_is_followed(shared: SharedServers) -> None:
    served = await shared("--slash")
    async with running(served.config()) as srv:
        assert await srv.say("echo", text="there") == "there"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_result_over_the_limit_fails_its_call_only(
    kind: str, shared: SharedServers
) -> None:
    served = await shared(*KINDS[kind])
    async with (
        running(served.config(), max_result_bytes=1_000_000) as srv,
    ):
        with loop_time() as held, pytest.raises(ResultTooLarge) as failed:
            await srv.call("much", size_bytes=5_000_000)
        assert held.longest_s < 0.05, held.name
        assert failed.value.describe().details == {"max_bytes": 1_000_000}
        assert len(await srv.say("much", size_bytes=400_000)) == 400_000
        assert srv.server.statistics().start_count == 1


@pytest.mark.parametrize("kind", TOLD)
async def test_what_a_run_brings_along_is_sent_as_meta(kind: str, shared: SharedServers) -> None:
    run = Run()
    capabilities: dict[str, Any] = {"elicitation": {}}
    run.traceparent = "00-1-2-01"
    run.meta = {
        "own/key": {"a": 1},
        "io.modelcontextprotocol/clientCapabilities": capabilities,
        "io.modelcontextprotocol/clientInfo": {"name": "not us"},
    }
    served = await shared(*KINDS[kind])
    async with running(served.config()) as srv:
        meta = (await srv.call("meta_of_call", run)).structured or {}
    own = {k: v for k, v in meta.items() if not k.startswith("io.model")}
    progress_token = own.pop("progressToken", own.pop("progress_token", None))
    assert progress_token is not None
    assert own == {"own/key": {"a": 1}, "traceparent": "00-1-2-01"}
    ours = {k: v for k, v in meta.items() if k.startswith("io.model")}
    if kind == "2026":
        assert ours["io.modelcontextprotocol/clientCapabilities"] == capabilities
        assert ours["io.modelcontextprotocol/clientInfo"]["name"] == "exai"
    else:
        assert ours == {}


async def test_a_server_may_ask_before_it_answers(shared: SharedServers) -> None:
    served = await shared()
    async with running(served.config()) as srv:
        run = Run()
        run.meta = {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}}}
        asked = await srv.call("ask_first", run)
        assert asked.input_required is not None
        assert asked.outputs == []
        assert asked.input_required["requestState"]
        assert asked.input_required["inputRequests"]["name"]["method"] == "elicitation/create"
        run.input = {
            "inputResponses": {"name": {"action": "accept", "content": {"name": "me"}}},
            "requestState": asked.input_required["requestState"],
        }
        answered = await srv.call("ask_first", run)
        assert answered.input_required is None
        assert "me" in text_of(answered.outputs)


@pytest.mark.parametrize("tool", ["elicit", "ask_first"])
async def test_a_server_of_ones_own_asks_the_client(tool: str, shared: SharedServers) -> None:
    answer = {"action": "accept", "content": {"name": "Ann"}}
    client = ScriptedClient({"elicitation/create": answer})
    served = await shared(*(("--legacy",) if tool == "elicit" else ()))
    async with running(served.config(instance="session")) as srv:
        assert "Ann" in await srv.say(tool, Run("s1", client))
    assert [method for method, _ in client.asked] == ["elicitation/create"]


@pytest.mark.parametrize("kind", STREAMING)
async def test_what_a_server_logs_in_mid_call_is_heard(kind: str, shared: SharedServers) -> None:
    served = await shared(*KINDS[kind])
    run = Run()
    run.meta = {"io.modelcontextprotocol/logLevel": "debug"}
    async with running(served.config()) as srv:
        await srv.call("log", run, text="a word")
        await until(lambda: bool(run.logged))
    assert run.logged[0]["data"] == "a word"


async def test_the_session_is_ended_with_the_daemon() -> None:
    async with serving("--legacy") as served:
        async with running(served.config()):
            pass
        async with running(served.config()) as srv:
            assert (await _counts(srv))["deleted"] == 1


async def test_calls_fail_when_the_pool_is_closed() -> None:
    for kind in TOLD:
        async with serving(*KINDS[kind]) as served, asyncio.TaskGroup() as tasks:
            async with running(served.config()) as srv:
                call = tasks.create_task(_failure_of(srv.call("wait", name="x")))
                await _until_waiting(srv, "x")
            assert "was stopped" in str(call.result())


async def _counts(srv: Running) -> dict[str, Any]:
    return json.loads(await srv.say("count"))  # type: ignore[no-any-return]


async def _until_waiting(srv: Running, name: str) -> None:
    while name not in (await _counts(srv))["waiting"]:
        pass


async def _failure_of(call: Awaitable[object]) -> UpstreamFailed:
    async with asyncio.timeout(BOUND_S):
        with pytest.raises(UpstreamFailed) as failed:
            await call
    return failed.value
