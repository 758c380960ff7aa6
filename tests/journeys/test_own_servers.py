"""MCP servers of which each session, or each principal, has one of its own, behind a daemon."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp_types import (
    CreateMessageResult,
    ElicitResult,
    ErrorData,
    ListRootsResult,
    Root,
    TextContent,
)

from exai.core.config import LimitsConfig, PrincipalConfig, Secret, UpstreamConfig
from exai.core.events import SessionDetached, UpstreamStarted, UpstreamStopped
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from tests.journeys.mcp_doors import DOORS, Door, door_name, mcp_client
from tests.journeys.wire import Wire, open_wire
from tests.upstream.running_server import is_alive, personal, scripted, until

OTHER = "token-of-another-0123456789abcdef"
PRINCIPALS = {
    "default": PrincipalConfig(token=Secret(TOKEN)),
    "other": PrincipalConfig(token=Secret(OTHER)),
}
FORM = {
    "mode": "form",
    "message": "Who are you?",
    "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}},
}


@asynccontextmanager
async def serving(
    state_dir: Path, server: UpstreamConfig, **limits: Any
) -> AsyncIterator[RunningDaemon]:
    """Run a daemon with one server, whose tools are known."""
    config = daemon_config(
        state_dir,
        upstreams={"own": server},
        principals=PRINCIPALS,
        limits=LimitsConfig(**limits),
    )
    async with running_daemon(config, environment=os.environ) as daemon:
        await daemon.events.wait_for(UpstreamStarted, 1)
        yield daemon


async def say(wire: Wire, tool: str, request_id: str, **arguments: Any) -> str:
    answer = await wire.call(f"own__{tool}", request_id, arguments=arguments)
    assert answer["ok"], answer["error"]
    return str(answer["text"])


async def own_part(wire: Wire) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    health = (await wire.ask("health", "health_res"))["health"]
    return health["own_instances"], health["upstreams"][0]


async def until_running(wire: Wire, count: int) -> None:
    """Wait until so many calls of the server run."""
    while True:
        if (await own_part(wire))[1]["running_count"] == count:
            return
        await asyncio.sleep(0.01)  # not to be told to ask less often


async def test_each_session_has_its_own_and_its_end_is_the_servers(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, scripted(instance="session")) as daemon,
        open_wire(daemon.url, token=TOKEN) as one,
    ):
        async with open_wire(daemon.url, token=TOKEN) as two:
            assert await say(one, "count", "r1") == "1"
            assert await say(two, "count", "r1") == "1"
            assert await say(one, "count", "r2") == "2"
            pid = int(await say(two, "pid", "r2"))
        await until(lambda: not is_alive(pid))
        stopped = await daemon.events.first_of(UpstreamStopped)
        assert (stopped.pid, stopped.reason) == (pid, "its session ended")
        assert await say(one, "count", "r3") == "3"


async def test_a_session_that_may_come_back_keeps_its_server(tmp_path: Path) -> None:
    async with serving(tmp_path, scripted(instance="session")) as daemon:
        async with open_wire(daemon.url, token=TOKEN, greet=False, says_bye=False) as wire:
            hello = await wire.hello(token=TOKEN)
            assert await say(wire, "count", "r1") == "1"
        await daemon.events.wait_for(SessionDetached, 1)
        resume = {"session_id": hello["session_id"], "resume_token": hello["resume_token"]}
        async with open_wire(daemon.url, greet=False) as wire:
            assert (await wire.hello(token=TOKEN, resume=resume))["resumed"]
            assert await say(wire, "count", "r2") == "2"


async def test_a_session_that_expires_takes_its_server_along(tmp_path: Path) -> None:
    soon = {"resume_window_s": 0.05, "session_cleanup_interval_s": 0.05}
    async with serving(tmp_path, scripted(instance="session"), **soon) as daemon:
        async with open_wire(daemon.url, token=TOKEN, says_bye=False) as wire:
            pid = int(await say(wire, "pid", "r1"))
        await until(lambda: not is_alive(pid))


async def test_a_call_under_way_does_not_outlive_its_session(tmp_path: Path) -> None:
    async with serving(tmp_path, scripted(instance="session")) as daemon:
        async with open_wire(daemon.url, token=TOKEN) as wire:
            pid = int(await say(wire, "pid", "r1"))
            await wire.begin("own__wait", "r2")
            await wire.begin("own__wait", "r3")
        await until(lambda: not is_alive(pid))


async def test_the_sessions_of_a_principal_share_and_see_their_own_only(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, scripted(instance="principal")) as daemon,
        open_wire(daemon.url, token=TOKEN) as one,
        open_wire(daemon.url, token=TOKEN) as two,
        open_wire(daemon.url, token=OTHER) as other,
    ):
        assert await say(one, "count", "r1") == "1"
        assert await say(two, "count", "r1") == "2"
        pid = int(await say(one, "pid", "r2"))
        assert await own_part(other) == ([], (await own_part(one))[1])
        assert await say(other, "count", "r1") == "1"
        own, seen = await own_part(two)
        assert [(each["upstream"], each["pid"]) for each in own] == [("own", pid)]
        assert (seen["instance"], seen["instance_count"]) == ("principal", 3)


async def test_a_principal_is_told_no_session_of_another(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, scripted(instance="session")) as daemon,
        open_wire(daemon.url, greet=False) as one,
        open_wire(daemon.url, token=OTHER) as other,
    ):
        session_id = (await one.hello(token=TOKEN))["session_id"]
        await say(one, "count", "r1")
        assert [each["session_id"] for each in (await own_part(one))[0]] == [session_id]
        said = await other.ask("health", "health_res")
        assert session_id not in str(said)


async def test_nothing_is_shared_beyond_whom_an_instance_serves(tmp_path: Path) -> None:
    said = {"count": {"share": "session", "cache_ttl_s": 60.0}}
    async with (
        serving(tmp_path, scripted(instance="session", tools=said)) as daemon,
        open_wire(daemon.url, token=TOKEN) as one,
        open_wire(daemon.url, token=TOKEN) as two,
    ):
        assert await say(one, "count", "r1") == "1"
        cached = await one.call("own__count", "r2")
        assert (cached["text"], cached["meta"]["cached"]) == ("1", True)
        fresh = await two.call("own__count", "r1")
        assert (fresh["text"], fresh["meta"]["cached"]) == ("1", False)


async def test_where_all_instances_are_in_use_a_call_is_refused_with_the_scope(
    tmp_path: Path,
) -> None:
    server = scripted(instance="session", max_instances=1)
    async with (
        serving(tmp_path, server) as daemon,
        open_wire(daemon.url, token=TOKEN) as one,
        open_wire(daemon.url, token=TOKEN) as two,
    ):
        assert await say(one, "count", "r1") == "1"
        await one.begin("own__wait", "r2")
        await until_running(one, 1)
        error = (await two.call("own__count", "r1"))["error"]
        assert (error["code"], error["retryable"]) == ("OVER_CAPACITY", True)
        assert error["details"] == {"scope": "upstream:own"}
        await one.say("cancel_tool", request_id="r2")
        await one.result("r2")
        await until_running(one, 0)
        assert await say(two, "count", "r2") == "1"


async def sample(context: Any, params: Any) -> CreateMessageResult:
    text = TextContent(type="text", text=f"{len(params.messages)} heard")
    return CreateMessageResult(role="assistant", content=text, model="m")


async def elicit(context: Any, params: Any) -> ElicitResult | ErrorData:
    return ElicitResult(action="accept", content={"name": "Ann"})


async def list_roots(context: Any) -> ListRootsResult:
    return ListRootsResult(roots=[Root.model_validate({"uri": "file:///home", "name": "home"})])


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--legacy"]], ids=["to-2026", "to-2025"])
@pytest.mark.parametrize("door", DOORS, ids=door_name)
async def test_a_client_of_any_door_is_asked_back(
    tmp_path: Path, door: Door, options: list[str]
) -> None:
    """A server of 2025 cannot ask a client of 2026: that takes no requests."""
    async with (
        serving(tmp_path, personal(*options)) as daemon,
        mcp_client(
            daemon,
            door,
            sampling_callback=sample,
            elicitation_callback=elicit,
            list_roots_callback=list_roots,
        ) as client,
    ):
        questions = {
            "elicitation/create": (FORM, "Ann"),
            "sampling/createMessage": ({"messages": [], "maxTokens": 5}, "0 heard"),
            "roots/list": ({}, "file:///home"),
        }
        for method, (params, said) in questions.items():
            result = await client.call_tool("own__ask", {"method": method, "params": params})
            text = result.content[0].text  # type: ignore[union-attr]
            if door.is_modern and options:
                assert "-32601" in text
            else:
                assert said in text, text


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS, ids=door_name)
async def test_a_client_that_declares_nothing_is_asked_nothing(tmp_path: Path, door: Door) -> None:
    async with (
        serving(tmp_path, personal("--legacy")) as daemon,
        mcp_client(daemon, door) as client,
    ):
        result = await client.call_tool("own__ask", {"method": "roots/list"})
        assert "-32601" in result.content[0].text  # type: ignore[union-attr]


@pytest.mark.slow
async def test_a_daemon_that_ends_leaves_no_instance_behind(tmp_path: Path) -> None:
    pids: list[int] = []
    async with serving(tmp_path, scripted("--stubborn", instance="session")) as daemon:
        async with asyncio.TaskGroup() as tasks:
            for number in range(3):
                tasks.create_task(_use(daemon, number, pids))
        assert len(pids) == 3
    assert not any(map(is_alive, pids))


async def _use(daemon: RunningDaemon, number: int, pids: list[int]) -> None:
    async with open_wire(daemon.url, token=TOKEN, says_bye=number == 0) as wire:
        pids.append(int(await say(wire, "pid", "r1")))
