"""How a daemon is replaced in place: same process, same ports, and no stranger notices."""

import asyncio
import fcntl
import os
import pty
import signal
import socket
import ssl
import termios
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from exai.cli.exit_codes import ExitCode
from exai.stores.instance_lock import AlreadyRunning, InstanceLock, find_holder
from exai.testing.scripted_provider import ScriptedProvider, answers, never_answers
from tests.cli.exai_process import ANY_PORTS, PATIENCE_S, Shell, ended
from tests.journeys.daemon_process import (
    PROMPT,
    TOKEN,
    Serving,
    events_of,
    is_ready,
    name_provider,
    name_server,
    serving,
    shell_in,
)
from tests.journeys.wire import open_wire
from tests.processes.process_tree import (
    descendants_of,
    environment_of,
    open_file_count,
    until,
)

WITHOUT_UVLOOP = "import sys; sys.modules['uvloop'] = None"
REPLACED = ["upgrade_asked", "upgrade_agreed", "draining", "stopped", "opened", "ready"]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return shell_in(tmp_path)


def state_dir_of(shell: Shell) -> Path:
    return shell.home / ".local/state/exai"


async def upgrade(daemon: Serving) -> None:
    daemon.process.send_signal(signal.SIGHUP)
    await daemon.has_opened()


def port_in(url: str) -> int:
    return int(url.rstrip("/").rpartition(":")[2])


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


@pytest.mark.parametrize("library", ["picows", "websockets"])
@pytest.mark.parametrize("code", ["", WITHOUT_UVLOOP], ids=["uvloop", "asyncio"])
async def test_what_runs_is_finished_and_who_comes_meanwhile_waits_for_the_successor(
    shell: Shell, library: str, code: str
) -> None:
    shell.environ["EXAI_SERVER_WEBSOCKET_LIBRARY"] = library
    may_answer = asyncio.Event()
    async with ScriptedProvider() as provider, asyncio.TaskGroup() as tasks:
        provider.script(answers(may_answer, "done"))
        name_provider(shell, provider)
        async with serving(shell, code=code) as daemon:
            before = daemon.url, daemon.http_url
            async with open_wire(daemon.url, greet=False, says_bye=False) as wire:
                first = await wire.hello(token=TOKEN)
                await wire.begin("chat", arguments=PROMPT)
                await provider.wait_for_requests(1)
                daemon.process.send_signal(signal.SIGHUP)
                assert (await wire.hear_op("going_away"))["reason"] == "restart"
                assert not await is_ready(daemon)
                late = tasks.create_task(greeting_of(daemon.url))
                new = await wire.call("echo", "new", arguments={"text": "x"})
                assert new["error"]["code"] == "SERVICE_UNAVAILABLE"
                assert not late.done()
                may_answer.set()
                assert (await wire.result())["text"] == "done"
                assert await wire.closed() == (1012, "service restart")
            await daemon.has_opened()
            assert (daemon.url, daemon.http_url) == before
            assert (await late)["server"]["instance"] != first["server"]["instance"]
            assert find_holder(state_dir_of(shell)) == (daemon.process.pid,)
            daemon.process.terminate()
            end, lines = await daemon.end()
    assert end.status == ExitCode.OK
    assert events_of(lines)[2:-2] == [f"daemon.{event}" for event in REPLACED]
    assert {line["pid"] for line in lines if "pid" in line} == {daemon.process.pid}


async def greeting_of(url: str) -> dict[str, Any]:
    """Connect, and return what is said to a hello."""
    async with open_wire(url, greet=False, open_timeout=PATIENCE_S) as wire:
        return await wire.hello(token=TOKEN)


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

    async with ScriptedProvider() as provider:
        provider.script(never_answers)
        name_provider(shell, provider)
        shell.environ["EXAI_SERVER_DRAIN_S"] = "3"
        async with serving(shell) as daemon, open_wire(daemon.url, token=TOKEN) as wire:
            with incessantly(take) as takings:
                await wire.begin("chat", arguments=PROMPT)
                daemon.process.send_signal(signal.SIGHUP)
                await wire.hear_op("going_away")
                second = await shell.run("serve", *ANY_PORTS)
                assert second.status == ExitCode.ALREADY_RUNNING
                assert (await wire.result())["error"]["code"] == "INTERRUPTED"
                await daemon.has_opened()
                third = await shell.run("serve", *ANY_PORTS)
                assert third.status == ExitCode.ALREADY_RUNNING
                assert f"pid {daemon.process.pid}" in third.err
    assert takings.keys() == {"refused"}


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
import pathlib, sys, time
from exai.cli import successor_check
successor_check.CHECK_WITHIN_S = 0.5
if "--check" in sys.argv:
    pathlib.Path("check").write_text(str(__import__("os").getpid()))
    time.sleep(600)
"""
    async with serving(shell, code=code) as daemon:
        daemon.process.send_signal(signal.SIGHUP)
        refused = await daemon.has_logged("daemon.upgrade_refused")
        assert refused["reason"] == "its check did not end within 0.5 s"
        checked = int((shell.home / "check").read_text())
        assert checked not in descendants_of(daemon.process.pid)


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
@pytest.mark.parametrize("code", ["", WITHOUT_UVLOOP], ids=["uvloop", "asyncio"])
async def test_after_twenty_upgrades_nothing_has_piled_up(shell: Shell, code: str) -> None:
    name_server(shell)
    async with serving(shell, code=code) as daemon:
        pid = daemon.process.pid
        await daemon.has_logged("daemon.ready")
        files, children = open_file_count(pid), len(descendants_of(pid))
        for _ in range(20):
            await upgrade(daemon)
            await daemon.has_logged("daemon.ready")
        assert open_file_count(pid) == files
        await until(lambda: len(descendants_of(pid)) == children)


async def test_a_port_that_was_configured_anew_is_opened_and_the_old_one_closed(
    shell: Shell,
) -> None:
    del shell.environ["EXAI_WS_PORT"]
    config = shell.home / "exai.toml"
    shell.environ["EXAI_CONFIG"] = str(config)
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as other:
        ports = one.getsockname()[1], other.getsockname()[1]
    config.write_text(f"[server]\nport = {ports[0]}\n")
    async with serving(shell) as daemon:
        http_url = daemon.http_url
        config.write_text(f"[server]\nport = {ports[1]}\n")
        await upgrade(daemon)
        assert (port_in(daemon.url), daemon.http_url) == (ports[1], http_url)
        async with open_wire(daemon.url, token=TOKEN):
            pass
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", ports[0]), timeout=PATIENCE_S)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            config.write_text(f"[server]\nport = {port}\n")
            daemon.process.send_signal(signal.SIGHUP)
            refused = await daemon.has_logged("daemon.upgrade_refused")
        assert refused["reason"].startswith("cannot serve: ")
        assert str(port) in refused["reason"]
        async with open_wire(daemon.url, token=TOKEN):
            pass


async def test_a_state_directory_that_was_configured_anew_is_used_and_the_old_one_left(
    shell: Shell,
) -> None:
    config = shell.home / "exai.toml"
    shell.environ["EXAI_CONFIG"] = str(config)
    config.write_text('state_dir = "one"\n')
    async with serving(shell) as daemon:
        config.write_text('state_dir = "other"\n')
        await upgrade(daemon)
        assert find_holder(shell.home / "one") is None
        assert find_holder(shell.home / "other") == (daemon.process.pid,)


async def test_children_see_nothing_of_what_is_for_the_daemon_alone(shell: Shell) -> None:
    name_server(shell)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(shell.home / "notify"))
        shell.environ["NOTIFY_SOCKET"] = str(shell.home / "notify")
        async with serving(shell) as daemon:
            await daemon.has_logged("daemon.ready")
            await upgrade(daemon)
            await daemon.has_logged("daemon.ready")
            children = descendants_of(daemon.process.pid)
            assert len(children) == 2
            for seen in map(environment_of, children):
                assert b"EXAI_INHERITED" not in seen
                assert b"NOTIFY_SOCKET" not in seen


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


async def test_a_successor_that_cannot_be_run_is_logged_and_the_process_ends(
    shell: Shell,
) -> None:
    code = """
from exai.cli import serve_command
serve_command.own_command = lambda: ["/nowhere/exai", "serve"]
"""
    async with serving(shell, code=code) as daemon:
        daemon.process.send_signal(signal.SIGHUP)
        end, lines = await daemon.end()
    assert end.status == ExitCode.DEFECT
    assert lines[-1]["event"] == "daemon.upgrade_failed"
    assert lines[-1]["reason"] == "/nowhere/exai: No such file or directory"
    assert not (state_dir_of(shell) / "address.json").exists()


async def test_behind_tls_a_daemon_is_replaced_just_so(shell: Shell) -> None:
    authority = trustme.CA()
    certificate = shell.home / "certificate.pem"
    certificate.write_bytes(
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.bytes()
    )
    shell.environ["EXAI_SERVER_TLS_CERTIFICATE"] = str(certificate)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with serving(shell) as daemon:
        url = daemon.url
        async with open_wire(url, token=TOKEN, ssl=context) as wire:
            daemon.process.send_signal(signal.SIGHUP)
            assert await wire.closed() == (1012, "service restart")
        async with open_wire(url, token=TOKEN, ssl=context, open_timeout=PATIENCE_S) as wire:
            assert (await wire.call("echo", arguments={"text": "x"}))["ok"]
        await daemon.has_opened()
        assert daemon.url == url
        certificate.write_text("no certificate")
        daemon.process.send_signal(signal.SIGHUP)
        refused = await daemon.has_logged("daemon.upgrade_refused")
        assert str(certificate) in refused["reason"]


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
