"""How `exai serve` ends: told to, told twice, too early, and with something in its way."""

import asyncio
import json
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from exai.cli.exit_codes import ExitCode
from exai.testing.scripted_provider import ScriptedProvider, answers, never_answers
from tests.cli.exai_process import PATIENCE_S, Shell, ended
from tests.journeys.daemon_process import (
    PROMPT,
    TOKEN,
    events_of,
    is_ready,
    name_provider,
    name_server,
    serving,
    shell_in,
)
from tests.journeys.wire import open_wire
from tests.processes.process_tree import descendants_of, is_alive, until


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return shell_in(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_daemon_that_is_told_to_stop_finishes_what_runs_and_takes_nothing_new(
    shell: Shell, number: signal.Signals
) -> None:
    shell.environ |= {"EXAI_WS_SESSION_MAX_INFLIGHT": "1", "EXAI_STORE_KIND": "memory"}
    may_answer = asyncio.Event()
    async with ScriptedProvider() as provider:
        provider.script(answers(may_answer, "done"))
        name_provider(shell, provider)
        async with serving(shell) as daemon, open_wire(daemon.url, token=TOKEN) as wire:
            await wire.begin("chat", "runs", arguments=PROMPT)
            await provider.wait_for_requests(1)
            await wire.begin("chat", "waits", arguments=PROMPT | {"prompt": "other"})
            assert await is_ready(daemon)
            daemon.process.send_signal(number)
            await wire.hear_op("going_away")
            assert not await is_ready(daemon)
            assert (await wire.result("waits"))["error"]["code"] == "SERVICE_UNAVAILABLE"
            new = await wire.call("echo", "new", arguments={"text": "x"})
            assert new["error"]["code"] == "SERVICE_UNAVAILABLE"
            async with open_wire(daemon.url, greet=False) as late:
                await late.say("hello", token=TOKEN)
                assert await late.closed() == (1012, "service restart")
            may_answer.set()
            assert (await wire.result("runs"))["text"] == "done"
            assert await wire.closed() == (1012, "service restart")
            end, lines = await daemon.end()
    assert (end.status, end.out) == (ExitCode.OK, "")
    assert events_of(lines) == [f"daemon.{x}" for x in ("opened", "ready", "draining", "stopped")]
    draining = next(line for line in lines if line["event"] == "daemon.draining")
    assert (draining["session_count"], draining["call_count"]) == (1, 2)
    assert lines[-1]["interrupted_count"] == 0


async def test_who_comes_back_while_the_daemon_drains_is_told_and_gets_the_answer(
    shell: Shell,
) -> None:
    may_answer = asyncio.Event()
    async with ScriptedProvider() as provider:
        provider.script(answers(may_answer, "done"))
        name_provider(shell, provider)
        async with serving(shell) as daemon:
            async with open_wire(daemon.url, greet=False, says_bye=False) as wire:
                ack = await wire.hello(token=TOKEN)
                resume = {"session_id": ack["session_id"], "resume_token": ack["resume_token"]}
                await wire.begin("chat", arguments=PROMPT)
                await provider.wait_for_requests(1)
                daemon.process.terminate()
                await wire.hear_op("going_away")
            async with open_wire(daemon.url, greet=False) as again:
                assert (await again.hello(token=TOKEN, resume=resume))["resumed"]
                await again.hear_op("going_away")
                may_answer.set()
                assert (await again.result())["text"] == "done"
                assert await again.closed() == (1012, "service restart")
            assert (await daemon.end())[0].status == ExitCode.OK


async def test_what_the_drain_time_cuts_off_is_told_so_and_counted(shell: Shell) -> None:
    shell.environ |= {"EXAI_SERVER_DRAIN_S": "0.1", "EXAI_STORE_KIND": "memory"}
    async with ScriptedProvider() as provider:
        provider.script(never_answers)
        name_provider(shell, provider)
        async with serving(shell) as daemon, open_wire(daemon.url, token=TOKEN) as wire:
            await wire.begin("chat", arguments=PROMPT)
            await provider.wait_for_requests(1)
            daemon.process.terminate()
            assert (await wire.result())["error"]["code"] == "INTERRUPTED"
            end, lines = await daemon.end()
    assert end.status == ExitCode.OK
    assert lines[-1]["event"] == "daemon.stopped"
    assert lines[-1]["interrupted_count"] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_the_daemon_and_its_children_at_once(
    shell: Shell, number: signal.Signals
) -> None:
    name_server(shell, "--stubborn")
    async with serving(shell) as daemon, open_wire(daemon.url, token=TOKEN) as wire:
        await until_offered(wire, "scripted__wait")
        await wire.begin("scripted__wait")
        below = descendants_of(daemon.process.pid)
        assert len(below) == 2
        daemon.process.send_signal(number)
        await wire.hear_op("going_away")
        daemon.process.send_signal(number)
        end, lines = await daemon.end()
    assert end.status == 128 + number
    assert lines[-1]["event"] == "daemon.cut_short"
    assert number.name in lines[-1]["reason"]
    await until(lambda: not any(map(is_alive, below)))


async def until_offered(wire: Any, tool: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while tool not in [
            each["name"] for each in (await wire.ask("list_tools", "list_tools_res"))["tools"]
        ]:
            await wire.hear_op("tools_changed")


async def test_a_signal_while_the_daemon_starts_is_heeded(shell: Shell) -> None:
    process = await shell.start("serve")
    await until((shell.home / ".local/state/exai/daemon.lock").exists)
    process.terminate()
    end = await ended(process)
    assert end.status == ExitCode.OK
    assert "Traceback" not in end.err


@pytest.mark.parametrize("options", [("--mute",), ("--deaf",)])
async def test_a_server_that_hangs_does_not_keep_the_daemon_from_its_end(
    shell: Shell, options: tuple[str, ...]
) -> None:
    name_server(shell, *options)
    async with serving(shell) as daemon:
        await until(lambda: len(descendants_of(daemon.process.pid)) == 2)
        below = descendants_of(daemon.process.pid)
        daemon.process.terminate()
        end, lines = await daemon.end()
        assert end.status == ExitCode.OK
        assert events_of(lines)[-1] == "daemon.stopped"
        assert not any(map(is_alive, below))


async def test_a_peer_that_never_reads_does_not_keep_the_daemon_from_its_end(shell: Shell) -> None:
    shell.environ["EXAI_SERVER_DRAIN_S"] = "0.3"
    async with serving(shell) as daemon, open_wire(daemon.url, token=TOKEN) as wire:
        deaf = await connect(daemon.url, max_queue=1, max_size=None, compression=None)
        await deaf.send(json.dumps({"op": "hello", "token": TOKEN}))
        for n in range(30):
            call = {"op": "call_tool", "name": "echo", "request_id": f"r{n}"}
            await deaf.send(json.dumps(call | {"arguments": {"text": "x" * 1_000_000}}))
        assert (await wire.call("echo", arguments={"text": "x"}))["ok"]
        daemon.process.terminate()
        end, lines = await daemon.end()
        deaf.transport.abort()
    assert end.status == ExitCode.OK
    assert lines[-1]["event"] == "daemon.stopped"


async def test_two_hundred_peers_are_all_told_and_let_go(shell: Shell) -> None:
    async with serving(shell) as daemon, AsyncExitStack() as stack:
        wires = [
            await stack.enter_async_context(open_wire(daemon.url, token=TOKEN)) for _ in range(200)
        ]
        daemon.process.terminate()
        for wire in wires:
            assert (await wire.hear())["op"] == "going_away"
            assert await wire.closed() == (1012, "service restart")
        end, lines = await daemon.end()
    assert end.status == ExitCode.OK
    assert lines[-1]["event"] == "daemon.stopped"


async def test_a_call_that_gives_no_heed_does_not_keep_the_daemon_from_its_end(
    shell: Shell,
) -> None:
    shell.environ |= {
        "EXAI_SERVER_DRAIN_S": "0.1",
        "EXAI_WS_CLOSE_TIMEOUT": "0.05",
        "EXAI_STORE_KIND": "memory",
    }
    code = """
import asyncio
from exai.cli import time_to_end
from exai.tools.built_in import EchoTool
async def run(self, arguments, run):
    while True:
        try:
            run.report("runs")
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass
EchoTool.run = run
time_to_end._CHILDREN_END_WITHIN_S = 0.3
"""
    async with serving(shell, code=code) as daemon, open_wire(daemon.url, token=TOKEN) as wire:
        await wire.say("call_tool", name="echo", request_id="r1", arguments={"text": "x"})
        await wire.hear_op("progress")
        daemon.process.terminate()
        assert (await wire.result())["error"]["code"] == "INTERRUPTED"
        end, lines = await daemon.end()
    assert end.status == ExitCode.DEFECT
    assert lines[-1]["event"] == "daemon.cut_short"


@pytest.mark.parametrize("defect", ["ValueError(said)", "OSError(28, said)"])
async def test_a_defect_in_the_daemon_itself_ends_it_and_is_found_in_the_log(
    shell: Shell, defect: str
) -> None:
    code = f"""
from exai.connections.session_handler import SessionHandler
said = " ".join(["a", "secret"])
async def run_cleanup(self):
    while not len(self):
        await __import__("asyncio").sleep(0.01)
    raise {defect}
SessionHandler.run_cleanup = run_cleanup
"""
    async with serving(shell, code=code) as daemon:
        async with open_wire(daemon.url, token=TOKEN, says_bye=False) as wire:
            assert await wire.closed() == (1012, "service restart")
        end, lines = await daemon.end()
    assert end.status == ExitCode.DEFECT
    assert lines[-1]["event"] == "daemon.failed"
    assert "in run_cleanup" in lines[-1]["exception"]
    assert "a secret" not in end.err
