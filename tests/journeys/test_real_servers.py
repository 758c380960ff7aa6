"""The tools of real MCP servers, of both protocol eras, through the daemon."""

import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from exai.core.config import PrincipalConfig, Secret, UpstreamConfig
from exai.core.events import UpstreamStarted
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from tests.journeys.wire import Wire, open_wire

pytestmark = pytest.mark.slow

NODE_BIN = Path(__file__).parent.parent / "node_modules" / ".bin"
TIME = UpstreamConfig(
    command=sys.executable, args=("-m", "mcp_server_time", "--local-timezone", "UTC")
)
GIT = UpstreamConfig(command=sys.executable, args=("-m", "mcp_server_git"))
EVERYTHING = UpstreamConfig(command=str(NODE_BIN / "mcp-server-everything"), args=("stdio",))
DEAD = UpstreamConfig(command=sys.executable, args=("-c", "raise SystemExit(3)"))
MUTE = UpstreamConfig(command=sys.executable, args=("-c", "import time; time.sleep(600)"))
UPSTREAMS = {"time": TIME, "git": GIT, "everything": EVERYTHING, "dead": DEAD, "mute": MUTE}


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[RunningDaemon]:
    config = daemon_config(tmp_path, upstreams=UPSTREAMS)
    async with running_daemon(config, environment=os.environ) as running:
        yield running


async def tools_of(wire: Wire, *servers: str) -> dict[str, dict[str, Any]]:
    """Wait until all these servers have tools, and return every tool by its name."""
    while True:
        listing = await wire.ask("list_tools", "list_tools_res")
        tools = {tool["name"]: tool for tool in listing["tools"]}
        if all(any(name.startswith(f"{server}__") for name in tools) for server in servers):
            return tools
        await wire.hear_op("tools_changed")


async def test_each_server_is_called_and_a_dead_or_silent_one_delays_nobody(
    daemon: RunningDaemon, tmp_path: Path
) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        assert (await wire.call("echo", "r0", arguments={"text": "at once"}))["ok"]
        tools = await tools_of(wire, "time", "git", "everything")
        assert not any(name.startswith(("dead__", "mute__")) for name in tools)

        now = await wire.call("time__get_current_time", "r1", arguments={"timezone": "UTC"})
        assert now["ok"], now
        assert '"timezone": "UTC"' in now["text"]

        sum_ = await wire.call("everything__get-sum", "r2", arguments={"a": 2, "b": 40})
        assert "42" in sum_["text"]

        status = await wire.call("git__git_status", "r3", arguments={"repo_path": str(tmp_path)})
        assert status["error"]["code"] == "TOOL_EXECUTION_ERROR"
        assert status["text"]


async def test_block_types_structured_content_and_progress_pass_untouched(
    daemon: RunningDaemon,
) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        tools = await tools_of(wire, "everything")
        image = await wire.call("everything__get-tiny-image", "r1")
        kinds = [block["type"] for block in image["outputs"]]
        assert "image" in kinds
        assert image["outputs"][kinds.index("image")]["mimeType"] == "image/png"

        weather = await wire.call(
            "everything__get-structured-content", "r2", arguments={"location": "New York"}
        )
        assert set(weather["structured"]) == {"temperature", "conditions", "humidity"}
        assert "outputSchema" in tools["everything__get-structured-content"]

        await wire.say(
            "call_tool",
            name="everything__trigger-long-running-operation",
            request_id="r3",
            arguments={"duration": 0.5, "steps": 5},
        )
        steps = [await wire.hear_op("progress", request_id="r3") for _ in range(3)]
        assert [step["total"] for step in steps] == [5, 5, 5]
        assert (await wire.result("r3"))["ok"]


async def test_wrong_arguments_for_a_foreign_tool_name_the_place(daemon: RunningDaemon) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        await tools_of(wire, "time")
        answer = await wire.call("time__get_current_time", "r1", arguments={"timezone": 7})
    assert answer["error"]["code"] == "VALIDATION_ERROR"
    assert answer["error"]["details"]["path"] == "/timezone"


async def test_a_cancelled_call_leaves_its_server_able_to_work(daemon: RunningDaemon) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        await tools_of(wire, "everything")
        await wire.say(
            "call_tool",
            name="everything__trigger-long-running-operation",
            request_id="long",
            arguments={"duration": 60, "steps": 100},
        )
        await wire.hear_op("progress", request_id="long")
        await wire.say("cancel_tool", request_id="long")
        assert (await wire.result("long"))["error"]["code"] == "CANCELLED"
        answer = await wire.call("everything__echo", "r2", arguments={"message": "still here"})
        assert "still here" in answer["text"]


async def test_a_killed_server_fails_its_calls_at_once_and_comes_back(
    daemon: RunningDaemon,
) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        tools = await tools_of(wire, "everything")
        name = "everything__trigger-long-running-operation"
        arguments = {"duration": 60, "steps": 100}
        await wire.say("call_tool", name=name, request_id="long", arguments=arguments)
        await wire.hear_op("progress", request_id="long")
        [started] = [e for e in daemon.events.of(UpstreamStarted) if e.upstream == "everything"]
        os.kill(started.pid, signal.SIGKILL)
        lost = await wire.result("long")
        assert lost["error"]["code"] == "UPSTREAM_ERROR"
        hints = tools[name]["annotations"]
        may_run_twice = bool(hints.get("readOnlyHint") or hints.get("idempotentHint"))
        assert lost["error"]["retryable"] is may_run_twice
        answer = await wire.call("everything__echo", "r2", arguments={"message": "again"})
        assert "again" in answer["text"]


async def test_a_principal_sees_only_the_servers_that_its_globs_name(tmp_path: Path) -> None:
    narrow = {"narrow": PrincipalConfig(token=Secret(TOKEN), tools=("time__*",))}
    config = daemon_config(tmp_path, upstreams={"time": TIME, "git": GIT}, principals=narrow)
    async with running_daemon(config) as daemon, open_wire(daemon.url, token=TOKEN) as wire:
        tools = await tools_of(wire, "time")
    assert all(name.startswith("time__") for name in tools)


async def test_what_a_real_server_has_beside_tools_is_there(daemon: RunningDaemon) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        await tools_of(wire, "everything")
        listed = await wire.call("resources/list", "l")
        uri = listed["structured"]["resources"][0]["uri"]
        for n, wanted in enumerate((uri, "demo://resource/dynamic/text/1")):
            read = await wire.call("resources/read", f"r{n}", arguments={"uri": wanted})
            assert read["structured"]["contents"][0]["uri"] == wanted

        prompt = {"name": "everything__args-prompt", "arguments": {"city": "Paris"}}
        got = await wire.call("prompts/get", "p", arguments=prompt)
        assert "Paris" in got["structured"]["messages"][0]["content"]["text"]
        ref = {"type": "ref/prompt", "name": "everything__completable-prompt"}
        asked = {"ref": ref, "argument": {"name": "department", "value": "E"}}
        completed = await wire.call("completion/complete", "c", arguments=asked)
        assert completed["structured"]["completion"]["values"] == ["Engineering"]

        await wire.say(
            "call_tool", name="resources/subscribe", request_id="s", arguments={"uri": uri}
        )
        line = (await wire.hear_op("progress", request_id="s"))["log"]
        assert line["level"] == "info"
        assert uri in line["data"]
        assert (await wire.result("s"))["ok"]
        await wire.call("everything__toggle-subscriber-updates", "t")
        await wire.hear_op("resource_updated", uri=uri)
