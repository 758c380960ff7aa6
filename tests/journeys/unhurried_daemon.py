"""A daemon in front of a server that takes its time, which may be restarted where it was."""

import asyncio
import json
import signal
import sys
from asyncio.subprocess import Process
from collections import Counter
from pathlib import Path
from typing import Any

from tests.cli.bridge_process import fix_ports
from tests.cli.exai_process import PATIENCE_S, Shell, serving

TOKEN = "token-of-the-restarts-0123456789"
SERVER = Path(__file__).parent / "servers" / "unhurried.py"


class UnhurriedDaemon:
    """Daemons one after the other, on the same ports; `record` has what their server began."""

    def __init__(self, home: Path) -> None:
        self.shell = Shell(home)
        self.record = home / "record"
        self.record.touch()
        server = {
            "command": sys.executable,
            "args": ["-I", "-S", str(SERVER), str(self.record)],
            "exai": {"max_inflight": 32},
        }
        (home / "mcp.json").write_text(json.dumps({"mcpServers": {"box": server}}))
        self.shell.environ |= {
            "EXAI_WS_TOKEN": TOKEN,
            "EXAI_LOCAL_ENABLED": "false",
            "EXAI_WS_CLOSE_TIMEOUT": "0.5",
            "EXAI_MCP_CONFIG": str(home / "mcp.json"),
            "EXAI_WS_SESSION_MAX_INFLIGHT": "24",
        }
        fix_ports(self.shell)

    @property
    def mcp_url(self) -> str:
        """Where MCP is spoken over HTTP."""
        return f"http://127.0.0.1:{self.shell.environ['EXAI_SERVER_HTTP_PORT']}/mcp"

    def serving(self) -> Any:
        """Run a daemon while the context is open, which yields its process, and more."""
        environ = self.shell.environ
        ports = environ["EXAI_WS_PORT"], environ["EXAI_SERVER_HTTP_PORT"]
        return serving(self.shell, "--port", ports[0], "--http-port", ports[1])

    @property
    def begun_count(self) -> int:
        """How many executions have begun."""
        return len(self.record.read_text().splitlines())

    @property
    def execution_counts(self) -> set[int]:
        """How often calls were executed."""
        return set(Counter(self.record.read_text().splitlines()).values())


async def end(process: Process, number: signal.Signals) -> None:
    """End a daemon, and wait until it has."""
    process.send_signal(number)
    async with asyncio.timeout(PATIENCE_S):
        await process.wait()
