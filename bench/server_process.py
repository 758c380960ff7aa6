"""Servers to measure: each a process of its own on the first core, as a user would start it."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import urlopen

from bench.runs import Address, Language

ROOT = Path(__file__).parent.parent
SERVERS = ROOT / "bench" / "servers"
PEERS_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
STDIO_TOOLS = [sys.executable, str(SERVERS / "stdio_tools.py")]
LIBRARY = "LIBRARY"
"""Stands in a command for the WebSocket library that is measured."""
UPSTREAM = "bench"
"""The name of the MCP server behind the daemon: its tool `work` is `bench__work` there."""

_URL = re.compile(rb"(?:ws|http)://[^\s,;]+")
_PATIENCE_S = 60.0
_UNLIMITED = "1000000"


class Server(NamedTuple):
    """How a server is started, and what it speaks.

    `settings` are the daemon's own, as variables; `upstream` is what its configuration says of
    the MCP server behind it, if it has one.
    """

    name: str
    language: Language
    command: tuple[str, ...]
    settings: Mapping[str, str] | None = None
    upstream: Mapping[str, object] | None = None


def settings_of(server: Server) -> dict[str, Any]:
    """Return what the daemon is told beside its defaults."""
    behind = {} if server.upstream is None else {"MCP server": dict(server.upstream)}
    return {**(server.settings or {}), **behind}


def exai(
    name: str = "exai",
    *,
    language: Language = "exai",
    upstream: Mapping[str, object] | None = None,
    **settings: str,
) -> Server:
    """Return `exai serve` with its defaults, but for a rate limit that nobody reaches."""
    command = (sys.executable, "-m", "exai", "serve")
    rates = {"EXAI_RATES_PRINCIPAL_PER_S": _UNLIMITED, "EXAI_RATES_PRINCIPAL_BURST": _UNLIMITED}
    return Server(name, language, command, rates | settings, upstream)


def websocket_floor(kind: str) -> Server:
    """Return the library with nothing on it (`echo`), or with the least (`handler`)."""
    name = {"echo": "raw echo", "handler": "bare handler"}[kind]
    return Server(name, "exai", (*_python("websocket_floor"), kind, LIBRARY))


def mcp_sdk(kind: str, language: Language, name: str) -> Server:
    """Return the official SDK's HTTP server."""
    return Server(name, language, (*_python("mcp_sdk"), kind))


def mcp_lowlevel(kind: str, language: Language, name: str) -> Server:
    """Return the official SDK's low-level server, over HTTP or over a WebSocket library."""
    return Server(name, language, (*_python("mcp_lowlevel"), kind, LIBRARY))


def fastmcp(kind: str, language: Language, name: str) -> Server:
    """Return FastMCP's HTTP server."""
    return Server(name, language, (str(PEERS_PYTHON), str(SERVERS / "fastmcp_http.py"), kind))


def _python(server: str) -> tuple[str, str]:
    return sys.executable, str(SERVERS / f"{server}.py")


STDIO = Server("stdio server alone", "mcp_stdio", tuple(STDIO_TOOLS))


@contextmanager
def serving(server: Server, library: str) -> Iterator[Address]:
    """Run a server while the context is open, on the first core."""
    with TemporaryDirectory(prefix="exai-bench-") as directory:
        home = Path(directory)
        command = list(server.command)
        environment = {"PATH": os.environ["PATH"], "HOME": directory, "LANG": "C.UTF-8"}
        if server.settings is not None:
            command += _exai_options(home, server.upstream)
            environment |= {"EXAI_SERVER_WEBSOCKET_LIBRARY": library, **server.settings}
        else:
            command = [library if part == LIBRARY else part for part in command]
            environment["PYTHONPATH"] = str(ROOT)
        with (
            (home / "stderr").open("wb") as stderr,
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                cwd=directory,
            ) as process,
        ):
            os.sched_setaffinity(process.pid, {cores()[0]})
            try:
                yield _address(server, process, home)
            finally:
                process.terminate()
                try:
                    process.wait(_PATIENCE_S)
                except subprocess.TimeoutExpired:
                    process.kill()


def cores() -> tuple[int, int]:
    """Return the core for servers and the core for the load generator."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


def _exai_options(home: Path, upstream: Mapping[str, object] | None) -> list[str]:
    mcp_config, config = home / "mcp.json", home / "exai.toml"
    command, *args = STDIO_TOOLS
    entry = {"command": command, "args": args, "exai": upstream}
    mcp_config.write_text(json.dumps({"mcpServers": {} if upstream is None else {UPSTREAM: entry}}))
    config.touch()
    options = f"--port 0 --http-port 0 --state-dir {home} --config {config}"
    return [*options.split(), "--mcp-config", str(mcp_config)]


def _address(server: Server, process: subprocess.Popen[bytes], home: Path) -> Address:
    assert process.stdin
    assert process.stdout
    if server.language == "mcp_stdio":
        fds = (process.stdout.fileno(), process.stdin.fileno())
        return Address(language=server.language, pid=process.pid, fds=fds)
    urls = _URL.findall(process.stdout.readline())
    if not urls:
        complaint = (home / "stderr").read_text(errors="replace")[-2000:]
        raise SystemExit(f"{server.name} did not start:\n{complaint}")
    url, token = urls[0].decode(), ""
    if server.settings is not None:
        http_url = urls[1].decode()
        _wait_ready(http_url)
        token = (home / "token").read_text().strip()
        url = f"{http_url}mcp" if server.language in ("mcp_modern", "mcp_session") else url
    return Address(language=server.language, pid=process.pid, url=url, token=token)


def _wait_ready(url: str) -> None:
    """Ask `/readyz` until the MCP servers behind the daemon have started."""
    for _ in range(int(_PATIENCE_S * 20)):
        try:
            urlopen(f"{url}readyz", timeout=_PATIENCE_S).close()
        except HTTPError as refusal:
            refusal.close()
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"{url} is not ready after {_PATIENCE_S:g} s")
