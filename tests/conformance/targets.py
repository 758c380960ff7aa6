"""The servers that the suite is run against: the fixture itself, and the daemon before it."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2

from tests.cli.exai_process import PATIENCE_S, Shell, serving

ROOT = Path(__file__).parent.parent.parent
FIXTURE = ("-m", "tests.conformance.everything_server")
ASKING = ("test_sampling", "test_elicitation*")
"""Tools whose server asks its client, and so needs to have only one."""


@asynccontextmanager
async def fixture() -> AsyncIterator[str]:
    """Run the fixture, and yield the address at which it serves MCP."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *FIXTURE, "--port", "0", stdout=PIPE, cwd=ROOT
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            url = (await process.stdout.readline()).decode().strip()
        yield url
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def daemon_before_fixture(home: Path) -> AsyncIterator[str]:
    """Run a daemon with the fixture behind it, and yield the address at which it serves MCP."""
    shell = Shell(home)
    shell.environ |= {
        "EXAI_AUTH": "none",
        "EXAI_LOCAL_ENABLED": "false",
        "EXAI_MCP_CONFIG": str(home / "mcp.json"),
    }
    (home / "mcp.json").write_text(json.dumps({"mcpServers": fixture_upstreams()}))
    async with serving(shell) as (_, ready):
        await _is_ready(f"{ready[2]}readyz")
        yield f"{ready[2]}mcp"


def fixture_upstreams() -> dict[str, object]:
    """Return the fixture as `mcpServers`, offered under its own names."""
    fixture = {"command": sys.executable, "args": FIXTURE, "env": {"PYTHONPATH": str(ROOT)}}
    shared = {"prefix": "", "deny": ASKING}
    asking = {"prefix": "", "instance": "session", "allow": ASKING}
    return {"everything": {**fixture, "exai": shared}, "asking": {**fixture, "exai": asking}}


async def _is_ready(url: str) -> None:
    """Wait until every upstream has started for the first time."""
    async with httpx2.AsyncClient(trust_env=False) as client, asyncio.timeout(PATIENCE_S):
        while not (await client.get(url)).is_success:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.05)
