"""Signals that come while a daemon is replaced: early, late, twice, and one after the other."""

import asyncio
import fcntl
import os
import pty
import signal
import termios
from pathlib import Path

import pytest

from exai.cli.exit_codes import ExitCode
from exai.testing.scripted_provider import ScriptedProvider, answers, never_answers
from tests.cli.exai_process import Shell
from tests.journeys.daemon_process import (
    PROMPT,
    TOKEN,
    events_of,
    name_provider,
    serving,
    shell_in,
    state_dir_of,
    upgrade,
)
from tests.journeys.wire import open_wire
from tests.processes.process_tree import (
    descendants_of,
    until,
)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return shell_in(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_whoever_ends_a_daemon_that_makes_room_ends_it_for_good(
    shell: Shell, number: signal.Signals
) -> None:
    may_answer = asyncio.Event()
    async with ScriptedProvider() as provider:
        provider.script(answers(may_answer, "done"))
        name_provider(shell, provider)
        async with serving(shell) as daemon, open_wire(daemon.url, token=TOKEN) as wire:
            await wire.begin("chat", arguments=PROMPT)
            daemon.process.send_signal(signal.SIGHUP)
            await wire.hear_op("going_away")
            daemon.process.send_signal(signal.SIGHUP)
            daemon.process.send_signal(number)
            await daemon.has_logged("daemon.upgrade_abandoned")
            may_answer.set()
            assert (await wire.result())["text"] == "done"
            end, lines = await daemon.end()
    assert (end.status, end.out) == (ExitCode.OK, "")
    assert events_of(lines)[-1] == "daemon.stopped"
    assert not (state_dir_of(shell) / "address.json").exists()


async def test_a_second_end_while_it_makes_room_is_at_once(shell: Shell) -> None:
    async with ScriptedProvider() as provider:
        provider.script(never_answers)
        name_provider(shell, provider)
        async with serving(shell) as daemon, open_wire(daemon.url, token=TOKEN) as wire:
            await wire.begin("chat", arguments=PROMPT)
            daemon.process.send_signal(signal.SIGHUP)
            await wire.hear_op("going_away")
            daemon.process.terminate()
            await daemon.has_logged("daemon.upgrade_abandoned")
            daemon.process.terminate()
            end, lines = await daemon.end()
    assert end.status == ExitCode.TERMINATED
    assert lines[-1]["event"] == "daemon.cut_short"


async def test_an_end_while_the_successor_is_checked_is_heeded(shell: Shell) -> None:
    code = "import sys, time\nif '--check' in sys.argv: time.sleep(600)"
    async with serving(shell, code=code) as daemon:
        daemon.process.send_signal(signal.SIGHUP)
        await daemon.has_logged("daemon.upgrade_asked")
        await until(lambda: len(descendants_of(daemon.process.pid)) == 1)
        daemon.process.terminate()
        end, lines = await daemon.end()
    assert end.status == ExitCode.OK
    assert events_of(lines)[-1] == "daemon.stopped"


async def test_a_check_that_fails_after_the_end_has_begun_is_no_refusal(shell: Shell) -> None:
    code = "import sys, time\nif '--check' in sys.argv: time.sleep(600)"
    may_answer = asyncio.Event()
    async with ScriptedProvider() as provider:
        provider.script(answers(may_answer, "done"))
        name_provider(shell, provider)
        async with (
            serving(shell, code=code) as daemon,
            open_wire(daemon.url, token=TOKEN) as wire,
        ):
            await wire.begin("chat", arguments=PROMPT)
            daemon.process.send_signal(signal.SIGHUP)
            await until(lambda: len(descendants_of(daemon.process.pid)) == 1)
            (check,) = descendants_of(daemon.process.pid)
            daemon.process.terminate()
            await wire.hear_op("going_away")
            os.kill(check, signal.SIGKILL)
            await until(lambda: not Path(f"/proc/{check}").exists())
            may_answer.set()
            assert (await wire.result())["text"] == "done"
            end, lines = await daemon.end()
    assert end.status == ExitCode.OK
    assert "daemon.upgrade_refused" not in events_of(lines)


async def test_a_wish_that_comes_too_early_is_kept_in_mind(shell: Shell) -> None:
    code = """
import pathlib, os, signal
from exai.ws_server import Daemon
run = Daemon.run
async def run_and_be_asked(self, *arguments):
    if not pathlib.Path("asked").exists():
        pathlib.Path("asked").touch()
        os.kill(os.getpid(), signal.SIGHUP)
    await run(self, *arguments)
Daemon.run = run_and_be_asked
"""
    async with serving(shell, code=code) as daemon:
        await daemon.has_opened()
        daemon.process.terminate()
        _, lines = await daemon.end()
    assert events_of(lines).count("daemon.upgrade_agreed") == 1


@pytest.mark.parametrize("is_kept", [False, True], ids=["as it is", "nohup"])
async def test_the_end_of_its_terminal_is_no_wish_for_an_upgrade(
    shell: Shell, is_kept: bool
) -> None:
    master, slave = pty.openpty()

    def begin_on_terminal() -> None:
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if is_kept else signal.SIG_DFL)

    async with serving(shell, stdin=slave, preexec_fn=begin_on_terminal) as daemon:
        os.close(slave)
        await upgrade(daemon)
        os.close(master)
        if is_kept:
            async with open_wire(daemon.url, token=TOKEN):
                daemon.process.terminate()
        end, lines = await daemon.end()
    assert end.status == ExitCode.OK
    assert events_of(lines).count("daemon.upgrade_asked") == 1
    assert events_of(lines)[-1] == "daemon.stopped"
