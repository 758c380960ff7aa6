"""A daemon that is killed leaves nobody behind: no server, no grandchild, no model."""

import asyncio
import json
import os
import shutil
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.cli.exai_process import Shell
from tests.journeys.wire import Wire, open_wire
from tests.processes.process_tree import command_of, descendants_of, has_mapped, is_alive, until

TESTS = Path(__file__).parent.parent
SERVERS = {
    "time": {
        "command": sys.executable,
        "args": ["-m", "mcp_server_time", "--local-timezone", "UTC"],
    },
    "everything": {
        "command": shutil.which("npx"),
        "args": ["--no-install", "mcp-server-everything", "stdio"],
        "cwd": str(TESTS),
    },
}


@asynccontextmanager
async def serving(shell: Shell, *options: str) -> AsyncIterator[tuple[Process, Wire]]:
    """Run a daemon, which the test kills, and speak with it."""
    state_dir = shell.home / "state"
    daemon = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exai", "serve", "--port", "0", "--http-port", "0"),
        *("--state-dir", str(state_dir), *options),
        stdout=PIPE,
        stderr=DEVNULL,
        env=shell.environ,
    )
    try:
        assert daemon.stdout is not None
        ready = (await daemon.stdout.readline()).decode()
        url = next(word for word in ready.split() if word.startswith("ws://")).rstrip(",")
        async with open_wire(url, token=(state_dir / "token").read_text().strip()) as wire:
            yield daemon, wire
    finally:
        if daemon.returncode is None:
            daemon.kill()
        await daemon.wait()


@pytest.mark.slow
async def test_kill_9_leaves_no_child_and_no_grandchild(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.environ["PATH"] = str(Path(str(shutil.which("npx"))).parent) + ":" + shell.environ["PATH"]
    mcp_config = tmp_path / "mcp.json"
    mcp_config.write_text(json.dumps({"mcpServers": SERVERS}))
    async with serving(shell, "--mcp-config", str(mcp_config)) as (daemon, wire):
        await until_all_serve(wire)
        answer = await wire.call("chat", arguments={"prompt": "Say hi."}, timeout_s=60)
        assert answer["meta"]["provider"] == "local", answer
        below = descendants_of(daemon.pid)
        commands = [command_of(pid) for pid in below]
        for part in (b"mcp_server_time", b"mcp-server-everything", b"npm", b"model_server"):
            assert any(part in command for command in commands), commands
        daemon.kill()
        await until(lambda: not any(is_alive(pid) for pid in below))


@pytest.mark.slow
async def test_kill_9_leaves_no_model_that_is_still_loading(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    file = tmp_path / "endless.gguf"
    file.touch()
    shell.environ["EXAI_LOCAL_MODEL_PATH"] = str(file)
    async with serving(shell) as (daemon, wire):
        file.unlink()
        os.mkfifo(file)
        await wire.say("call_tool", name="chat", request_id="r1", arguments={"prompt": "Say hi."})
        await until(lambda: any(has_mapped(p, "xllamacpp") for p in descendants_of(daemon.pid)))
        below = descendants_of(daemon.pid)
        daemon.kill()
        await until(lambda: not any(is_alive(pid) for pid in below))


async def until_all_serve(wire: Wire) -> None:
    """Wait until both servers' tools are listed."""
    while True:
        listing = await wire.ask("list_tools", "list_tools_res")
        prefixes = {tool["name"].partition("__")[0] for tool in listing["tools"]}
        if set(SERVERS) <= prefixes:
            return
        await wire.hear_op("tools_changed")
