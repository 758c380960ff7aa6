"""Twenty calls at once through one bridge, while its daemon is restarted: nobody notices."""

import asyncio
import itertools
import json
import signal
import sys
from asyncio.subprocess import Process
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from mcp.client.client import Client
from mcp_types import CallToolResult, TextContent

from tests.cli.bridge_process import fix_ports, sdk_client
from tests.cli.exai_process import PATIENCE_S, Shell, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

TOKEN = "token-of-the-bridges-0123456789"
SERVER = Path(__file__).parent / "servers" / "unhurried.py"
CALLERS = 20
RESTARTS = 5


@pytest.fixture
def record(tmp_path: Path) -> Path:
    record = tmp_path / "record"
    record.touch()
    return record


@pytest.fixture
def shell(tmp_path: Path, record: Path) -> Shell:
    shell = Shell(tmp_path)
    servers = {"box": {"command": sys.executable, "args": ["-I", "-S", str(SERVER), str(record)]}}
    servers["box"]["exai"] = {"max_inflight": 32}  # type: ignore[assignment]
    (tmp_path / "mcp.json").write_text(json.dumps({"mcpServers": servers}))
    shell.environ |= {
        "EXAI_WS_TOKEN": TOKEN,
        "EXAI_LOCAL_ENABLED": "false",
        "EXAI_WS_CLOSE_TIMEOUT": "0.5",
        "EXAI_MCP_CONFIG": str(tmp_path / "mcp.json"),
        "EXAI_WS_SESSION_MAX_INFLIGHT": "24",
    }
    fix_ports(shell)
    return shell


class Callers:
    """Calls a tool again and again, many at once, until told to stop."""

    def __init__(self, client: Client, tool: str) -> None:
        self._client = client
        self._tool = tool
        self._numbers = itertools.count()
        self._answered = asyncio.Condition()
        self.said: list[str] = []
        self.is_over = False

    async def call(self) -> None:
        while not self.is_over:
            what = f"w{next(self._numbers)}"
            result = await self._client.call_tool(self._tool, {"what": what, "after_s": 0.3})
            assert not result.is_error, result
            assert text_of(result) == what
            async with self._answered:
                self.said.append(what)
                self._answered.notify_all()

    async def until_answered(self, count: int) -> None:
        """Wait for so many further answers."""
        wanted = len(self.said) + count
        async with asyncio.timeout(PATIENCE_S), self._answered:
            await self._answered.wait_for(lambda: len(self.said) >= wanted)


def text_of(result: CallToolResult) -> str:
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text


async def end(process: Process, number: signal.Signals) -> None:
    process.send_signal(number)
    async with asyncio.timeout(PATIENCE_S):
        await process.wait()


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize(
    ("tool", "number"),
    [("box__again", signal.SIGKILL), ("box__once", signal.SIGTERM)],
)
async def test_no_caller_sees_that_the_daemon_was_restarted(
    shell: Shell, record: Path, tool: str, number: signal.Signals, mode: str
) -> None:
    async with AsyncExitStack() as stack:
        process, _ = await stack.enter_async_context(serving_at_fixed_ports(shell))
        async with sdk_client(shell, mode=mode) as client, asyncio.TaskGroup() as tasks:
            callers = Callers(client, tool)
            for _ in range(CALLERS):
                tasks.create_task(callers.call())
            for _ in range(RESTARTS):
                await callers.until_answered(CALLERS)
                await end(process, number)
                process, _ = await stack.enter_async_context(serving_at_fixed_ports(shell))
            await callers.until_answered(CALLERS)
            callers.is_over = True
    assert len(callers.said) == len(set(callers.said))
    if tool == "box__once":
        assert executions_in(record) == {1}


def executions_in(record: Path) -> set[int]:
    """Return how often calls were executed."""
    return set(Counter(record.read_text().splitlines()).values())


def serving_at_fixed_ports(shell: Shell) -> Any:
    ports = shell.environ["EXAI_WS_PORT"], shell.environ["EXAI_SERVER_HTTP_PORT"]
    return serving(shell, "--port", ports[0], "--http-port", ports[1])
