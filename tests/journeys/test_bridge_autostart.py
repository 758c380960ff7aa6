"""Bridges that find no daemon: one is started, however many they are, and outlives them."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from exai.cli.address_file import find_address
from exai.cli.exit_codes import ExitCode
from tests.cli.bridge_process import BridgeProcess, bridging, fix_ports, is_alive, sdk_client
from tests.cli.exai_process import PATIENCE_S, Shell
from tests.journeys.daemon_process import state_dir_of
from tests.processes.process_tree import until

pytestmark = pytest.mark.slow

BRIDGES = 10


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    shell.environ |= {"EXAI_LOCAL_ENABLED": "false", "EXAI_WS_CLOSE_TIMEOUT": "0.2"}
    fix_ports(shell)
    yield shell
    address = find_address(state_dir_of(shell))
    if address is not None:
        with suppress(ProcessLookupError):
            os.kill(address.pid, signal.SIGKILL)


def daemon_pid(shell: Shell) -> int:
    address = find_address(state_dir_of(shell))
    assert address is not None
    return address.pid


def starts(shell: Shell) -> int:
    """Return how many daemons have begun to log."""
    return (state_dir_of(shell) / "daemon.log").read_text().count("is ready: ws://")


async def echoes(bridge: BridgeProcess) -> None:
    await bridge.shake_hands()
    answer = await bridge.call("echo", text="hi")
    assert answer["result"]["isError"] is False, answer


async def leave(bridge: BridgeProcess) -> str:
    """Have a bridge end; return what it said."""
    bridge.close_stdin()
    end = await bridge.end()
    assert end.status == ExitCode.OK
    return end.err


async def test_ten_bridges_at_once_start_one_daemon(shell: Shell) -> None:
    async with AsyncExitStack() as stack:
        bridges = [
            await stack.enter_async_context(bridging(shell, "--autostart")) for _ in range(BRIDGES)
        ]
        async with asyncio.TaskGroup() as tasks:
            for bridge in bridges:
                tasks.create_task(echoes(bridge))
        said = [await leave(bridge) for bridge in bridges]
    assert starts(shell) == 1
    assert "".join(said).count("no daemon runs; starting one") == 1
    assert is_alive(daemon_pid(shell))


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_first_client_on_a_machine_sees_all_tools(shell: Shell, mode: str) -> None:
    async with sdk_client(shell, "--autostart", mode=mode) as client:
        tools = (await client.list_tools()).tools
        assert {"echo", "version"} <= {tool.name for tool in tools}
        assert not (await client.call_tool("echo", {"text": "hi"})).is_error


async def test_the_daemon_outlives_whoever_started_it_and_serves_the_next(shell: Shell) -> None:
    async with bridging(shell, "--autostart") as bridge:
        await echoes(bridge)
        bridge.process.kill()
    pid = daemon_pid(shell)
    assert os.getsid(pid) == pid
    async with bridging(shell, "--autostart") as bridge:
        await echoes(bridge)
        assert await leave(bridge) == ""
    assert daemon_pid(shell) == pid


async def test_another_bridge_takes_over_where_the_starting_one_dies(shell: Shell) -> None:
    async with bridging(shell, "--autostart") as first, bridging(shell, "--autostart") as second:
        await first.shake_hands()
        log = state_dir_of(shell) / "daemon.log"
        await until(log.exists)
        first.process.kill()
        await echoes(second)
    assert starts(shell) == 1


async def test_a_daemon_that_was_killed_is_started_again(shell: Shell) -> None:
    async with bridging(shell, "--autostart") as bridge:
        await echoes(bridge)
        os.kill(daemon_pid(shell), signal.SIGKILL)
        answer = await bridge.call("echo", 2, text="again")
        assert answer["result"]["isError"] is False, answer
    assert starts(shell) == 2


async def test_a_daemon_that_is_killed_while_it_starts_is_started_again(
    shell: Shell, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "if 'serve' in sys.orig_argv and not os.path.exists('was-killed'):\n"
        "    open('was-killed', 'w').close()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    shell.environ["PYTHONPATH"] = str(tmp_path)
    async with bridging(shell, "--autostart") as bridge:
        await echoes(bridge)
        said = await leave(bridge)
    assert said.count("no daemon runs; starting one") == 2
    assert starts(shell) == 1


async def test_a_daemon_that_cannot_start_is_told_with_its_own_words(shell: Shell) -> None:
    servers = shell.home / "mcp.json"
    servers.write_text('{"mcpServers": 5}')
    async with bridging(shell, "--autostart", "--mcp-config", str(servers)) as bridge:
        assert "result" in await bridge.shake_hands()
        async with asyncio.timeout(PATIENCE_S):
            end = await bridge.end()
    assert end.status == ExitCode.USAGE
    assert "the daemon cannot start (status 2): exai: " in end.err
    assert str(servers) in end.err


async def test_the_daemon_of_another_machine_cannot_be_started(shell: Shell) -> None:
    end = await shell.run("bridge", "--autostart", "--url", "ws://127.0.0.1:1/")
    assert end.status == ExitCode.USAGE
    assert "--url" in end.err
