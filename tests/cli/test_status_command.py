"""`exai status`, a process of its own, against daemons in every state."""

import asyncio
import json
import os
import pty
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from io import RawIOBase
from pathlib import Path
from threading import Thread

import pytest
import trustme

from exai.cli.exit_codes import ExitCode
from exai.core.config import LimitsConfig, PrincipalConfig, Secret, ServerConfig, UpstreamConfig
from exai.core.events import UpstreamDied
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from exai.testing.scripted_tool import Gates, ScriptedTool
from tests.cli.exai_process import PATIENCE_S, Ended, Shell, ended, serving
from tests.journeys.wire import open_wire

MUTE = UpstreamConfig(command=sys.executable, args=("-c", "import sys; sys.stdin.read()"))
DEAD = UpstreamConfig(command=sys.executable, args=("-c", "raise SystemExit(3)"))

RUDE = r"""
import json, sys
for line in sys.stdin:
    error = {"code": 1, "message": "\x1b[2J\nok  all is well"}
    print(json.dumps({"jsonrpc": "2.0", "id": json.loads(line)["id"], "error": error}), flush=True)
"""


@pytest.fixture
def shell(home: Path) -> Shell:
    shell = Shell(home)
    shell.environ["EXAI_LOCAL_ENABLED"] = "false"
    return shell


async def status_of(shell: Shell, daemon: RunningDaemon, *arguments: str) -> Ended:
    shell.environ.setdefault("EXAI_WS_TOKEN", TOKEN)
    return await shell.run("status", "--url", daemon.address.http_url, *arguments)


async def test_a_daemon_that_is_ready_is_found_and_shown(shell: Shell) -> None:
    async with serving(shell) as (process, ready):
        for_people, for_programs = await asyncio.gather(
            shell.run("status"), shell.run("status", "-o", "json")
        )
    assert (for_people.status, for_people.err) == (ExitCode.OK, "")
    first, *lines = for_people.out.splitlines()
    assert f"at {ready[2]} is ok; up 0:00:" in first
    assert f"pid {process.pid}" in first
    assert {line.split("  ")[0] for line in lines} >= {"connections", "memory", "loop lag", "kimi"}
    assert (for_programs.status, for_programs.out.count("\n")) == (ExitCode.OK, 1)
    assert json.loads(for_programs.out)["pid"] == process.pid


async def test_no_daemon_and_one_that_was_killed_are_told_apart(shell: Shell) -> None:
    none = await shell.run("status", "-o", "json")
    assert (none.status, none.out) == (ExitCode.CANNOT_CONNECT, "")
    assert "exai serve" in none.err
    async with serving(shell) as (process, ready):
        process.kill()
        await process.wait()
    killed = await shell.run("status")
    assert (killed.status, killed.out) == (ExitCode.CANNOT_CONNECT, "")
    assert ready[2] in killed.err
    assert f"(pid {process.pid}) was killed" in killed.err


async def test_a_wrong_token_and_none_are_told(shell: Shell, tmp_path: Path) -> None:
    async with running_daemon(daemon_config(tmp_path / "state")) as daemon:
        none = await shell.run("status", "--url", daemon.address.http_url)
        shell.environ["EXAI_WS_TOKEN"] = wrong_token = "a-token-of-somebody-else"
        wrong = await status_of(shell, daemon, "-o", "json")
    assert (none.status, none.out) == (
        ExitCode.UNAUTHORIZED,
        f"EXAI at {daemon.address.http_url} is ok\n",
    )
    assert "no token: none in" in none.err
    assert (wrong.status, wrong.out) == (ExitCode.UNAUTHORIZED, '{"status": "ok"}\n')
    assert "refused the token (EXAI_WS_TOKEN)" in wrong.err
    assert wrong_token not in wrong.err


async def test_a_daemon_that_starts_says_what_it_waits_for(shell: Shell, tmp_path: Path) -> None:
    config = daemon_config(tmp_path / "state", upstreams={"mute": MUTE})
    async with running_daemon(config) as daemon:
        end = await status_of(shell, daemon)
    assert (end.status, end.err) == (ExitCode.NOT_READY, "")
    assert "is starting, and waits for upstream:mute" in end.out


async def test_a_daemon_that_drains_is_not_ready(shell: Shell, tmp_path: Path) -> None:
    gates = Gates()
    async with (
        running_daemon(daemon_config(tmp_path / "state"), [ScriptedTool("gate", gates)]) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        await wire.say("call_tool", name="gate", request_id="r1")
        await gates.until_inside("g")
        daemon.stop.set()
        await wire.hear_op("going_away")
        end = await status_of(shell, daemon)
        gates.open()
        assert (await wire.result())["ok"]
    assert end.status == ExitCode.NOT_READY
    assert "is draining" in end.out


async def test_load_and_a_full_websocket_are_seen_and_no_ill_health(
    shell: Shell, tmp_path: Path
) -> None:
    gates = Gates()
    config = daemon_config(
        tmp_path / "state",
        server=ServerConfig(max_connections=1),
        limits=LimitsConfig(global_max_inflight=1),
    )
    async with (
        running_daemon(config, [ScriptedTool("gate", gates)]) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        for n in range(9):
            await wire.say("call_tool", name="gate", request_id=f"r{n}")
        await gates.until_inside("g")
        end = await status_of(shell, daemon)
        gates.open()
        assert all([(await wire.result(f"r{n}"))["ok"] for n in range(9)])
    assert end.status == ExitCode.OK
    rows = [line.split() for line in end.out.splitlines()]
    assert ["connections", "1", "of", "1"] in rows
    assert ["global", "1", "1", "8"] in rows


async def test_open_access_and_dead_servers_stand_in_the_picture(
    shell: Shell, tmp_path: Path
) -> None:
    state_dir = tmp_path / "state"
    shell.environ["EXAI_AUTH"] = "none"
    servers = {"dead": {"command": DEAD.command, "args": list(DEAD.args)}}
    (shell.home / "mcp.json").write_text(json.dumps({"mcpServers": servers}))
    async with serving(shell, "--mcp-config", "mcp.json", "--state-dir", str(state_dir)):
        async with asyncio.timeout(PATIENCE_S):
            while (end := await shell.run("status", "--state-dir", str(state_dir))).status:
                assert end.status == ExitCode.NOT_READY
    assert "warning: auth.mode = none" in end.out
    assert "exited with status 3" in end.out


async def test_who_may_see_less_is_shown_less(shell: Shell, tmp_path: Path) -> None:
    narrow = PrincipalConfig(token=Secret(TOKEN), tools=("echo",))
    config = daemon_config(tmp_path / "state", principals={"default": narrow})
    async with running_daemon(config) as daemon:
        end = await status_of(shell, daemon)
    assert (end.status, end.err) == (ExitCode.OK, "")
    assert "global" in end.out
    assert "\nkimi" not in end.out


async def test_behind_tls_a_daemon_is_known_by_its_own_certificate(shell: Shell) -> None:
    issued = trustme.CA().issue_cert("exai.example")
    (shell.home / "c.pem").write_bytes(issued.private_key_and_cert_chain_pem.bytes())
    shell.environ["EXAI_SERVER_TLS_CERTIFICATE"] = "c.pem"
    async with serving(shell) as (_, ready):
        del shell.environ["EXAI_SERVER_TLS_CERTIFICATE"]
        own, by_authorities, without_tls = await asyncio.gather(
            shell.run("status"),
            shell.run("status", "--url", ready[2]),
            shell.run("status", "--url", ready[2].replace("https", "http")),
        )
    assert (own.status, own.err) == (ExitCode.OK, "")
    assert by_authorities.status == ExitCode.CANNOT_CONNECT
    assert "certificate verify failed" in by_authorities.err
    assert without_tls.status == ExitCode.CANNOT_CONNECT
    assert "Traceback" not in without_tls.err


@pytest.fixture
def answering(request: pytest.FixtureRequest) -> Iterator[str]:
    """Answer one connection with the given bytes, and end; yield where."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(request.param)

        thread = Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"
        thread.join(PATIENCE_S)


def http(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


@pytest.mark.parametrize(
    ("answering", "status", "word"),
    [
        (b"", ExitCode.CANNOT_CONNECT, "no daemon answers"),
        (b"220 mail\r\n", ExitCode.CANNOT_CONNECT, "does not speak HTTP"),
        (http(b"<html>"), ExitCode.CANNOT_CONNECT, "no EXAI daemon"),
        (http(b'{"status":5}'), ExitCode.CANNOT_CONNECT, "no EXAI daemon"),
        (http(b"\x1b[2J", b"404 X"), ExitCode.CANNOT_CONNECT, "404: \\x1b[2J"),
        (http(b'{"status":"ok","pools":5}'), ExitCode.OK, "-o json shows"),
        (http(b'{"status":"ok","novel":5}'), ExitCode.OK, ""),
    ],
    indirect=["answering"],
)
async def test_whatever_answers_is_told_in_a_sentence(
    shell: Shell, answering: str, status: ExitCode, word: str
) -> None:
    end = await shell.run("status", "--url", answering)
    assert end.status == status
    assert word in end.err
    assert "Traceback" not in end.err


@pytest.mark.parametrize(
    "url", ["ws://127.0.0.1:8079/", "http://", "http://[::1", "http://h:99999", "http://h/a b"]
)
async def test_what_is_no_address_of_an_http_port_is_refused(shell: Shell, url: str) -> None:
    end = await shell.run("status", "--url", url)
    assert (end.status, end.out) == (ExitCode.USAGE, "")
    assert "--url: expected an http:// or https:// address" in end.err


@pytest.mark.slow
async def test_who_never_answers_is_waited_for_only_so_long(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        end = await shell.run("status", "--url", url)
    assert end.status == ExitCode.CANNOT_CONNECT
    assert f"nobody answers at {url} within 5 s" in end.err


async def test_ctrl_c_ends_it_at_once(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        process = await shell.start(
            "status", "--url", f"http://127.0.0.1:{silent.getsockname()[1]}/"
        )
        connection, _ = await asyncio.to_thread(silent.accept)
        with connection:
            process.send_signal(signal.SIGINT)
            end = await ended(process)
    assert end.status == ExitCode.INTERRUPTED
    assert "Traceback" not in end.err


async def test_on_a_terminal_what_servers_say_draws_nothing(shell: Shell, tmp_path: Path) -> None:
    rude = UpstreamConfig(command=sys.executable, args=("-c", RUDE))
    config = daemon_config(tmp_path / "state", upstreams={"rude": rude})
    shell.environ["EXAI_WS_TOKEN"] = TOKEN
    ours, theirs = pty.openpty()
    async with running_daemon(config) as daemon:
        async with asyncio.timeout(PATIENCE_S):
            await daemon.events.first_of(UpstreamDied)
            process = await asyncio.create_subprocess_exec(
                *(shell.python, "-m", "exai", "status", "--url", daemon.address.http_url),
                env=shell.environ,
                stdout=theirs,
            )
            os.close(theirs)
            with os.fdopen(ours, "rb", buffering=0) as screen:
                shown = await asyncio.to_thread(everything_on, screen)
            await process.wait()
    assert b"\\x1b[2J ok all is well" in shown
    assert b"\x1b" not in shown


def everything_on(screen: RawIOBase) -> bytes:
    """Read a terminal until nobody writes to it any more."""
    shown = b""
    with suppress(OSError):  # which is how a terminal says so
        while part := screen.read(65_536):
            shown += part
    return shown
