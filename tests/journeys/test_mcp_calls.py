"""Calls of MCP clients, through every door and in both eras: the same router is behind all."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ToolsListChanged
from mcp_types import CallToolResult

from exai.client.daemon_client import DaemonClient
from exai.core.config import LimitsConfig
from exai.core.errors import ToolFailed
from exai.core.events import CallAccepted
from exai.core.outcomes import Completed, text_block
from exai.core.tool import SharingPolicy, ToolRun
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from exai.testing.scripted_tool import Gates, ScriptedTool
from tests.journeys.mcp_doors import DOORS, PATIENCE_S, Door, door_name, mcp_client

BLOCKS: list[dict[str, Any]] = [
    {"type": "text", "text": "words", "annotations": {"audience": ["user"], "priority": 0.5}},
    {"type": "image", "data": "AAAA", "mimeType": "image/png", "_meta": {"a/b": 1}},
    {"type": "audio", "data": "AAAA", "mimeType": "audio/wav"},
    {"type": "resource_link", "uri": "test://a", "name": "a"},
    {"type": "resource", "resource": {"uri": "test://b", "text": "inside"}},
]

every_door = pytest.mark.parametrize("door", DOORS, ids=door_name)
RESUMING = Door("http", "legacy")
"""Whose clients pick up a lost answer, see `test_mcp_resuming`."""


async def say_all(arguments: dict[str, Any], run: ToolRun) -> Completed:
    return Completed(BLOCKS, structured={"arguments": arguments}, result_meta={"x/y": [1]})


async def fail(arguments: dict[str, Any], run: ToolRun) -> Completed:
    raise ToolFailed("it went wrong", outputs=[text_block("first this, then that")])


async def count_to_three(arguments: dict[str, Any], run: ToolRun) -> Completed:
    for number in range(1, 4):
        run.report(f"step {number}", progress=number, total=3)
    run.log({"level": "warning", "logger": "counter", "data": {"counted": 3}})
    return Completed([text_block("three")])


async def show_meta(arguments: dict[str, Any], run: ToolRun) -> Completed:
    return Completed([], structured={"meta": run.meta})


@pytest.fixture
def gates() -> Gates:
    return Gates()


@pytest.fixture
async def daemon(tmp_path: Path, gates: Gates) -> AsyncIterator[RunningDaemon]:
    tools = [
        ScriptedTool("say_all", say_all),
        ScriptedTool("fail", fail),
        ScriptedTool("count", count_to_three),
        ScriptedTool("show_meta", show_meta),
        ScriptedTool("gate", gates),
        ScriptedTool("shared_gate", gates, policy=SharingPolicy(share="principal")),
    ]
    async with running_daemon(daemon_config(tmp_path), tools) as running:
        yield running


def reason(result: CallToolResult) -> dict[str, Any]:
    assert result.is_error
    assert result.meta is not None
    said: dict[str, Any] = dict(result.meta)["exai/error"]
    return said


@every_door
async def test_all_that_a_tool_says_passes(daemon: RunningDaemon, door: Door) -> None:
    async with mcp_client(daemon, door) as client:
        assert client.protocol_version == ("2026-07-28" if door.is_modern else "2025-11-25")
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert {"say_all", "fail", "version"} <= set(names)
        result = await client.call_tool("say_all", {"n": 2**60, "nested": [{"a": None}]})
    said = [b.model_dump(by_alias=True, mode="json", exclude_none=True) for b in result.content]
    assert said == BLOCKS
    assert result.structured_content == {"arguments": {"n": 2**60, "nested": [{"a": None}]}}
    assert result.meta is not None
    assert dict(result.meta)["x/y"] == [1]


@every_door
async def test_large_arguments_pass(daemon: RunningDaemon, door: Door) -> None:
    async with mcp_client(daemon, door) as client:
        result = await client.call_tool("fail", {"text": "x" * 5_000_000})
    assert reason(result)["code"] == "TOOL_EXECUTION_ERROR"


@every_door
async def test_a_failure_is_a_result_with_a_reason_for_programs(
    daemon: RunningDaemon, door: Door
) -> None:
    async with mcp_client(daemon, door) as client:
        result = await client.call_tool("fail", {})
    assert [getattr(block, "text", None) for block in result.content] == ["first this, then that"]
    assert reason(result) == {
        "code": "TOOL_EXECUTION_ERROR",
        "message": "it went wrong",
        "retryable": False,
        "details": {"may_have_run": True},
    }


@every_door
async def test_a_tool_that_is_not_there_is_a_fault_of_the_protocol(
    daemon: RunningDaemon, door: Door
) -> None:
    async with mcp_client(daemon, door) as client:
        with pytest.raises(MCPError, match="Unknown tool: says_all") as raised:
            await client.call_tool("says_all", {})
    assert raised.value.error.code == -32602
    assert raised.value.error.data == {"closest": ["say_all"]}


@every_door
async def test_arguments_that_do_not_fit_are_for_the_model_to_mend(
    daemon: RunningDaemon, door: Door
) -> None:
    async with mcp_client(daemon, door) as client:
        result = await client.call_tool("chat", {"prompt": 3})
    assert reason(result)["code"] == "VALIDATION_ERROR"
    assert reason(result)["details"] == {"path": "/prompt"}


@every_door
async def test_progress_and_log_come_before_the_answer(daemon: RunningDaemon, door: Door) -> None:
    told: list[Any] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))

    async def on_log(params: Any) -> None:
        told.append((params.level, params.logger, params.data))

    meta: Any = {"io.modelcontextprotocol/logLevel": "info"} if door.is_modern else None
    async with mcp_client(daemon, door, logging_callback=on_log) as client:
        result = await client.call_tool("count", {}, progress_callback=on_progress, meta=meta)
    assert [block.text for block in result.content if block.type == "text"] == ["three"]
    steps = [(1, 3, "step 1"), (2, 3, "step 2"), (3, 3, "step 3")]
    assert sorted(told, key=str) == sorted(
        [*steps, ("warning", "counter", {"counted": 3})], key=str
    )


async def test_of_2026_no_log_is_told_unasked(daemon: RunningDaemon) -> None:
    told: list[Any] = []

    async def on_log(params: Any) -> None:
        told.append(params)

    async with mcp_client(daemon, Door("ws", "auto"), logging_callback=on_log) as client:
        await client.call_tool("count", {})
    assert told == []


@every_door
async def test_what_is_cancelled_ends(daemon: RunningDaemon, gates: Gates, door: Door) -> None:
    async with mcp_client(daemon, door) as client:
        calling = asyncio.get_running_loop().create_task(client.call_tool("gate", {"gate": "a"}))
        await gates.until_inside("a")
        calling.cancel()
        async with asyncio.timeout(PATIENCE_S):
            await gates.until_cancelled("a")


@every_door
async def test_calls_go_side_by_side(daemon: RunningDaemon, gates: Gates, door: Door) -> None:
    async with mcp_client(daemon, door) as client, asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(client.call_tool("gate", {"gate": f"g{n}"})) for n in range(6)]
        for n in range(6):
            await gates.until_inside(f"g{n}")
        assert (await client.call_tool("say_all", {})).content
        for n in reversed(range(6)):
            gates.open(f"g{n}")
            await calls[n]


@every_door
async def test_equal_work_of_other_doors_is_joined(
    daemon: RunningDaemon, gates: Gates, door: Door
) -> None:
    async with (
        mcp_client(daemon, door) as client,
        DaemonClient(daemon.url, token=TOKEN) as other,
        asyncio.TaskGroup() as tasks,
    ):
        first = tasks.create_task(other.call("shared_gate", {"gate": "a"}))
        await gates.until_inside("a")
        second = tasks.create_task(client.call_tool("shared_gate", {"gate": "a"}))
        await daemon.events.wait_for(CallAccepted, 2)
        gates.open("a")
        await first
        assert not (await second).is_error
    assert gates.runs == ["a"]


@every_door
async def test_the_same_key_runs_once(daemon: RunningDaemon, gates: Gates, door: Door) -> None:
    meta: Any = {"exai/idempotencyKey": "key-1"}
    gates.open("a")
    for _ in range(2):
        async with mcp_client(daemon, door) as client:
            result = await client.call_tool("gate", {"gate": "a"}, meta=meta)
            assert not result.is_error
    assert gates.runs == ["a"]
    async with mcp_client(daemon, door) as client:
        other = await client.call_tool("gate", {"gate": "b"}, meta=meta)
    assert reason(other)["code"] == "REQUEST_ID_CONFLICT"


@every_door
async def test_a_call_with_a_key_outlives_its_connection(
    daemon: RunningDaemon, gates: Gates, door: Door
) -> None:
    meta: Any = {"exai/idempotencyKey": "key-1"}
    async with mcp_client(daemon, door, says_goodbye=False) as client:
        loop = asyncio.get_running_loop()
        calling = loop.create_task(client.call_tool("gate", {"gate": "a"}, meta=meta))
        await gates.until_inside("a")
        # The connection goes, and nobody says goodbye to the call.
    gates.open("a")
    await asyncio.wait([calling])
    with pytest.raises(MCPError):
        await calling
    async with mcp_client(daemon, DOORS[0]) as client:
        assert not (await client.call_tool("gate", {"gate": "a"}, meta=meta)).is_error
    assert gates.runs == ["a"]
    assert gates.cancelled == []


@pytest.mark.parametrize("key", ["", "with space", "x" * 129, 7])
async def test_a_key_that_is_none_is_told_so(daemon: RunningDaemon, key: object) -> None:
    meta: Any = {"exai/idempotencyKey": key}
    async with mcp_client(daemon, DOORS[0]) as client:
        with pytest.raises(MCPError, match="expected 1 to 128 printable ASCII"):
            await client.call_tool("say_all", {}, meta=meta)


@every_door
async def test_servers_see_the_meta_that_is_theirs(daemon: RunningDaemon, door: Door) -> None:
    meta: Any = {"tenant/id": "t1", "exai/idempotencyKey": "key-1"}
    async with mcp_client(daemon, door) as client:
        result = await client.call_tool("show_meta", {}, meta=meta)
    assert result.structured_content is not None
    seen = result.structured_content["meta"]
    assert seen["tenant/id"] == "t1"
    assert not {"exai/idempotencyKey", "progressToken"} & seen.keys()


@every_door
async def test_overload_is_a_result_that_says_when_to_try_again(
    tmp_path: Path, gates: Gates, door: Door
) -> None:
    limits = LimitsConfig(global_max_inflight=1, session_max_inflight=1, session_max_waiting=1)
    config = daemon_config(tmp_path, limits=limits)
    tools = [ScriptedTool("gate", gates)]
    async with (
        running_daemon(config, tools) as daemon,
        mcp_client(daemon, door) as client,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(client.call_tool("gate", {"gate": "a"}))
        await gates.until_inside("a")
        tasks.create_task(client.call_tool("gate", {"gate": "b"}))
        await daemon.events.wait_for(CallAccepted, 2)
        refused = await client.call_tool("gate", {"gate": "c"})
        gates.open("a")
        gates.open("b")
    said = reason(refused)
    assert (said["code"], said["retryable"]) == ("OVER_CAPACITY", True)
    assert said["retry_after_s"] > 0


@pytest.mark.parametrize("door", [d for d in DOORS if not d.is_modern], ids=door_name)
async def test_changed_tools_are_told(daemon: RunningDaemon, door: Door) -> None:
    changed = asyncio.Event()

    async def on_message(message: Any) -> None:
        if getattr(message, "method", "") == "notifications/tools/list_changed":
            changed.set()

    async with mcp_client(daemon, door, message_handler=on_message) as client:
        await client.list_tools()
        async with asyncio.timeout(PATIENCE_S):
            while not changed.is_set():  # over HTTP it is heard once the client listens
                daemon.daemon.tools.replace("more", [])
                daemon.daemon.tools.replace("more", [ScriptedTool("more", say_all)])
                await asyncio.sleep(0.01)
        names = [tool.name for tool in (await client.list_tools(cache_mode="bypass")).tools]
    assert "more" in names


@pytest.mark.parametrize("door", [d for d in DOORS if d.is_modern], ids=door_name)
async def test_since_2026_changed_tools_are_told_to_who_asked(
    daemon: RunningDaemon, door: Door
) -> None:
    async with mcp_client(daemon, door) as client:
        async with client.listen(tools_list_changed=True) as news:
            daemon.daemon.tools.replace("more", [ScriptedTool("more", say_all)])
            async with asyncio.timeout(PATIENCE_S):
                assert await anext(aiter(news)) == ToolsListChanged()
        names = [tool.name for tool in (await client.list_tools(cache_mode="bypass")).tools]
    assert "more" in names


@pytest.mark.parametrize("door", [each for each in DOORS if each != RESUMING], ids=door_name)
async def test_what_waits_when_the_daemon_stops_is_to_be_sent_again(
    tmp_path: Path, gates: Gates, door: Door
) -> None:
    limits = LimitsConfig(global_max_inflight=1)
    config = daemon_config(tmp_path, limits=limits)
    tools = [ScriptedTool("gate", gates)]
    keyed: Any = {"exai/idempotencyKey": "key-1"}
    async with (
        asyncio.timeout(PATIENCE_S),
        running_daemon(config, tools) as daemon,
        mcp_client(daemon, door, says_goodbye=False) as client,
        asyncio.TaskGroup() as tasks,
    ):
        await client.list_tools()  # so that the client needs to know nothing more
        runs = tasks.create_task(client.call_tool("gate", {"gate": "a"}))
        await gates.until_inside("a")
        waiting = [
            tasks.create_task(client.call_tool("gate", {"gate": "b"})),
            tasks.create_task(client.call_tool("gate", {"gate": "c"}, meta=keyed)),
        ]
        await daemon.events.wait_for(CallAccepted, 3)
        daemon.stop.set()
        for call in waiting:
            said = reason(await call)
            assert (said["code"], said["retryable"]) == ("SERVICE_UNAVAILABLE", True)
        gates.open("a")
        assert not (await runs).is_error
    gates.open("c")
    async with running_daemon(config, tools) as daemon, mcp_client(daemon, door) as client:
        assert not (await client.call_tool("gate", {"gate": "c"}, meta=keyed)).is_error
    assert gates.runs == ["a", "c"]
