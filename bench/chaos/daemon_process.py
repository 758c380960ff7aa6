"""The daemon that is killed, in a directory of its own, always at the same address."""

import asyncio
import json
import os
import random
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from pathlib import Path

from bench.chaos.plan import UPSTREAMS
from bench.chaos.profile import Way
from bench.server_process import SERVERS

_PATIENCE_S = 60.0
_ENDED_WELL = (0, -signal.SIGTERM)
"""The second is how it ends before it heeds signals."""
_PORTS = range(20_000, 32_000)
"""Not those that the system gives to whoever connects: a client of a daemon that is gone might
be given the daemon's, and talk to itself."""


class DaemonFailed(Exception):
    """The daemon did not do what it was told to."""


class DaemonProcess:
    """`exai serve` with its defaults, and two MCP servers that write down what they execute.

    `log` is what the daemon writes, over all its lives; `executions` what its servers do.
    """

    def __init__(self, home: Path, synchronous: str) -> None:
        self.home = home
        self.state_dir = home / "state"
        self.executions = home / "executions.log"
        self.log = home / "daemon.log"
        self.port = free_port()
        self._synchronous = synchronous
        self._process: Process | None = None
        self.executions.touch()
        self.log.touch()
        (home / "exai.toml").touch()
        (home / "mcp.json").write_text(json.dumps({"mcpServers": self._upstreams()}))

    @property
    def url(self) -> str:
        """Where its WebSocket is."""
        return f"ws://127.0.0.1:{self.port}/"

    @property
    def token(self) -> str:
        """What it lets clients in with."""
        return (self.state_dir / "token").read_text().strip()

    @property
    def pid(self) -> int:
        """The process that serves."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "exai", "serve", "--config", str(self.home / "exai.toml")),
                *("--mcp-config", str(self.home / "mcp.json"), "--state-dir", str(self.state_dir)),
                *("--port", str(self.port), "--http-port", "0"),
                stdout=PIPE,
                stderr=log,
                env=self._environment(),
                cwd=self.home,
            )

    async def wait_ready(self) -> None:
        """Wait until its ports are open. Raises `DaemonFailed` where they never are."""
        assert self._process is not None
        assert self._process.stdout is not None
        async with asyncio.timeout(_PATIENCE_S):
            line = await self._process.stdout.readline()
        if not line:
            status = await self._process.wait()
            told = self.log.read_text(errors="replace")[-2000:]
            raise DaemonFailed(f"the daemon did not start ({status}):\n{told}")

    async def die(self, way: Way) -> None:
        """End it, or have it replaced in place; where it has ended, wait for that."""
        assert self._process is not None
        number = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "hup": signal.SIGHUP}[way]
        self._process.send_signal(number)
        if way != "hup":
            async with asyncio.timeout(_PATIENCE_S):
                status = await self._process.wait()
            if way == "term" and status not in _ENDED_WELL:
                raise DaemonFailed(f"the daemon ended with {status} after SIGTERM")

    def kill_upstream(self, name: str) -> bool:
        """Kill the MCP server of that name; False: there is none at the moment."""
        pid = next((pid for pid in reversed(self.upstream_pids(name)) if is_upstream(pid)), None)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        return pid is not None

    def upstream_pids(self, name: str | None = None) -> list[int]:
        """Return the processes that have ever served as an MCP server, oldest first."""
        starts = [line.split() for line in self.executions.read_text().splitlines()]
        return [
            int(pid)
            for what, _, _, upstream, pid, _ in starts
            if what == "started" and upstream == (name or upstream)
        ]

    async def stop(self) -> None:
        """End it, however it fares."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def orphans(self, patience_s: float = 5.0) -> list[int]:
        """Return MCP servers that are there still, though the daemon has ended."""
        gives_up_at = time.monotonic() + patience_s
        while time.monotonic() < gives_up_at:
            if not (left := [pid for pid in self.upstream_pids() if is_upstream(pid)]):
                return []
            time.sleep(0.05)
        return left

    def _upstreams(self) -> dict[str, object]:
        script = str(SERVERS / "logged_tools.py")
        return {
            name: {
                "command": sys.executable,
                "args": ["-I", "-S", script, str(self.executions), name],
            }
            for name in UPSTREAMS
        }

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "EXAI_LOCAL_ENABLED": "false",
            "EXAI_STORE_SYNCHRONOUS": self._synchronous,
        }


def is_upstream(pid: int) -> bool:
    """Tell whether a process is an MCP server of ours, and alive."""
    try:
        return b"logged_tools.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def free_port() -> int:
    """Return a port that the system gives to nobody, and nobody has taken."""
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no port is free")
