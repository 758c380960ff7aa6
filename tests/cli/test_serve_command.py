"""`exai serve` and the commands that call it, as processes of their own."""

import asyncio
import json
import os
import pty
import re
import signal
import socket
import sqlite3
from asyncio.subprocess import PIPE
from collections.abc import Awaitable
from contextlib import closing
from pathlib import Path

import pytest
import trustme

from exai.cli.address_file import Address, find_address
from exai.cli.exit_codes import ExitCode
from exai.client.answers import CallResult
from exai.client.daemon_client import DaemonClient
from exai.client.errors import ConnectionLost
from tests.cli.exai_process import ANY_PORTS, PATIENCE_S, Shell, ended, serving


@pytest.fixture
def shell(home: Path) -> Shell:
    shell = Shell(home)
    shell.environ["EXAI_LOCAL_ENABLED"] = "false"
    return shell


async def answers(ready: re.Match[str], state_dir: Path) -> bool:
    """Tell whether the daemon there takes the token of its state directory."""
    token = (state_dir / "token").read_text().strip()
    async with asyncio.timeout(PATIENCE_S), DaemonClient(ready[1], token=token) as client:
        return (await client.call("echo", {"text": "x"})).ok


async def test_a_daemon_is_found_called_and_stopped(shell: Shell) -> None:
    async with serving(shell) as (process, ready):
        token_path = shell.home / ".local/state/exai/token"
        assert ready[3] == f"token in {token_path}"
        answer, tools, misfit, unknown = await asyncio.gather(
            shell.run("call", "echo", "text=hello"),
            shell.run("tools", "-o", "json"),
            shell.run("call", "echo", "text:=5"),
            shell.run("call", "ecko"),
        )
        assert answer == (ExitCode.OK, "hello\n", "")
        assert "echo" in [tool["name"] for tool in json.loads(tools.out)]
        assert misfit.status == ExitCode.REFUSED
        assert "at /text" in misfit.err
        assert unknown.status == ExitCode.REFUSED
        assert "echo" in unknown.err
        process.send_signal(signal.SIGTERM)
        end = await ended(process)
        assert (end.status, end.out) == (ExitCode.OK, "")
        assert token_path.read_text().strip() not in ready[0] + end.err
    assert sorted(os.listdir(token_path.parent)) == ["daemon.lock", "ledger.sqlite3", "token"]


async def test_a_second_daemon_on_one_state_directory_is_refused(shell: Shell) -> None:
    async with serving(shell) as (process, ready):
        second = await shell.run("serve", *ANY_PORTS)
        assert second.status == ExitCode.ALREADY_RUNNING
        assert f"pid {process.pid}" in second.err
        assert second.out == ""
        assert await answers(ready, shell.home / ".local/state/exai")


async def test_daemons_on_two_state_directories_live_side_by_side(shell: Shell) -> None:
    async with (
        serving(shell, "--state-dir", "a") as (_, a),
        serving(shell, "--state-dir", "b") as (_, b),
    ):
        assert await answers(a, shell.home / "a")
        assert await answers(b, shell.home / "b")


async def test_a_daemon_that_was_killed_can_be_started_again(shell: Shell) -> None:
    async with serving(shell) as (process, _):
        process.kill()
        await process.wait()
        stale = await shell.run("tools")
        assert stale.status == ExitCode.CANNOT_CONNECT
        assert "exai serve" in stale.err
    async with serving(shell) as (_, ready):
        assert await answers(ready, shell.home / ".local/state/exai")


async def test_a_port_in_use_is_told_in_one_line(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        end = await shell.run("serve", "--port", port, "--http-port", "0")
    assert (end.status, end.out) == (ExitCode.CANNOT_SERVE, "")
    assert port in end.err
    assert end.err.count("\n") == 1


async def test_an_http_port_in_use_is_told_in_one_line(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        end = await shell.run("serve", "--port", "0", "--http-port", port)
    assert (end.status, end.out) == (ExitCode.CANNOT_SERVE, "")
    assert port in end.err
    assert "Traceback" not in end.err


async def test_a_state_directory_that_cannot_be_is_told(shell: Shell) -> None:
    (shell.home / "file").write_text("")
    end = await shell.run("serve", "--state-dir", "file/state")
    assert end.status == ExitCode.CANNOT_SERVE
    assert str(shell.home / "file") in end.err
    (shell.home / "open").mkdir()
    (shell.home / "open").chmod(0o777)
    end = await shell.run("serve", "--state-dir", "open")
    assert end.status == ExitCode.CANNOT_SERVE
    assert "chmod 700" in end.err


async def test_a_ledger_that_cannot_be_read_is_told_in_one_line(shell: Shell) -> None:
    async with serving(shell) as (process, _):
        process.send_signal(signal.SIGTERM)
        await ended(process)
    ledger = shell.home / ".local/state/exai/ledger.sqlite3"
    with closing(sqlite3.connect(ledger)) as connection:
        connection.execute("DROP TABLE sessions")
    end = await shell.run("serve", *ANY_PORTS)
    assert end.status == ExitCode.CANNOT_SERVE
    assert end.err == "exai: cannot serve: the ledger is out of order: no such table: sessions\n"


async def test_all_that_is_wrong_with_the_configuration_is_told_at_once(shell: Shell) -> None:
    (shell.home / "exai.toml").write_text("[server]\nprot = 1\nport = 'x'\n")
    shell.environ["EXAI_WS_PROT"] = "1"
    end = await shell.run("serve", "--config", "exai.toml", "--mcp-config", "nowhere.json")
    assert (end.status, end.out) == (ExitCode.USAGE, "")
    assert end.err.splitlines() == [
        "exai: warning: EXAI_WS_PROT has no effect: no such variable; did you mean EXAI_WS_PORT?",
        f"exai: {shell.home}/exai.toml: server.prot is not a setting; did you mean server.port?",
        f"exai: {shell.home}/exai.toml: server.port: "
        "expected a whole number from 0 to 65535, got 'x'",
        f"exai: {shell.home}/nowhere.json: cannot be read: No such file or directory",
    ]


async def test_the_token_of_the_environment_is_named_and_needed(shell: Shell) -> None:
    shell.environ["EXAI_WS_TOKEN"] = "a-token-of-some-length"
    async with serving(shell) as (_, ready):
        assert ready[3] == "tokens from EXAI_WS_TOKEN"
        async with DaemonClient(ready[1], token="a-token-of-some-length") as client:
            assert await client.list_tools()
        del shell.environ["EXAI_WS_TOKEN"]
        assert (await shell.run("tools")).status == ExitCode.UNAUTHORIZED
    assert not (shell.home / ".local/state/exai/token").exists()


async def test_open_access_asks_for_no_token(shell: Shell) -> None:
    shell.environ["EXAI_AUTH"] = "none"
    async with serving(shell) as (_, ready):
        assert ready[3] == "no token is asked for"
        async with DaemonClient(ready[1]) as client:
            assert await client.list_tools()
    assert not (shell.home / ".local/state/exai/token").exists()


async def test_principals_call_by_their_names(shell: Shell) -> None:
    config = shell.home / "exai.toml"
    config.write_text(
        '[principals.a]\ntoken = "token-of-a-0123456789"\n'
        '[principals.b]\ntoken = "token-of-b-0123456789"\ntools = ["version"]\n'
    )
    config.chmod(0o600)
    async with serving(shell, "--config", "exai.toml"):
        tools, nobody = await asyncio.gather(
            shell.run("tools", "--config", "exai.toml", "--as", "b", "-o", "json"),
            shell.run("tools", "--config", "exai.toml"),
        )
        assert [tool["name"] for tool in json.loads(tools.out)] == ["version"]
        assert (nobody.status, nobody.err) == (
            ExitCode.USAGE,
            "exai: choose a principal with --as: a, b\n",
        )


async def test_ctrl_c_stops_the_daemon_calmly(shell: Shell) -> None:
    async with serving(shell) as (process, _):
        process.send_signal(signal.SIGINT)
        assert (await ended(process)).status == ExitCode.OK


async def test_a_daemon_that_listens_everywhere_is_reached_on_this_machine(shell: Shell) -> None:
    async with serving(shell, "--host", "0.0.0.0"):
        assert (await shell.run("call", "echo", "text=x")).status == ExitCode.OK


async def test_the_log_goes_to_stderr_line_by_line(shell: Shell) -> None:
    async with serving(shell) as (process, ready):
        assert await answers(ready, shell.home / ".local/state/exai")
        process.send_signal(signal.SIGTERM)
        end = await ended(process)
    assert {"connections.session_opened"} <= {
        json.loads(line)["event"] for line in end.err.splitlines()
    }


@pytest.mark.parametrize("no_color", ["", "1"])
async def test_on_a_terminal_the_log_is_words_and_no_color_is_heeded(
    shell: Shell, no_color: str
) -> None:
    master, slave = pty.openpty()
    with os.fdopen(master, "rb", 0) as screen, os.fdopen(slave) as terminal:
        process = await asyncio.create_subprocess_exec(
            *(shell.python, "-m", "exai", "serve", *ANY_PORTS),
            stdout=PIPE,
            stderr=terminal,
            env=shell.environ | {"NO_COLOR": no_color},
            cwd=shell.home,
        )
        shown = await asyncio.to_thread(screen.read, 4096)
        process.terminate()
        assert (await ended(process)).status == ExitCode.OK
    assert b"daemon.opened" in shown
    assert (b"\x1b[" in shown) == (not no_color)


async def test_a_second_signal_does_not_wait_for_what_runs(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        base_url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        (shell.home / "exai.toml").write_text(
            f'[providers.silent]\nbase_url = "{base_url}"\nmodels = ["silent"]\n'
        )
        async with serving(shell, "--config", "exai.toml") as (process, ready):
            token = (shell.home / ".local/state/exai/token").read_text().strip()
            async with (
                asyncio.timeout(PATIENCE_S),
                DaemonClient(ready[1], token=token, patience_s=0.2) as client,
            ):
                prompt = {"prompt": "hello", "model": "silent"}
                async with asyncio.TaskGroup() as tasks:
                    call = tasks.create_task(lost(client.call("chat", prompt)))
                    connection, _ = await asyncio.to_thread(silent.accept)
                    with connection:
                        process.send_signal(signal.SIGTERM)
                        await drains(client)
                        assert not call.done()
                        process.send_signal(signal.SIGTERM)
                        await call
            assert (await ended(process)).status == ExitCode.TERMINATED


async def lost(call: Awaitable[CallResult]) -> None:
    """Wait for a call that never gets its answer."""
    with pytest.raises(ConnectionLost):
        await call


async def drains(client: DaemonClient) -> None:
    """Wait until the daemon takes no new calls."""
    while (await client.health())["status"] != "draining":
        pass


@pytest.mark.parametrize("redirection", [">&-", "| :"])
async def test_a_daemon_whose_output_nobody_reads_serves_all_the_same(
    shell: Shell, redirection: str
) -> None:
    command = f"{shell.python} -m exai serve {' '.join(ANY_PORTS)} {redirection}"
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", f"set -m; {command}"), env=shell.environ, cwd=shell.home, stderr=PIPE
    )
    state_dir = shell.home / ".local/state/exai"
    address = await address_of(state_dir)
    try:
        token = (state_dir / "token").read_text().strip()
        async with asyncio.timeout(PATIENCE_S), DaemonClient(address.websocket_url, token=token):
            pass
    finally:
        os.kill(address.pid, signal.SIGTERM)
    assert "Traceback" not in (await ended(process)).err


async def address_of(state_dir: Path) -> Address:
    """Wait until a daemon has left its address there."""
    async with asyncio.timeout(PATIENCE_S):
        while not (address := find_address(state_dir)):  # noqa: ASYNC110 - a file tells no event
            await asyncio.sleep(0.01)
    return address


async def test_behind_tls_a_daemon_is_known_by_its_own_certificate(shell: Shell) -> None:
    issued = trustme.CA().issue_cert("exai.example")
    files = {"c.pem": b"".join(p.bytes() for p in issued.cert_chain_pems)}
    files["k.pem"] = issued.private_key_pem.bytes()
    for name, content in files.items():
        (shell.home / name).write_bytes(content)
    shell.environ["EXAI_SERVER_TLS_CERTIFICATE"] = "c.pem"
    shell.environ["EXAI_SERVER_TLS_KEY"] = "k.pem"
    async with serving(shell) as (_, ready):
        for name in ("EXAI_SERVER_TLS_CERTIFICATE", "EXAI_SERVER_TLS_KEY"):
            del shell.environ[name]
        assert ready[1].startswith("wss://")
        answer = await shell.run("call", "echo", "text=hello")
        assert answer == (ExitCode.OK, "hello\n", "")
        by_authorities = await shell.run("tools", "--url", ready[1])
        assert by_authorities.status == ExitCode.CANNOT_CONNECT
        assert "certificate verify failed" in by_authorities.err
        other = trustme.CA().issue_cert("exai.example")
        (shell.home / "c.pem").write_bytes(other.cert_chain_pems[0].bytes())
        other_daemon = await shell.run("tools")
        assert other_daemon.status == ExitCode.CANNOT_CONNECT
        assert "certificate verify failed" in other_daemon.err
        (shell.home / "c.pem").write_bytes(b"")
        unknown = await shell.run("tools")
        assert unknown.status == ExitCode.USAGE
        assert "holds no certificate" in unknown.err


async def test_a_certificate_that_cannot_be_used_is_told(shell: Shell) -> None:
    shell.environ["EXAI_SERVER_TLS_CERTIFICATE"] = "c.pem"
    end = await shell.run("serve", *ANY_PORTS)
    assert end.status == ExitCode.CANNOT_SERVE
    assert f"{shell.home}/c.pem: cannot be read: No such file or directory" in end.err
