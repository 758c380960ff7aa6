"""What holds at every moment while a daemon is replaced, and after many times."""

import asyncio
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from exai.cli.exit_codes import ExitCode
from exai.stores.instance_lock import AlreadyRunning, InstanceLock
from exai.testing.scripted_provider import ScriptedProvider, answers
from tests.cli.exai_process import ANY_PORTS, PATIENCE_S, Shell
from tests.journeys.daemon_process import (
    PROMPT,
    TOKEN,
    WITHOUT_UVLOOP,
    name_provider,
    name_server,
    port_in,
    serving,
    shell_in,
    state_dir_of,
    upgrade,
)
from tests.journeys.wire import open_wire
from tests.processes.process_tree import (
    descendants_of,
    open_file_count,
    until,
)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return shell_in(tmp_path)


@contextmanager
def incessantly(act: Callable[[], str], pause_s: float = 0.002) -> Iterator[Counter[str]]:
    """Do something again and again beside the context; count what came of it."""
    outcomes: Counter[str] = Counter()
    is_over = threading.Event()

    def run() -> None:
        while not is_over.wait(pause_s):
            outcomes[act()] += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield outcomes
    finally:
        is_over.set()
        thread.join(PATIENCE_S)


@pytest.mark.slow
@pytest.mark.parametrize("code", ["", WITHOUT_UVLOOP], ids=["uvloop", "asyncio"])
async def test_at_no_moment_is_a_connection_refused(shell: Shell, code: str) -> None:
    def connecting_to(url: str) -> Callable[[], str]:
        address = "127.0.0.1", port_in(url)

        def connect() -> str:
            try:
                socket.create_connection(address, timeout=PATIENCE_S).close()
            except OSError as error:
                return str(error)
            return "connected"

        return connect

    async with serving(shell, code=code) as daemon:
        with (
            incessantly(connecting_to(daemon.url)) as websocket,
            incessantly(connecting_to(daemon.http_url)) as http,
        ):
            for _ in range(3):
                await upgrade(daemon)
    assert websocket.keys() == http.keys() == {"connected"}
    assert min(websocket.total(), http.total()) > 100


@pytest.mark.slow
async def test_at_no_moment_is_the_state_directory_anybody_elses(shell: Shell) -> None:
    def take() -> str:
        try:
            with InstanceLock(state_dir_of(shell)):
                return "taken"
        except AlreadyRunning:
            return "refused"

    may_answer = asyncio.Event()
    async with ScriptedProvider() as provider:
        provider.script(answers(may_answer, "done"))
        name_provider(shell, provider)
        async with serving(shell) as daemon, open_wire(daemon.url, token=TOKEN) as wire:
            with incessantly(take) as takings:
                await wire.begin("chat", arguments=PROMPT)
                daemon.process.send_signal(signal.SIGHUP)
                await wire.hear_op("going_away")
                second = await shell.run("serve", *ANY_PORTS)
                assert second.status == ExitCode.ALREADY_RUNNING
                may_answer.set()
                assert (await wire.result())["text"] == "done"
                await daemon.has_opened()
                third = await shell.run("serve", *ANY_PORTS)
                assert third.status == ExitCode.ALREADY_RUNNING
                assert f"pid {daemon.process.pid}" in third.err
    assert takings.keys() == {"refused"}


@pytest.mark.slow
async def test_at_no_moment_does_a_wish_end_the_daemon(shell: Shell) -> None:
    async with serving(shell) as daemon:
        pid = daemon.process.pid

        def ask() -> str:
            os.kill(pid, signal.SIGHUP)
            return "asked"

        with incessantly(ask, pause_s=0.0005) as wishes:
            for _ in range(3):
                await daemon.has_opened()
        assert wishes.total() > 100
        assert daemon.process.returncode is None
        daemon.process.terminate()
        end, lines = await daemon.end()
    assert end.status == ExitCode.OK, lines


@pytest.mark.slow
async def test_after_twenty_upgrades_no_more_files_are_open(shell: Shell) -> None:
    code = """
from exai.cli import upgrade
async def find_no_fault(estate):
    return None
upgrade.find_fault = find_no_fault  # it is asked elsewhere, and takes most of the time
"""
    async with serving(shell, code=code) as daemon:
        files = open_file_count(daemon.process.pid)
        for _ in range(20):
            await upgrade(daemon)
        await until(lambda: open_file_count(daemon.process.pid) <= files)


@pytest.mark.slow
@pytest.mark.parametrize("code", ["", WITHOUT_UVLOOP], ids=["uvloop", "asyncio"])
async def test_after_some_upgrades_with_an_mcp_server_nothing_has_piled_up(
    shell: Shell, code: str
) -> None:
    name_server(shell)
    async with serving(shell, code=code) as daemon:
        pid = daemon.process.pid
        await daemon.has_logged("daemon.ready")
        files, children = open_file_count(pid), len(descendants_of(pid))
        for _ in range(3):
            await upgrade(daemon)
            await daemon.has_logged("daemon.ready")
        await until(lambda: open_file_count(pid) <= files)
        await until(lambda: len(descendants_of(pid)) == children)
