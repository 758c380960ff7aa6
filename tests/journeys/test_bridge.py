"""The SDK's own client, of both eras, through `exai bridge` to a whole daemon."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import LoggingMessageNotificationParams, TextContent, ToolListChangedNotification

from exai.core.config import LimitsConfig, UpstreamConfig
from exai.core.errors import ToolFailed
from exai.core.outcomes import Completed, text_block
from exai.core.tool import ToolRun
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from exai.testing.scripted_tool import Gates, Script, ScriptedTool
from tests.cli.bridge_process import sdk_client
from tests.cli.exai_process import PATIENCE_S, Shell

pytestmark = pytest.mark.slow

TIME = UpstreamConfig(
    command=sys.executable, args=("-m", "mcp_server_time", "--local-timezone", "UTC")
)
Connect = Callable[..., AbstractAsyncContextManager[Client]]


async def work(arguments: dict[str, Any], run: ToolRun) -> Completed:
    for number in range(3):
        run.report(f"step {number}", progress=number, total=2)
    run.log({"level": "warning", "data": "look out"})
    return Completed([text_block("worked")], structured={"a": [1]}, result_meta={"box/k": 1})


async def fail(arguments: dict[str, Any], run: ToolRun) -> Completed:
    raise ToolFailed("it broke", outputs=[text_block("in line 3")])


async def meet(arguments: dict[str, Any], run: ToolRun) -> Completed:
    await asyncio.sleep(0.05)
    return Completed([text_block(arguments["what"])])


@pytest.fixture
def gates() -> Gates:
    return Gates()


@pytest.fixture
async def daemon(tmp_path: Path, gates: Gates) -> AsyncIterator[RunningDaemon]:
    limits = LimitsConfig(session_max_waiting=200)
    config = daemon_config(tmp_path / "state", upstreams={"time": TIME}, limits=limits)
    scripts: dict[str, Script] = {"work": work, "fail": fail, "meet": meet, "wait": gates}
    tools = [ScriptedTool(name, script) for name, script in scripts.items()]
    async with running_daemon(config, tools) as running:
        yield running


@pytest.fixture(params=["auto", "legacy"])
def connect(request: pytest.FixtureRequest, daemon: RunningDaemon, tmp_path: Path) -> Connect:
    """Return what connects a client of one era or the other."""
    shell = Shell(tmp_path)
    shell.environ["EXAI_WS_TOKEN"] = TOKEN

    def connect(**settings: Any) -> AbstractAsyncContextManager[Client]:
        return sdk_client(shell, "--url", daemon.url, mode=request.param, **settings)

    return connect


def text_of(result: Any) -> str:
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text


async def test_a_client_lists_and_calls_what_the_daemon_has(connect: Connect) -> None:
    async with connect() as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert {"work", "echo", "time__get_current_time"} <= tools.keys()
        assert tools["time__get_current_time"].annotations is not None
        result = await client.call_tool("work", {})
        assert (text_of(result), result.structured_content) == ("worked", {"a": [1]})
        assert result.meta is not None
        assert result.meta["box/k"] == 1
        now = await client.call_tool("time__get_current_time", {"timezone": "UTC"})
        assert '"timezone": "UTC"' in str(now.content)


async def test_failures_are_results_that_say_why(connect: Connect) -> None:
    async with connect() as client:
        await client.list_tools()  # so that it is known what the tools promise
        failed = await client.call_tool("fail", {})
        assert (failed.is_error, text_of(failed)) == (True, "in line 3")
        assert failed.meta is not None
        assert failed.meta["exai/error"]["code"] == "TOOL_EXECUTION_ERROR"
        misfit = await client.call_tool("echo", {"text": 5})
        assert misfit.is_error
        assert misfit.structured_content["code"] == "VALIDATION_ERROR"
        with pytest.raises(MCPError, match="Unknown tool: nothing") as unknown:
            await client.call_tool("nothing", {})
        assert unknown.value.code == -32602


async def test_progress_and_logs_of_a_call_are_heard(connect: Connect) -> None:
    steps: list[tuple[float, float | None, str | None]] = []
    logs: list[Any] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        steps.append((progress, total, message))

    async def hear_log(params: LoggingMessageNotificationParams) -> None:
        logs.append((params.level, params.data))

    async with connect(logging_callback=hear_log, log_level="info") as client:
        await client.call_tool("work", {}, progress_callback=hear)
        await client.call_tool("echo", {"text": "afterwards"})
    assert steps == [(0, 2, "step 0"), (1, 2, "step 1"), (2, 2, "step 2")]
    assert logs == [("warning", "look out")]


async def test_who_waits_no_more_has_the_work_stopped(connect: Connect, gates: Gates) -> None:
    async with connect() as client:
        with pytest.raises(MCPError, match="timed out"):
            await client.call_tool("wait", {"gate": "g"}, read_timeout_seconds=0.5)
        await gates.until_cancelled("g")
        assert text_of(await client.call_tool("meet", {"what": "on"})) == "on"


async def test_work_ends_with_the_client(connect: Connect, gates: Gates) -> None:
    async with connect() as client, asyncio.TaskGroup() as tasks:
        call = tasks.create_task(client.call_tool("wait", {"gate": "g"}))
        await gates.until_inside("g")
        call.cancel()
    await gates.until_cancelled("g")


async def test_a_hundred_calls_at_once_are_told_apart(connect: Connect) -> None:
    async with connect() as client:

        async def call(number: int) -> None:
            assert text_of(await client.call_tool("meet", {"what": str(number)})) == str(number)

        async with asyncio.TaskGroup() as tasks:
            for number in range(100):
                tasks.create_task(call(number))


async def test_one_key_is_one_call(connect: Connect, gates: Gates) -> None:
    gates.open("g")
    meta: Any = {"exai/idempotencyKey": "order-1"}
    async with connect() as client:
        for _ in range(2):
            result = await client.call_tool("wait", {"gate": "g"}, meta=meta)
            assert text_of(result) == "through g"
    assert gates.runs == ["g"]


async def test_a_client_that_listens_is_told_that_the_tools_changed(
    connect: Connect, daemon: RunningDaemon
) -> None:
    told = asyncio.Event()

    async def hear(message: Any) -> None:
        if isinstance(message, ToolListChangedNotification):
            told.set()

    async with connect(message_handler=hear) as client:
        await client.list_tools()
        await hear_of_tools(client, told, lambda: daemon.daemon.tools.replace("test", []))
        names = {tool.name for tool in (await client.list_tools(cache_mode="refresh")).tools}
        assert "work" not in names


async def hear_of_tools(client: Client, told: asyncio.Event, change: Callable[[], None]) -> None:
    """Make a change, and wait until the client hears of it as its era does."""
    async with asyncio.timeout(PATIENCE_S):
        if client.protocol_version != "2026-07-28":
            change()
            await told.wait()
            return
        async with client.listen(tools_list_changed=True) as events:
            change()
            await anext(aiter(events))
