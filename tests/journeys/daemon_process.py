"""A daemon as a process of its own, which may be replaced in place, and what it logs."""

import asyncio
import json
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from exai.testing.scripted_provider import ScriptedProvider
from tests.cli.exai_process import PATIENCE_S, Ended, Shell, ended
from tests.upstream.running_server import SCRIPTED

TOKEN = "token-of-the-drain-0123456789"
PROMPT = {"prompt": "hello", "model": "m"}
WITHOUT_UVLOOP = "import sys; sys.modules['uvloop'] = None"


class Serving:
    """A daemon that has said that it is ready, and where; `lines` are what it has logged so far."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.url = self.http_url = ""
        self.lines: list[dict[str, Any]] = []

    async def has_opened(self) -> None:
        """Wait until it says that it is ready, as it does after each start."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            line = (await self.process.stdout.readline()).decode()
        urls = re.findall(r"(?:ws|http)s?://[^,;]+", line)
        assert len(urls) == 2, line + str(await ended(self.process))
        self.url, self.http_url = urls

    async def has_logged(self, event: str) -> dict[str, Any]:
        """Wait until it has logged an event, and return the line."""
        assert self.process.stderr is not None
        while True:
            async with asyncio.timeout(PATIENCE_S):
                line = await self.process.stderr.readline()
            assert line, self.lines
            self.lines.append(json.loads(line))
            if self.lines[-1]["event"] == event:
                return self.lines[-1]

    async def end(self) -> tuple[Ended, list[dict[str, Any]]]:
        """Wait for the end; return how it was, and the lines of the log."""
        end = await ended(self.process)
        return end, self.lines + [json.loads(line) for line in end.err.splitlines()]


def shell_in(home: Path) -> Shell:
    """Return a shell whose daemons need nothing of this machine, and stand in nobody's way."""
    shell = Shell(home)
    shell.environ |= {
        "EXAI_WS_TOKEN": TOKEN,
        "EXAI_WS_PORT": "0",
        "EXAI_SERVER_HTTP_PORT": "0",
        "EXAI_LOCAL_ENABLED": "false",
        "EXAI_WS_CLOSE_TIMEOUT": "0.2",
    }
    return shell


@asynccontextmanager
async def serving(
    shell: Shell, *arguments: str, code: str = "", **options: Any
) -> AsyncIterator[Serving]:
    """Run a daemon; `code` is what is done to it before it starts."""
    script = f"{code}\nfrom exai.cli.app import main\nmain()"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, "serve", *arguments),
        stdout=PIPE,
        stderr=PIPE,
        env=shell.environ,
        cwd=shell.home,
        **options,
    )
    daemon = Serving(process)
    try:
        await daemon.has_opened()
        yield daemon
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def name_provider(shell: Shell, provider: ScriptedProvider) -> None:
    shell.environ["EXAI_CONFIG"] = str(shell.home / "exai.toml")
    (shell.home / "exai.toml").write_text(
        f'[providers.scripted]\nbase_url = "{provider.base_url}"\nmodels = ["m"]\n'
    )


def name_server(shell: Shell, *options: str) -> None:
    shell.environ["EXAI_MCP_CONFIG"] = str(shell.home / "mcp.json")
    server = {"command": sys.executable, "args": ["-I", "-S", str(SCRIPTED), *options]}
    (shell.home / "mcp.json").write_text(json.dumps({"mcpServers": {"scripted": server}}))


async def is_ready(daemon: Serving) -> bool:
    async with httpx2.AsyncClient(trust_env=False) as client:
        return (await client.get(daemon.http_url + "readyz")).status_code == 200


def events_of(lines: list[dict[str, Any]], room: str = "daemon") -> list[str]:
    return [line["event"] for line in lines if line["event"].startswith(room)]


def state_dir_of(shell: Shell) -> Path:
    """Return where a daemon of this shell keeps what it keeps."""
    return shell.home / ".local/state/exai"


async def upgrade(daemon: Serving) -> None:
    """Have a daemon replaced, and wait until its successor has opened its ports."""
    daemon.process.send_signal(signal.SIGHUP)
    await daemon.has_opened()


def port_in(url: str) -> int:
    """Return the port of an address."""
    return int(url.rstrip("/").rpartition(":")[2])
