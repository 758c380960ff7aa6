"""`exai reload --upgrade`, as operators and systemd use it."""

import os
import re
import signal
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest

from exai.cli import upgrade_command
from exai.cli.address_file import find_address, leave_address, leave_refusal
from exai.cli.config_file import CommandLine
from exai.cli.exit_codes import ExitCode
from exai.cli.upgrade_command import run_upgrade
from exai.stores.instance_lock import InstanceLock
from tests.cli.exai_process import Shell, serving


@pytest.fixture
def shell(home: Path) -> Shell:
    shell = Shell(home)
    shell.environ["EXAI_LOCAL_ENABLED"] = "false"
    return shell


def reload(state_dir: Path) -> ExitCode:
    return run_upgrade(CommandLine(state_dir=str(state_dir)))


def never_kill(pid: int, number: int) -> NoReturn:
    raise AssertionError("nobody was to be told")


async def test_a_daemon_is_replaced_and_it_is_said_in_one_line(shell: Shell) -> None:
    async with serving(shell) as (process, ready):
        done = await shell.run("reload", "--upgrade")
        assert (done.status, done.err) == (ExitCode.OK, "")
        said = rf"exai \S+ \(pid {process.pid}\) was replaced by \S+ in \d+\.\d s\n"
        assert re.fullmatch(said, done.out)
        answer = await shell.run("call", "echo", "text=hello", "--url", ready[1])
        assert answer == (ExitCode.OK, "hello\n", "")


async def test_a_refused_upgrade_is_told_with_its_reason(shell: Shell) -> None:
    servers = shell.home / "mcp.json"
    servers.write_text('{"mcpServers": {}}')
    async with serving(shell, "--mcp-config", "mcp.json"):
        for content in ("{", "[]"):
            servers.write_text(content)
            refused = await shell.run("reload", "--upgrade")
            assert (refused.status, refused.out) == (ExitCode.REFUSED, "")
            said = f"exai: the upgrade was refused, and the daemon goes on: {servers}: "
            assert refused.err.startswith(said)
        answer = await shell.run("call", "echo", "text=hello")
        assert answer == (ExitCode.OK, "hello\n", "")


async def test_a_check_says_what_a_start_would(shell: Shell) -> None:
    ports = ("--port", "0", "--http-port", "0")
    assert await shell.run("serve", "--check", *ports) == (ExitCode.OK, "", "")
    async with serving(shell):
        second = await shell.run("serve", "--check", *ports)
        assert second.status == ExitCode.ALREADY_RUNNING
    (shell.home / "exai.toml").write_text("[server]\nprot = 1\n")
    wrong = await shell.run("serve", "--check", "--config", "exai.toml", *ports)
    assert wrong.status == ExitCode.USAGE
    assert "server.prot" in wrong.err


def test_a_wrong_configuration_is_told_before_anybody_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "exai.toml").write_text("[server]\nprot = 1\n")
    command_line = CommandLine(config=tmp_path / "exai.toml")
    assert run_upgrade(command_line) == ExitCode.USAGE
    assert "server.prot" in capsys.readouterr().err


def test_without_a_daemon_nobody_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reload(tmp_path) == ExitCode.CANNOT_CONNECT
    assert f"no daemon runs on {tmp_path}" in capsys.readouterr().err


def test_a_daemon_that_starts_is_not_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "kill", never_kill)
    with InstanceLock(tmp_path):
        assert reload(tmp_path) == ExitCode.NOT_READY
    assert "it starts, or it stops" in capsys.readouterr().err


def test_a_process_that_only_has_the_daemons_number_is_not_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "kill", never_kill)
    stranger = os.getppid()
    with InstanceLock(tmp_path):
        (tmp_path / "daemon.lock").write_text(f"{stranger}\n")
        monkeypatch.setattr(os, "getpid", lambda: stranger)
        leave_address(tmp_path, "ws://127.0.0.1:1/", "http://127.0.0.1:2/")
        assert reload(tmp_path) == ExitCode.REFUSED
    assert f"says that it is process {stranger}" in capsys.readouterr().err


def test_a_daemon_that_would_die_of_it_is_not_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "kill", never_kill)
    with InstanceLock(tmp_path):
        old = {"pid": os.getpid(), "websocket_url": "ws://a/", "http_url": "http://a/"}
        (tmp_path / "address.json").write_bytes(msgspec.json.encode(old))
        assert reload(tmp_path) == ExitCode.REFUSED
    assert "cannot be replaced in place" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (PermissionError, ExitCode.REFUSED, "another user's"),
        (ProcessLookupError, ExitCode.CANNOT_CONNECT, "has just ended"),
    ],
)
def test_a_daemon_that_cannot_be_told_is_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: type[OSError],
    status: ExitCode,
    sentence: str,
) -> None:
    def fail(pid: int, number: int) -> NoReturn:
        raise error

    monkeypatch.setattr(os, "kill", fail)
    with InstanceLock(tmp_path):
        leave_address(tmp_path, "ws://127.0.0.1:1/", "http://127.0.0.1:2/")
        assert reload(tmp_path) == status
    assert sentence in capsys.readouterr().err


def test_a_daemon_that_does_not_come_back_is_not_waited_for_for_ever(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *signalled: told.append(signalled))
    monkeypatch.setattr(upgrade_command, "_patience_s", lambda server: 0.1)
    with InstanceLock(tmp_path):
        leave_address(tmp_path, "ws://127.0.0.1:1/", "http://127.0.0.1:2/")
        assert reload(tmp_path) == ExitCode.NOT_READY
    assert told == [(os.getpid(), signal.SIGHUP)]
    assert "was not replaced within 0.1 s" in capsys.readouterr().err


def test_a_daemon_that_ends_instead_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = InstanceLock(tmp_path)
    monkeypatch.setattr(os, "kill", lambda pid, number: lock.__exit__(None, None, None))
    lock.__enter__()
    leave_address(tmp_path, "ws://127.0.0.1:1/", "http://127.0.0.1:2/")
    assert reload(tmp_path) == ExitCode.CANNOT_CONNECT
    assert "has ended; its log says why" in capsys.readouterr().err


def test_who_stops_waiting_is_told_that_it_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(pid: int, number: int) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "kill", interrupt)
    with InstanceLock(tmp_path):
        leave_address(tmp_path, "ws://127.0.0.1:1/", "http://127.0.0.1:2/")
        assert reload(tmp_path) == ExitCode.INTERRUPTED
    assert "the upgrade goes on" in capsys.readouterr().err


def test_a_refusal_stands_beside_the_address_of_the_daemon_that_goes_on(tmp_path: Path) -> None:
    leave_refusal(tmp_path, "nobody is there")
    assert find_address(tmp_path) is None
    leave_address(tmp_path, "ws://127.0.0.1:1/", "http://127.0.0.1:2/")
    before = find_address(tmp_path)
    leave_refusal(tmp_path, "a reason")
    after = find_address(tmp_path)
    assert before is not None
    assert after == msgspec.structs.replace(before, refusal_count=1, refusal="a reason")
