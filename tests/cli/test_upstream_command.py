"""`exai upstream` and `exai reload`, as an operator uses them: processes, over a socket."""

import asyncio
import json
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from exai.cli.exit_codes import ExitCode
from tests.cli.exai_process import PATIENCE_S, Ended, Shell, ended, serving
from tests.upstream.running_server import SCRIPTED

PLAYS = {"command": sys.executable, "args": ["-I", "-S", str(SCRIPTED)]}
DIES = {"command": "/bin/sh", "args": ["-c", "echo cannot >&2; exit 3"]}
pytestmark = pytest.mark.slow

BOB = "token-of-bob-0123456789"


@pytest.fixture
def shell(home: Path) -> Shell:
    shell = Shell(home)
    shell.environ["EXAI_LOCAL_ENABLED"] = "false"
    return shell


def write_servers(shell: Shell, **servers: Any) -> tuple[str, str]:
    (shell.home / "mcp.json").write_text(json.dumps({"mcpServers": servers}))
    return "--mcp-config", "mcp.json"


@asynccontextmanager
async def started(shell: Shell, *arguments: str) -> AsyncIterator[None]:
    """Run a daemon; go on once each server has had its first start."""
    async with serving(shell, *arguments) as (_, ready):
        async with (
            asyncio.timeout(PATIENCE_S),
            httpx2.AsyncClient(base_url=ready[2], trust_env=False) as client,
        ):
            while (await client.get("/readyz")).status_code != 200:
                pass
        yield


async def reports(shell: Shell) -> dict[str, Any]:
    end = await shell.run("upstream", "list", "-o", "json")
    assert (end.status, end.err) == (ExitCode.OK, "")
    return {report["name"]: report for report in json.loads(end.out)["upstreams"]}


async def reload(shell: Shell, **servers: Any) -> Ended:
    write_servers(shell, **servers)
    return await shell.run("reload")


async def test_servers_are_listed_for_people_and_for_programs(shell: Shell) -> None:
    hidden = PLAYS | {"exai": {"allow": ["echo", "no-such"], "prefix": ""}}
    async with started(shell, *write_servers(shell, a=PLAYS, b=hidden, c=DIES)):
        end = await shell.run("upstream", "list")
        lines = end.out.splitlines()
        assert (end.status, end.err) == (ExitCode.OK, "")
        assert lines[0].split() == (
            [
                "NAME",
                "KIND",
                "INSTANCE",
                "STATE",
                "PID",
                "PROTOCOL",
                "TOOLS",
                "RUNNING",
                "STARTS",
                "AT",
            ]
        )
        assert re.match(r"a +stdio +shared +ready +\d+ +20\S+ +\d+ +0 +1 +/", lines[1])
        assert re.match(r"c +stdio +shared +(backing off|gave up): exited with status 3", lines[3])
        assert "b: echo is not offered  its name echo belongs to a tool of exai" in lines
        assert any(line.startswith("b: no-such is not offered") for line in lines)
        told = await reports(shell)
        assert "a__echo" in told["a"]["tools"]
        all_count = len(told["a"]["tools"])
        doctor = (await shell.run("doctor")).out
        assert re.search(rf"MCP server a +is ready, with {all_count} tools\n", doctor)
        assert re.search(
            rf"MCP server b +is ready, and offers 0 of its {all_count} tools\n", doctor
        )
        status = (await shell.run("status")).out.splitlines()
        assert ["b", "0", "ready"] in [line.split() for line in status]
        assert told["c"]["last_end"] == "exited with status 3"


async def test_a_restart_waits_until_the_server_is_ready_or_says_why_it_is_not(
    shell: Shell,
) -> None:
    async with started(shell, *write_servers(shell, a=PLAYS, c=DIES)):
        before = (await reports(shell))["a"]
        end = await shell.run("upstream", "restart", "a")
        after = (await reports(shell))["a"]
        assert after["pid"] != before["pid"]
        told = f"a is ready (pid {after['pid']}), with {len(after['tools'])} tools\n"
        assert end == (ExitCode.OK, told, "")
        failed = await shell.run("upstream", "restart", "c", "-o", "json")
        assert failed.status == ExitCode.CALL_FAILED
        assert "exai: c is not ready: backing off: exited with status 3" in failed.err
        assert failed.err.endswith("; for what it said, see exai upstream logs c\n")
        assert json.loads(failed.out)["name"] == "c"
        unknown = await shell.run("upstream", "restart", "no/such?x")
        assert unknown.status == ExitCode.UNKNOWN
        assert unknown.err == "exai: there is no MCP server no/such?x\n"


async def test_a_name_that_is_misspelt_is_told_what_it_may_be(shell: Shell) -> None:
    async with started(shell, *write_servers(shell, weather=PLAYS)):
        for command in ("restart", "logs"):
            end = await shell.run("upstream", command, "wether")
            assert end.status == ExitCode.UNKNOWN
            assert end.err == "exai: there is no MCP server wether; did you mean weather?\n"


async def test_what_a_server_says_is_shown_and_followed(shell: Shell) -> None:
    async with started(shell, *write_servers(shell, a=PLAYS)):
        end = await shell.run("upstream", "logs", "a")
        assert re.fullmatch(r"\d\d:\d\d:\d\d \[started: pid \d+\]\n", end.out)
        following = await shell.start("upstream", "logs", "a", "-n", "1", "--follow")
        assert following.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            assert b"started" in await following.stdout.readline()
            await shell.run("call", "a__exit")
            assert b"last words" in await following.stdout.readline()
            assert b"exited with status 1" in await following.stdout.readline()
        following.send_signal(signal.SIGINT)
        assert (await ended(following)).status == ExitCode.INTERRUPTED
        lines = await shell.run("upstream", "logs", "a", "--lines", "1", "-o", "json")
        assert json.loads(lines.out)["number"] >= 3


async def test_a_reload_says_what_has_changed(shell: Shell) -> None:
    async with started(shell, *write_servers(shell, a=PLAYS, b=PLAYS, c=PLAYS)):
        before = await reports(shell)
        same = await shell.run("reload")
        assert same == (ExitCode.OK, "no MCP server has changed\n", "")
        changed = PLAYS | {"env": {"A": "1"}}
        end = await reload(shell, d=PLAYS, a=PLAYS, b=changed, e=PLAYS | {"disabled": True})
        assert end == (ExitCode.OK, "added: d\nremoved: c\nrestarted: b\n", "")
        adjusted = PLAYS | {"exai": {"prefix": "x_"}}
        end = await reload(shell, a=adjusted, b=changed, d=PLAYS)
        assert end == (ExitCode.OK, "changed without a restart: a\n", "")
        after = await reports(shell)
        assert list(after) == ["a", "b", "d"]
        assert after["a"]["pid"] == before["a"]["pid"]
        assert "x_echo" in after["a"]["tools"]
        called = await shell.run("call", "x_echo", "text=hi")
        assert called == (ExitCode.OK, "hi\n", "")


async def test_a_faulty_file_changes_nothing_and_is_told_as_at_a_start(shell: Shell) -> None:
    async with started(shell, *write_servers(shell, a=PLAYS)):
        before = await reports(shell)
        faulty = {"a": {"command": "x", "env": {"K": "${NOPE}"}, "envFile": ".env"}, "b": {}}
        end = await reload(shell, **faulty)
        start = await shell.run("serve", "--check", "--mcp-config", "mcp.json")
        assert (end.status, end.out) == (ExitCode.USAGE, "")
        assert end.err == start.err
        assert "a.env: K: the variable NOPE is not set" in end.err
        (shell.home / "mcp.json").write_text("{")
        broken = await shell.run("reload", "-o", "json")
        assert broken.status == ExitCode.USAGE
        assert "line 1, column 2" in json.loads(broken.out)["problems"][0]
        (shell.home / "mcp.json").unlink()
        assert (await shell.run("reload")).status == ExitCode.USAGE
        assert await reports(shell) == before


async def test_what_holds_only_after_a_restart_is_told(shell: Shell) -> None:
    config = shell.home / "exai.toml"
    secret = shell.home / "secret"
    for file in (config, secret):
        file.touch(0o600)
    secret.write_text("a-token-of-some-length-1")
    config.write_text('[principals.default]\ntoken = "file:secret"\n')
    arguments = ("--config", "exai.toml")
    async with started(shell, *arguments, *write_servers(shell, a=PLAYS)):
        assert (await shell.run("reload", *arguments)).err == ""
        config.write_text(
            '[principals.default]\ntoken = "file:secret"\n[limits]\ncall_timeout_s = 7\n'
        )
        end = await shell.run("reload", *arguments)
        assert (end.status, end.out) == (ExitCode.OK, "no MCP server has changed\n")
        assert end.err == (
            "exai: these hold only after a restart (exai reload --upgrade): limits.call_timeout_s\n"
        )


async def test_only_an_admin_looks_after_servers(shell: Shell) -> None:
    config = shell.home / "exai.toml"
    config.touch(0o600)
    config.write_text(
        f'[principals.bob]\ntoken = "{BOB}"\ntools = ["a__echo"]\n'
        '[principals.default]\ntoken = "token-of-the-default-one"\n'
    )
    options = ("--config", "exai.toml")
    async with started(shell, *options, *write_servers(shell, a=PLAYS, b=PLAYS)):
        bob = (*options, "--as", "bob")
        listed = await shell.run("upstream", "list", *bob)
        assert listed.status == ExitCode.OK
        assert [line.split()[0] for line in listed.out.splitlines()] == ["NAME", "a"]
        for command in (("restart", "a"), ("logs", "a")):
            end = await shell.run("upstream", *command, *bob)
            assert end.status == ExitCode.REFUSED
            assert end.err == "exai: the principal bob is no admin (principals.bob.admin)\n"
        assert (await shell.run("reload", *bob)).status == ExitCode.REFUSED
        assert (await shell.run("upstream", "restart", "b", *bob)).status == ExitCode.UNKNOWN
        assert (await shell.run("reload", *options)).status == ExitCode.OK
        shell.environ["EXAI_WS_TOKEN"] = "wrong-but-long-enough"
        wrong = await shell.run("upstream", "list")
        assert wrong.status == ExitCode.UNAUTHORIZED
        assert "refused the token" in wrong.err


async def test_without_a_daemon_it_is_said(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    for command in (("upstream", "list"), ("upstream", "logs", "a"), ("reload",)):
        end = await shell.run(*command, "--url", url)
        assert end.status == ExitCode.CANNOT_CONNECT
        assert f"no daemon answers at {url}" in end.err
    assert (await shell.run("reload", "--url", "nowhere")).status == ExitCode.USAGE
