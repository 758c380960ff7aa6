"""`exai doctor`, with each fault really there."""

import asyncio
import json
import os
import re
import signal
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

from exai.cli.exit_codes import ExitCode
from exai.observe.health_file import HEALTH_FILE
from tests.cli.exai_process import PATIENCE_S, Shell, ended, serving
from tests.journeys.test_full_disk import disk
from tests.stores.ledgers import SPOILT, damaged, kept_files

__all__ = ["disk"]  # a fixture

SECRETS = {"EXAI_WS_TOKEN": "a-token-that-nobody-sees", "KIMI_API_KEY": "a-key-that-nobody-sees"}
DIES = {"command": "/bin/sh", "args": ["-c", "exit 3"]}


@pytest.fixture
def shell(home: Path) -> Shell:
    return Shell(home)


@pytest.fixture
def ports(shell: Shell) -> tuple[int, int]:
    """Configure two ports that are free; return them."""
    with socket.create_server(("", 0)) as one, socket.create_server(("", 0)) as other:
        ports = (one.getsockname()[1], other.getsockname()[1])
    shell.environ["EXAI_WS_PORT"], shell.environ["EXAI_SERVER_HTTP_PORT"] = map(str, ports)
    return ports


class Report(NamedTuple):
    """What the doctor said: by check, the verdict, the text and the advice."""

    status: int | None
    findings: list[tuple[str, str, str]]
    text: str

    def verdict_of(self, check: str) -> str:
        (verdict,) = {verdict for name, verdict, _ in self.findings if name == check}
        return verdict

    def of(self, check: str) -> str:
        return "\n".join(said for name, _, said in self.findings if name == check)


async def examine(shell: Shell, *arguments: str) -> Report:
    end = await shell.run("doctor", "-o", "json", *arguments)
    assert end.err == ""
    report = json.loads(end.out)
    findings = [
        (one["check"], one["verdict"], f"{one['text']}\n{one['advice']}")
        for one in report["findings"]
    ]
    problems = [one for one in findings if one[1] == "problem"]
    assert report["problems"] == len(problems)
    assert end.status == (ExitCode.PROBLEM_FOUND if problems else ExitCode.OK)
    return Report(end.status, findings, end.out)


def servers(shell: Shell, **entries: object) -> tuple[str, str]:
    (shell.home / "mcp.json").write_text(json.dumps({"mcpServers": entries}))
    return "--mcp-config", "mcp.json"


@pytest.fixture
async def state_dir(shell: Shell) -> Path:
    return shell.home / ".local/state/exai"


async def test_before_the_first_start_nothing_is_wrong_and_nothing_is_made(
    shell: Shell, ports: tuple[int, int]
) -> None:
    report = await examine(shell)
    assert report.status == ExitCode.OK
    assert report.verdict_of("daemon") == "warning"
    assert "exai serve" in report.of("daemon")
    assert "the first start makes it" in report.of("state directory")
    assert "free" in report.of("WebSocket port")
    assert os.listdir(shell.home) == []


async def test_a_daemon_that_is_well_is_told_so_for_people(shell: Shell, state_dir: Path) -> None:
    async with serving(shell) as (process, ready):
        end = await shell.run("doctor")
        before = sorted(os.listdir(state_dir))
    assert (end.status, end.err) == (ExitCode.OK, "")
    lines = end.out.splitlines()
    assert lines[-1] == "0 problems, 0 warnings"
    assert f"ok  daemon           pid {process.pid} answers at {ready[2]}" in lines
    assert f"ok  token            the daemon takes the one from {state_dir}/token" in lines
    assert any("descriptors      the daemon may open enough files" in line for line in lines)
    ledger = ["ledger.sqlite3", "ledger.sqlite3-shm", "ledger.sqlite3-wal"]
    assert before == ["address.json", "daemon.lock", *ledger, "token", HEALTH_FILE]


async def test_a_daemon_that_was_killed_leaves_a_stale_address_and_health_file(
    shell: Shell, state_dir: Path, ports: tuple[int, int]
) -> None:
    async with serving(shell) as (process, _):
        await appears(state_dir / HEALTH_FILE)
        process.kill()
        await process.wait()
    report = await examine(shell)
    assert report.status == ExitCode.OK
    for check in ("daemon", "address file", "health file"):
        assert report.verdict_of(check) == "warning"
    assert f"stale: left by the daemon with pid {process.pid}" in report.of("address file")
    assert "stale" in report.of("health file")


async def appears(path: Path) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not os.path.exists(path):  # noqa: ASYNC110, ASYNC240 - a file tells no event
            await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_a_daemon_that_hangs_is_a_problem(shell: Shell) -> None:
    async with serving(shell) as (process, ready):
        process.send_signal(signal.SIGSTOP)
        report = await examine(shell)
        process.send_signal(signal.SIGCONT)
    assert report.verdict_of("daemon") == "problem"
    assert f"pid {process.pid} runs, but nobody answers at {ready[2]}" in report.of("daemon")
    assert "is the daemon's" in report.of("HTTP port")


async def test_a_daemon_that_listens_elsewhere_than_is_configured_is_told_where(
    shell: Shell, ports: tuple[int, int]
) -> None:
    async with serving(shell) as (_, ready):
        report = await examine(shell)
        assert report.verdict_of("daemon") == "problem"
        assert f"it listens at {ready[2]}" in report.of("daemon")
        assert f":{ports[1]}/" in report.of("daemon")


async def test_a_daemon_that_starts_says_what_it_waits_for(shell: Shell) -> None:
    mute = servers(shell, mute={"command": "/bin/sleep", "args": ["60"]})
    async with serving(shell, *mute):
        report = await examine(shell, *mute)
    assert report.verdict_of("daemon") == "warning"
    assert "starting; it waits for upstream:mute" in report.of("daemon")
    assert report.verdict_of("MCP server mute") == "warning"


@pytest.mark.parametrize("which", [0, 1])
async def test_a_stranger_at_a_port_is_named(
    shell: Shell, ports: tuple[int, int], which: int
) -> None:
    check = ("WebSocket port", "HTTP port")[which]
    with socket.create_server(("127.0.0.1", ports[which])):
        report = await examine(shell)
    assert report.verdict_of(check) == "problem"
    assert f"{ports[which]} is taken by" in report.of(check)
    assert f"(pid {os.getpid()})" in report.of(check)


async def test_a_token_of_another_daemon_is_told_from_where_it_came(shell: Shell) -> None:
    async with serving(shell):
        shell.environ |= SECRETS
        report = await examine(shell)
    assert report.verdict_of("token") == "problem"
    assert "refuses the one from EXAI_WS_TOKEN" in report.of("token")
    assert not any(secret in report.text for secret in SECRETS.values())


async def test_a_token_that_only_the_daemon_has_is_missed(shell: Shell) -> None:
    shell.environ |= SECRETS
    async with serving(shell):
        del shell.environ["EXAI_WS_TOKEN"]
        report = await examine(shell)
    assert report.verdict_of("token") == "problem"
    assert "there is none here" in report.of("token")


async def test_a_token_that_others_can_read_is_a_problem(shell: Shell, state_dir: Path) -> None:
    async with serving(shell):
        (state_dir / "token").chmod(0o644)
        report = await examine(shell)
    assert report.verdict_of("token") == "problem"
    assert f"chmod 600 {state_dir}/token" in report.of("token")


async def test_of_several_identities_one_is_chosen(shell: Shell) -> None:
    toml = shell.home / "exai.toml"
    toml.write_text(
        '[principals.a]\ntoken = "token-of-a-0123456789"\n'
        '[principals.b]\ntoken = "token-of-b-0123456789"\ntools = ["echo"]\n'
    )
    toml.chmod(0o600)
    arguments = ("--config", "exai.toml")
    async with serving(shell, *arguments):
        none, narrow = await asyncio.gather(
            examine(shell, *arguments), examine(shell, *arguments, "--as", "b")
        )
    assert "choose a principal with --as: a, b" in none.of("token")
    assert narrow.verdict_of("token") == "ok"


@pytest.mark.parametrize(
    ("toml", "mode", "said"),
    [
        ("[server]\nprot = 1\n", 0o600, "did you mean server.port?"),
        ("[server\n", 0o600, "exai.toml: Expected"),
        ('[principals.a]\ntoken = "short"\n', 0o600, "at least 16 characters"),
        ('[principals.a]\ntoken = "token-of-a-0123456789"\n', 0o644, "chmod 600"),
        (
            '[providers.p]\nbase_url = "http://x"\napi_key = "env:NONE"\n',
            0o600,
            "'NONE' is not set",
        ),
    ],
)
async def test_each_fault_of_the_configuration_is_told(
    shell: Shell, toml: str, mode: int, said: str
) -> None:
    (shell.home / "exai.toml").write_text(toml)
    (shell.home / "exai.toml").chmod(mode)
    report = await examine(shell, "--config", "exai.toml")
    assert report.verdict_of("configuration") == "problem"
    assert said in report.of("configuration")
    assert "token-of-a" not in report.text


async def test_a_secret_out_of_reach_keeps_no_other_check_from_its_work(shell: Shell) -> None:
    async with serving(shell):
        (shell.home / "exai.toml").write_text('[providers.glm]\napi_key = "env:NONE"\n')
        report = await examine(shell, "--config", "exai.toml")
    assert report.verdict_of("configuration") == "problem"
    assert report.verdict_of("daemon") == report.verdict_of("token") == "ok"


async def test_a_certificate_that_cannot_be_used_is_a_problem(shell: Shell) -> None:
    (shell.home / "c.pem").write_text("")
    shell.environ["EXAI_SERVER_TLS_CERTIFICATE"] = "c.pem"
    report = await examine(shell)
    assert report.verdict_of("certificate") == "problem"
    assert "no certificate and key in PEM format" in report.of("certificate")


async def test_a_state_directory_that_cannot_be_used_is_a_problem(shell: Shell) -> None:
    (shell.home / "file").write_text("")
    (shell.home / "open").mkdir()
    (shell.home / "open").chmod(0o777)
    (shell.home / "shown").mkdir(mode=0o755)
    in_the_way, writable, shown = await asyncio.gather(
        examine(shell, "--state-dir", "file/state"),
        examine(shell, "--state-dir", "open"),
        examine(shell, "--state-dir", "shown"),
    )
    assert "is no directory" in in_the_way.of("state directory")
    assert in_the_way.verdict_of("state directory") == "problem"
    assert writable.verdict_of("state directory") == "problem"
    assert "chmod 700" in writable.of("state directory")
    assert shown.verdict_of("state directory") == "warning"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [*SPOILT.items(), (damaged, "cannot be used")],
    ids=lambda each: getattr(each, "__name__", ""),
)
async def test_a_ledger_that_cannot_be_used_is_a_problem_and_left_as_it_is(
    shell: Shell, state_dir: Path, spoil: Callable[[Path], None], said: str
) -> None:
    os.makedirs(state_dir, mode=0o700)
    spoil(state_dir)
    before = kept_files(state_dir)
    report = await examine(shell)
    assert report.verdict_of("ledger") == "problem"
    assert said in report.of("ledger")
    assert " away" in report.of("ledger")
    assert kept_files(state_dir) == before


async def test_a_ledger_that_is_well_says_how_large_it_is(shell: Shell, state_dir: Path) -> None:
    first = await examine(shell)
    async with serving(shell):
        used = await examine(shell)
    left = await examine(shell)
    shell.environ["EXAI_STORE_KIND"] = "memory"
    in_memory = await examine(shell)
    assert "none yet" in first.of("ledger")
    for report in (used, left):
        assert report.verdict_of("ledger") == "ok"
        assert re.match(r"sound, version 1 of its tables, \d+ KiB", report.of("ledger"))
    assert "in memory" in in_memory.of("ledger")


async def test_a_disk_that_is_nearly_full_is_warned_of(shell: Shell, disk: Path) -> None:
    report = await examine(shell, "--state-dir", str(disk / "state"))
    assert report.verdict_of("disk space") == "warning"
    assert f"free on the disk of {disk}" in report.of("disk space")
    elsewhere = await examine(shell)
    assert elsewhere.verdict_of("disk space") == "ok"


async def test_what_cannot_be_seen_is_not_told(shell: Shell, state_dir: Path) -> None:
    os.makedirs(state_dir, mode=0o700)
    os.symlink("daemon.lock", state_dir / "daemon.lock")
    report = await examine(shell)
    for check in ("ledger", "daemon", "address file", "health file", "token"):
        assert report.verdict_of(check) == "warning"
        assert "cannot be seen" in report.of(check)


async def test_a_health_file_that_is_too_old_is_a_problem(shell: Shell, state_dir: Path) -> None:
    shell.environ["EXAI_HEALTH_WRITER_INTERVAL"] = "3600"
    async with serving(shell):
        await appears(state_dir / HEALTH_FILE)
        del shell.environ["EXAI_HEALTH_WRITER_INTERVAL"]
        an_hour_ago = time.time() - 3600
        os.utime(state_dir / HEALTH_FILE, (an_hour_ago, an_hour_ago))
        report = await examine(shell)
    assert report.verdict_of("health file") == "problem"


async def test_servers_that_cannot_be_started_are_told_before_they_are(shell: Shell) -> None:
    (shell.home / "text").write_text("")
    report = await examine(
        shell,
        *servers(
            shell,
            gone={"command": "no-such-program"},
            text={"command": "./text"},
            nowhere={"command": "sh", "cwd": "nowhere"},
            off={"command": "no-such-program", "disabled": True},
            fine={"command": "sh"},
            elsewhere={"command": "no-such-program", "env": {"PATH": str(shell.home)}},
        ),
    )
    assert "no program no-such-program on the PATH" in report.of("MCP server gone")
    assert str(shell.home / "mcp.json") in report.of("MCP server gone")
    for name in ("gone", "text", "nowhere", "elsewhere"):
        assert report.verdict_of(f"MCP server {name}") == "problem"
    for name in ("off", "fine"):
        assert report.verdict_of(f"MCP server {name}") == "ok"


async def test_a_server_that_dies_is_told_with_its_reason(shell: Shell) -> None:
    async with serving(shell, *servers(shell, dies=DIES)):
        async with asyncio.timeout(PATIENCE_S):
            while (report := await examine(shell)).verdict_of("MCP server dies") != "problem":
                pass
        assert "exited with status 3" in report.of("MCP server dies")
        later = await examine(shell, *servers(shell, dies=DIES, added={"command": "sh"}))
    assert later.verdict_of("MCP server added") == "warning"
    assert "exai reload" in later.of("MCP server added")


async def test_servers_behind_an_address_are_tried_without_a_word_to_them(
    shell: Shell, tmp_path: Path
) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read())
        writer.close()

    plain = await asyncio.start_server(listen, "127.0.0.1", 0)
    secure = await asyncio.start_server(listen, "127.0.0.1", 0, ssl=context)
    async with plain, secure:
        ports = [each.sockets[0].getsockname()[1] for each in (plain, secure)]
        with socket.create_server(("127.0.0.1", 0)) as closed:
            nobody = closed.getsockname()[1]
        entries = {
            "works": {"url": f"http://127.0.0.1:{ports[0]}/mcp?key=${{KEY}}"},
            "secure": {"url": f"https://localhost:{ports[1]}/mcp"},
            "no-tls": {"url": f"https://127.0.0.1:{nobody}/"},
            "lost": {"url": "http://no-such-host.invalid/mcp"},
        }
        shell.environ["KEY"] = "letmein"
        arguments = servers(shell, **entries)
        report = await examine(shell, *arguments)
        shell.environ["SSL_CERT_FILE"] = str(tmp_path / "ca.pem")
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        trusting = await examine(shell, *arguments)
    assert report.verdict_of("MCP server works") == "ok"
    assert "letmein" not in report.text
    assert "not trusted" in report.of("MCP server secure")
    assert trusting.verdict_of("MCP server secure") == "ok"
    assert "cannot be reached: Connection refused" in report.of("MCP server no-tls")
    assert "nobody knows no-such-host.invalid" in report.of("MCP server lost")
    assert str(shell.home / "mcp.json") in report.of("MCP server lost")
    assert not any(heard)


async def test_a_provider_without_its_key_is_a_problem_if_it_is_wanted(shell: Shell) -> None:
    (shell.home / "exai.toml").write_text(
        '[providers.kimi]\nmax_inflight = 2\n[providers.lab]\nbase_url = "http://x"\n'
    )
    report = await examine(shell, "--config", "exai.toml")
    assert report.verdict_of("provider kimi") == "problem"
    assert "KIMI_API_KEY" in report.of("provider kimi")
    assert report.verdict_of("provider glm") == report.verdict_of("provider lab") == "ok"


async def test_without_any_model_it_is_said_what_to_do(shell: Shell) -> None:
    shell.environ["EXAI_LOCAL_MODEL_PATH"] = "no.gguf"
    alone = await examine(shell)
    shell.environ["GLM_API_KEY"] = "a-key-of-glm"
    beside = await examine(shell)
    shell.environ["EXAI_LOCAL_ENABLED"] = "false"
    switched_off = await examine(shell)
    assert alone.verdict_of("provider local") == "problem"
    assert f"{shell.home}/no.gguf" in alone.of("provider local")
    assert beside.verdict_of("provider local") == "warning"
    assert switched_off.verdict_of("provider local") == "ok"


async def test_a_key_that_came_after_the_start_asks_for_a_restart(shell: Shell) -> None:
    async with serving(shell):
        shell.environ["KIMI_API_KEY"] = SECRETS["KIMI_API_KEY"]
        report = await examine(shell)
    assert report.verdict_of("provider kimi") == "problem"
    assert "restart the daemon" in report.of("provider kimi")
    assert SECRETS["KIMI_API_KEY"] not in report.text


async def test_too_few_descriptors_are_warned_of(shell: Shell, ports: tuple[int, int]) -> None:
    process = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", f"ulimit -n 64; {shell.python} -m exai doctor"),
        env=shell.environ,
        cwd=shell.home,
        stdout=asyncio.subprocess.PIPE,
    )
    end = await ended(process)
    assert end.status == ExitCode.OK
    assert "warning  descriptors" in end.out
    assert "may open 64 files" in end.out


async def test_open_access_is_warned_of_once(shell: Shell) -> None:
    shell.environ["EXAI_AUTH"] = "none"
    async with serving(shell):
        report = await examine(shell)
        del shell.environ["EXAI_AUTH"]
        elsewhere = await examine(shell)
    assert report.text.count("auth.mode = none") == 1
    assert "auth.mode = none" in elsewhere.of("daemon")
    assert "asks for none" in report.of("token")
