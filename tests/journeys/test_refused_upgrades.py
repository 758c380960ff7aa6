"""What keeps a daemon from being replaced, and is found before it makes room."""

import asyncio
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from exai.cli.exit_codes import ExitCode
from exai.testing.scripted_provider import ScriptedProvider, answers
from tests.cli.exai_process import Shell, ended
from tests.journeys.daemon_process import (
    PROMPT,
    TOKEN,
    is_ready,
    name_provider,
    serving,
    shell_in,
)
from tests.journeys.wire import open_wire
from tests.processes.process_tree import (
    descendants_of,
)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return shell_in(tmp_path)


@pytest.mark.slow
async def test_a_successor_that_would_not_start_is_refused_and_nobody_is_disturbed(
    shell: Shell,
) -> None:
    may_answer = asyncio.Event()
    async with ScriptedProvider() as provider:
        provider.script(answers(may_answer, "done"))
        name_provider(shell, provider)
        async with serving(shell) as daemon, open_wire(daemon.url, token=TOKEN) as wire:
            await wire.begin("chat", arguments=PROMPT)
            config = shell.home / "exai.toml"
            config.write_text(config.read_text() + "[server]\nprot = 1\n")
            daemon.process.send_signal(signal.SIGHUP)
            refused = await daemon.has_logged("daemon.upgrade_refused")
            assert refused["reason"] == (
                f"{config}: server.prot is not a setting; did you mean server.port?"
            )
            assert await is_ready(daemon)
            assert (await wire.call("echo", "r2", arguments={"text": "x"}))["ok"]
            may_answer.set()
            assert (await wire.result())["text"] == "done"
            config.write_text(config.read_text().replace("prot = 1", ""))
            daemon.process.send_signal(signal.SIGHUP)
            assert await wire.closed() == (1012, "service restart")
            await daemon.has_opened()


async def test_a_ledger_that_the_successor_could_not_read_refuses_it(shell: Shell) -> None:
    async with serving(shell) as daemon, open_wire(daemon.url, token=TOKEN) as wire:
        (ledger,) = shell.home.rglob("ledger.sqlite3")
        with closing(sqlite3.connect(ledger, isolation_level=None)) as newer:
            newer.execute("PRAGMA user_version = 99")
        daemon.process.send_signal(signal.SIGHUP)
        refused = await daemon.has_logged("daemon.upgrade_refused")
        assert "was written by a newer EXAI" in refused["reason"]
        assert (await wire.call("echo", arguments={"text": "x"}))["ok"]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("exai.ws_server", "ModuleNotFoundError: import of exai.ws_server halted"),
        ("exai.transports.on_picows", "import of exai.transports.on_picows halted"),
    ],
)
async def test_a_program_that_is_not_whole_is_no_successor(
    shell: Shell, broken: str, reason: str
) -> None:
    code = (
        f"import pathlib, sys\nif pathlib.Path('broken').exists(): sys.modules[{broken!r}] = None"
    )
    async with serving(shell, code=code) as daemon:
        (shell.home / "broken").touch()
        daemon.process.send_signal(signal.SIGHUP)
        refused = await daemon.has_logged("daemon.upgrade_refused")
        assert reason in refused["reason"]
        assert await is_ready(daemon)


async def test_a_check_that_does_not_end_is_ended(shell: Shell) -> None:
    code = """
import sys, time
from exai.cli import successor_check
successor_check.CHECK_WITHIN_S = 0.5
if "--check" in sys.argv:
    time.sleep(600)
"""
    async with serving(shell, code=code) as daemon:
        daemon.process.send_signal(signal.SIGHUP)
        refused = await daemon.has_logged("daemon.upgrade_refused")
        assert refused["reason"] == "its check did not end within 0.5 s"
        assert descendants_of(daemon.process.pid) == set()


@pytest.mark.parametrize(
    ("variable", "oddity"),
    [
        ("1:websocket=3", "meant for another process"),
        ("{pid}:websocket=99", "no open descriptor"),
        ("{pid}:websocket=1", "no open descriptor"),
        ("{pid}:door=3", "names no descriptors"),
        ("nonsense", "meant for another process"),
    ],
)
async def test_an_odd_inheritance_is_warned_of_and_not_taken(
    shell: Shell, variable: str, oddity: str
) -> None:
    code = f"""
import os
os.environ["EXAI_INHERITED"] = {variable!r}.format(pid=os.getpid())
"""
    async with serving(shell, code=code) as daemon:
        daemon.process.terminate()
        end = await ended(daemon.process)
    assert end.status == ExitCode.OK
    warning, *_ = end.err.splitlines()
    assert warning.startswith("exai: warning: EXAI_INHERITED")
    assert oddity in warning


async def test_descriptors_that_are_no_sockets_and_no_lock_are_left_alone(shell: Shell) -> None:
    code = """
import os, socket
plain, (lock, peer) = os.pipe()[0], socket.socketpair()
os.environ["EXAI_INHERITED"] = f"{os.getpid()}:websocket={plain},http={lock.fileno()},lock={plain}"
"""
    async with serving(shell, code=code) as daemon:
        async with open_wire(daemon.url, token=TOKEN):
            pass
        daemon.process.terminate()
        end, lines = await daemon.end()
    assert end.status == ExitCode.OK
    odd = [line["message"] for line in lines if "inherited" in line.get("message", "")]
    assert len(odd) == 3
