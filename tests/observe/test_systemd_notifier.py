"""What systemd is told, by a socket as it makes one."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from exai.core import events
from exai.observe.systemd_notifier import SystemdNotifier
from exai.testing.hand_clock import HandClock
from tests.cli.exai_process import PATIENCE_S
from tests.journeys.daemon_process import serving, shell_in
from tests.processes.process_tree import is_stopped, until

DRAINING = events.DaemonDraining(drain_s=30.0, session_count=1, call_count=2)


class Manager:
    """The other end of NOTIFY_SOCKET: keeps what it is told, one set of lines a datagram."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(PATIENCE_S)

    def close(self) -> None:
        self.socket.close()

    def hears(self) -> list[str]:
        return self.socket.recv(4096).decode().split("\n")

    def hears_state(self) -> str:
        """Return the next state that is told; a status alone, or a ping, is none."""
        while True:
            told = self.hears()
            if not told[0].startswith(("STATUS=", "WATCHDOG=")):
                return told[0]

    def has_heard_count(self) -> int:
        """Return how many datagrams wait, and take them."""
        count = 0
        self.socket.setblocking(False)
        with suppress(BlockingIOError):
            while self.hears():
                count += 1
        self.socket.settimeout(PATIENCE_S)
        return count


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with closing(Manager(str(tmp_path / "notify"))) as manager:
        yield manager


def address_of(manager: Manager) -> str:
    name = manager.socket.getsockname()
    return "@" + name[1:].decode() if isinstance(name, bytes) else name


def notifier_to(manager: Manager, **variables: str) -> SystemdNotifier:
    return SystemdNotifier({"NOTIFY_SOCKET": address_of(manager)} | variables, HandClock(12.5))


def test_a_life_without_upgrades_is_ready_and_stopping(manager: Manager) -> None:
    notifier = notifier_to(manager)
    notifier.emit(events.AccessOpened("nothing that systemd wants to know"))
    notifier.emit(events.DaemonReady(1.25))
    notifier.emit(DRAINING)
    assert manager.hears() == ["READY=1", "STATUS=ready, 1.2 s after its start"]
    assert manager.hears() == ["STOPPING=1", "STATUS=finishes 2 calls, for at most 30 s"]


def test_an_upgrade_is_a_reload_until_the_successor_is_ready(manager: Manager) -> None:
    notifier = notifier_to(manager)
    notifier.emit(events.UpgradeAsked())
    notifier.emit(events.UpgradeAgreed())
    notifier.emit(DRAINING)
    assert manager.hears()[:2] == ["RELOADING=1", "MONOTONIC_USEC=12500000"]
    assert manager.hears() == ["STATUS=finishes 2 calls, for at most 30 s"]
    notifier.emit(events.UpgradeAbandoned())
    assert manager.hears() == ["STOPPING=1"]


def test_a_refused_upgrade_leaves_the_daemon_ready_as_before(manager: Manager) -> None:
    notifier = notifier_to(manager)
    notifier.emit(events.UpgradeAsked())
    notifier.emit(events.UpgradeRefused("a reason\nSTOPPING=1"))
    notifier.emit(DRAINING)
    manager.hears()
    refused = "STATUS=goes on; an upgrade was refused: a reason STOPPING=1"
    assert manager.hears() == ["READY=1", refused]
    assert manager.hears()[0] == "STOPPING=1"


def test_an_end_while_the_successor_is_checked_is_no_reload(manager: Manager) -> None:
    notifier = notifier_to(manager)
    notifier.emit(events.UpgradeAsked())
    notifier.emit(DRAINING)
    manager.hears()
    assert manager.hears()[0] == "STOPPING=1"


def test_an_abstract_socket_is_reached() -> None:
    with closing(Manager(f"\0exai-{os.getpid()}")) as manager:
        notifier_to(manager).emit(events.DaemonReady(0.0))
        assert manager.hears()[0] == "READY=1"


@pytest.mark.parametrize("address", [None, "", "vsock:2:1234", "/nowhere/notify"])
def test_where_nobody_listens_nobody_is_told(address: str | None) -> None:
    variables = {} if address is None else {"NOTIFY_SOCKET": address}
    SystemdNotifier(variables, HandClock(0.0)).emit(events.DaemonReady(0.0))


def test_a_manager_that_does_not_read_is_not_waited_for(manager: Manager) -> None:
    notifier = notifier_to(manager)
    for _ in range(5_000):
        notifier.emit(events.DaemonReady(0.0))
    assert 0 < manager.has_heard_count() < 5_000


async def test_the_watchdog_is_told_while_the_loop_turns_and_only_then(manager: Manager) -> None:
    notifier = notifier_to(manager, WATCHDOG_USEC="20000", WATCHDOG_PID=str(os.getpid()))
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(notifier.run_watchdog())
        for _ in range(3):
            assert await asyncio.to_thread(manager.hears) == ["WATCHDOG=1"]
        manager.has_heard_count()
        time.sleep(0.2)  # noqa: ASYNC251 - the loop stands still, which is what is tested
        assert manager.has_heard_count() == 0
        assert await asyncio.to_thread(manager.hears) == ["WATCHDOG=1"]
        watching.cancel()


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "soon", "WATCHDOG_PID": str(os.getpid())},
        {"WATCHDOG_USEC": "0"},
    ],
)
async def test_a_watchdog_that_watches_somebody_else_is_not_told(
    manager: Manager, variables: dict[str, str]
) -> None:
    await notifier_to(manager, **variables).run_watchdog()
    assert manager.has_heard_count() == 0


async def test_a_daemon_tells_of_its_upgrade_in_order(tmp_path: Path, manager: Manager) -> None:
    shell = shell_in(tmp_path)
    shell.environ |= {"NOTIFY_SOCKET": address_of(manager), "WATCHDOG_USEC": "100000"}
    async with serving(shell) as daemon:
        told = [await asyncio.to_thread(manager.hears_state)]
        daemon.process.send_signal(signal.SIGHUP)
        told += [await asyncio.to_thread(manager.hears_state) for _ in range(2)]
        while await asyncio.to_thread(manager.hears) != ["WATCHDOG=1"]:
            pass
        daemon.process.terminate()
        told.append(await asyncio.to_thread(manager.hears_state))
        await daemon.end()
    assert told == ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]


async def test_a_daemon_whose_loop_stands_still_tells_its_watchdog_nothing(
    tmp_path: Path, manager: Manager
) -> None:
    shell = shell_in(tmp_path)
    shell.environ |= {"NOTIFY_SOCKET": address_of(manager), "WATCHDOG_USEC": "50000"}
    async with serving(shell) as daemon:
        assert await asyncio.to_thread(manager.hears_state) == "READY=1"
        assert await asyncio.to_thread(manager.hears) == ["WATCHDOG=1"]
        daemon.process.send_signal(signal.SIGSTOP)
        await until(lambda: is_stopped(daemon.process.pid))
        manager.has_heard_count()
        manager.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(manager.hears)
        daemon.process.send_signal(signal.SIGCONT)
        manager.socket.settimeout(PATIENCE_S)
        assert await asyncio.to_thread(manager.hears) == ["WATCHDOG=1"]
