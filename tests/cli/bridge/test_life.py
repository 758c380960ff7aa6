"""How `exai bridge` begins and ends, and what it does where daemon or client fail it."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest

from exai.cli.exit_codes import ExitCode
from tests.cli.bridge_process import (
    BridgeProcess,
    bridging,
    fix_ports,
    is_alive,
    peak_bytes,
    reason_of,
)
from tests.cli.exai_process import PATIENCE_S, Shell
from tests.client.scripted_daemon import TOKEN, Frame, Peer, ScriptedDaemon
from tests.processes.process_tree import until


async def test_it_ends_with_its_input_and_what_runs_is_taken_back(
    bridge: BridgeProcess, daemon: ScriptedDaemon
) -> None:
    await bridge.send("tools/call", 1, name="hang")
    await daemon.heard_op("call_tool")
    bridge.close_stdin()
    end = await bridge.end()
    assert (end.status, end.out) == (ExitCode.OK, "")
    await daemon.heard_op("bye")


async def test_what_stands_before_the_end_of_the_input_is_answered(shell: Shell) -> None:
    async with bridging(shell) as bridge:
        await bridge.write(
            b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n{"jsonrpc":"2.0","id":2,"method":"ping"}'
        )
        bridge.close_stdin()
        end = await bridge.end()
    assert [json.loads(line)["id"] for line in end.out.splitlines()] == [1, 2]


async def test_it_ends_with_the_process_that_started_it_though_its_input_stays_open(
    shell: Shell, daemon: ScriptedDaemon
) -> None:
    script = 'exec 3<&0; "$0" -m exai bridge <&3 & echo $!; read forever'
    ide = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", script, sys.executable),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env=shell.environ,
        cwd=shell.home,
    )
    assert ide.stdout is not None
    pid = int(await ide.stdout.readline())
    await daemon.heard_op("list_tools")
    ide.kill()
    await until(lambda: not is_alive(pid))
    await daemon.heard_op("bye")
    await ide.communicate()


async def test_a_wrong_token_is_told_at_once(shell: Shell, daemon: ScriptedDaemon) -> None:
    shell.environ["EXAI_WS_TOKEN"] = "another-token-of-some-length"
    async with bridging(shell) as bridge:
        assert "result" in await bridge.shake_hands()
        async with asyncio.timeout(5):
            end = await bridge.end()
    assert end.status == ExitCode.UNAUTHORIZED
    assert end.err == f"exai: the daemon at {daemon.url} refused the token (EXAI_WS_TOKEN)\n"


async def has_listed(shell: Shell, daemon: ScriptedDaemon) -> None:
    """Have a bridge know the daemon's tools."""
    async with bridging(shell) as bridge:
        await bridge.shake_hands()
        await bridge.ask("tools/list")
        bridge.close_stdin()
        await bridge.end()


async def test_without_a_daemon_it_answers_what_it_knows_and_waits_for_one(
    shell: Shell, daemon: ScriptedDaemon
) -> None:
    await has_listed(shell, daemon)
    known = [*daemon.tools]
    daemon.token = None  # it lets nobody in
    fix_ports(shell)
    async with bridging(shell, "--patience", "0.5") as bridge:
        await bridge.shake_hands()
        reason = reason_of(await bridge.call("echo"))
        assert (reason["code"], reason["retryable"]) == ("SERVICE_UNAVAILABLE", True)
        assert "nobody answers at" in reason["message"]
        await bridge.send("tools/list", 2)
        assert (await bridge.ask("ping", 3))["result"] == {}
        bridge.close_stdin()
        assert (await bridge.end()).status == ExitCode.OK
    assert known


async def test_the_last_known_list_is_told_at_once_and_its_change_afterwards(
    shell: Shell, daemon: ScriptedDaemon
) -> None:
    await has_listed(shell, daemon)
    go_on = asyncio.Event()

    async def greet_late(peer: Peer, hello: Frame) -> None:
        await go_on.wait()
        await peer.say("hello_ack", ok=True, protocol="exai.v1", session_id="s2")

    daemon.ops["hello"] = greet_late
    daemon.tools.pop("hang")
    async with bridging(shell) as bridge:
        await bridge.shake_hands()
        first = (await bridge.ask("tools/list"))["result"]["tools"]
        assert [tool["name"] for tool in first] == ["echo", "hang"]
        go_on.set()
        await bridge.hear_of("notifications/tools/list_changed")
        second = (await bridge.ask("tools/list", 2))["result"]["tools"]
        assert [tool["name"] for tool in second] == ["echo"]


async def test_the_list_of_one_identity_is_not_shown_to_another(
    shell: Shell, daemon: ScriptedDaemon
) -> None:
    await has_listed(shell, daemon)
    files = list((shell.home / ".local/state/exai/bridge").iterdir())
    assert [oct(path.stat().st_mode & 0o777) for path in files] == ["0o600"]
    assert TOKEN not in files[0].name + files[0].read_text()
    shell.environ["EXAI_WS_TOKEN"] = daemon.token = "another-token-of-some-length"
    daemon.ops["hello"] = lambda peer, hello: asyncio.sleep(0)
    async with bridging(shell) as bridge:
        await bridge.shake_hands()
        await bridge.send("tools/list", 1)
        assert (await bridge.ask("ping", 2))["result"] == {}
        bridge.close_stdin()
        assert '"id":1' not in (await bridge.end()).out


async def test_a_client_that_does_not_read_is_not_written_to_without_end(
    bridge: BridgeProcess, daemon: ScriptedDaemon
) -> None:
    said = asyncio.Event()

    async def shout(peer: Peer, call: Frame) -> None:
        await peer.ack(call)
        for number in range(3000):
            await peer.progress(call, progress=number, message="x" * 10_000)
        said.set()
        await peer.answer(call, "done")

    daemon.tools["shout"] = shout
    await bridge.ask("tools/list", "l")
    with bridge.unread():
        await bridge.send("tools/call", 1, name="shout", _meta={"progressToken": 1})
        async with asyncio.timeout(PATIENCE_S):
            await said.wait()
        assert peak_bytes(bridge) < 80_000_000
    assert (await bridge.answer_to(1))["result"]["content"][0]["text"] == "done"


async def test_it_ends_though_nobody_reads_and_its_input_is_closed_meanwhile(
    bridge: BridgeProcess, daemon: ScriptedDaemon
) -> None:
    async def fill(peer: Peer, call: Frame) -> None:
        await peer.ack(call)
        await peer.answer(call, "x" * 6_000_000, meta={"call_id": "c"})

    daemon.tools["fill"] = fill
    with bridge.unread():
        await bridge.send("tools/call", 1, name="fill")
        await daemon.heard_op("ack")
        for number in range(50):
            await bridge.send("ping", number + 2)
        bridge.close_stdin()
        await daemon.heard_op("bye")
    assert (await bridge.end()).status == ExitCode.OK


async def test_it_ends_when_nobody_can_read_any_more(
    bridge: BridgeProcess, daemon: ScriptedDaemon
) -> None:
    await daemon.heard_op("list_tools")
    transport: Any = bridge.process.stdout._transport  # type: ignore[union-attr]  # noqa: SLF001
    transport.close()
    async with asyncio.timeout(PATIENCE_S):
        assert await bridge.process.wait() == ExitCode.OK


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it(bridge: BridgeProcess, number: signal.Signals) -> None:
    bridge.process.send_signal(number)
    assert (await bridge.end()).status == 128 + number


async def test_a_file_may_be_its_input(shell: Shell) -> None:
    (shell.home / "in").write_bytes(b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
    with (shell.home / "in").open() as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "exai", "bridge"),
            stdin=file,
            stdout=PIPE,
            stderr=PIPE,
            env=shell.environ,
            cwd=shell.home,
        )
    out, _ = await process.communicate()
    assert json.loads(out)["id"] == 1


async def test_it_is_there_soon_and_stays_small(bridge: BridgeProcess) -> None:
    assert cpu_s(bridge) < 0.6  # 0.13 s where nothing else runs
    await bridge.call("echo", text="x")
    assert peak_bytes(bridge) < 48_000_000


def cpu_s(bridge: BridgeProcess) -> float:
    """Return how long a bridge has worked so far."""
    fields = Path(f"/proc/{bridge.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_it_needs_none_of_what_is_heavy(shell: Shell) -> None:
    heavy = ("mcp", "mcp_types", "pydantic", "anyio", "httpx2", "starlette", "structlog")
    code = f"import sys, exai.cli.bridge_command; print([m for m in {heavy} if m in sys.modules])"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=PIPE, env=shell.environ
    )
    out, _ = await process.communicate()
    assert out == b"[]\n"
