"""What clients are tried on: the fixture itself, and a daemon before it, as processes."""

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import httpx2

from bench.chaos.daemon_process import free_port
from tests.cli.exai_process import PATIENCE_S, Shell, serving

ROOT = Path(__file__).parent.parent.parent
FIXTURE = ("-m", "tests.conformance.everything_server")
ASKING = ("test_sampling", "test_elicitation*")
"""Tools whose server asks its client, and so needs to have only one."""


@asynccontextmanager
async def fixture() -> AsyncIterator[str]:
    """Run the fixture, and yield the address at which it serves MCP."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *FIXTURE, "--port", "0", stdout=PIPE, stderr=DEVNULL, cwd=ROOT
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            url = (await process.stdout.readline()).decode().strip()
        yield url
    finally:
        process.terminate()
        await process.wait()


class Door(NamedTuple):
    """Where a daemon speaks MCP."""

    websocket_url: str
    mcp_url: str


@asynccontextmanager
async def daemon_before(
    shell: Shell, servers: Mapping[str, object], *arguments: str
) -> AsyncIterator[Door]:
    """Run a daemon with these `mcpServers`, once each of them has started."""
    file = shell.home / "mcp.json"
    file.write_text(json.dumps({"mcpServers": servers}))
    shell.environ |= {"EXAI_MCP_CONFIG": str(file), "EXAI_LOCAL_ENABLED": "false"}
    async with serving(shell, *arguments) as (_, ready):
        await until_ready(ready[2])
        yield Door(ready[1], f"{ready[2]}mcp")


@asynccontextmanager
async def transparent_daemon(shell: Shell, *arguments: str) -> AsyncIterator[str]:
    """Run a daemon that hides from its clients, and from pages of its own, that it is none.

    Yields where it speaks MCP. `arguments` are the fixture's.
    """
    port = free_port()
    shell.environ |= {
        "EXAI_AUTH": "none",
        "EXAI_SERVER_ALLOWED_ORIGINS": f"http://127.0.0.1:{port}",
    }
    servers = {
        "everything": fixture_server(*arguments, prefix="", deny=ASKING),
        "asking": fixture_server(*arguments, prefix="", allow=ASKING, instance="session"),
    }
    async with daemon_before(shell, servers, "--http-port", str(port)) as door:
        yield door.mcp_url


def fixture_server(*arguments: str, **own: object) -> dict[str, object]:
    """Return the fixture as one of the `mcpServers`, with EXAI's own settings for it."""
    return {
        "command": sys.executable,
        "args": [*FIXTURE, *arguments],
        "env": {"PYTHONPATH": str(ROOT)},
        "exai": own,
    }


async def until_ready(http_url: str) -> None:
    """Wait until every MCP server of a daemon has started for the first time."""
    async with httpx2.AsyncClient(trust_env=False) as client, asyncio.timeout(PATIENCE_S):
        while not (await client.get(f"{http_url}readyz")).is_success:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.05)
