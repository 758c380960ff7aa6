"""The MCP Inspector's command line, over HTTP and over stdio."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.exai_process import Shell
from tests.clients.conftest import TOKEN
from tests.clients.conversation import FAILING, SIMPLE
from tests.clients.node_process import NODE_BIN, run_node
from tests.conformance.targets import Door

pytestmark = pytest.mark.slow

TOOL_FAILED = 5
"""The exit status by which the Inspector tells that a tool says it failed."""

ERAS = ("legacy", "modern")


class Inspector:
    """The Inspector, and how it gets to its server."""

    def __init__(self, home: Path, *server: str) -> None:
        self._home = home
        self._server = server

    async def ask(self, method: str, *arguments: str, status: int = 0) -> Any:
        """Call one method, and return the result."""
        inspector = str(NODE_BIN / "mcp-inspector")
        end = await run_node(
            self._home, inspector, "--cli", "--method", method, *arguments, *self._server
        )
        assert end.status == status, end
        return json.loads(end.out)

    async def check(self) -> None:
        """List the tools, call one, and call one that fails."""
        listing = await self.ask("tools/list")
        assert {SIMPLE, FAILING} <= {tool["name"] for tool in listing["tools"]}
        simple = await self.ask("tools/call", "--tool-name", SIMPLE)
        assert simple["content"][0]["text"] == "This is a simple text response for testing."
        failed = await self.ask("tools/call", "--tool-name", FAILING, status=TOOL_FAILED)
        assert failed["isError"]


@pytest.mark.parametrize("era", ERAS)
async def test_it_lists_and_calls_tools_over_http_with_a_token(
    door: Door, tmp_path: Path, era: str
) -> None:
    bearer = f"Authorization: Bearer {TOKEN}"
    inspector = Inspector(
        tmp_path,
        *("--protocol-era", era, "--transport", "http"),
        *("--server-url", door.mcp_url, "--header", bearer),
    )
    await inspector.check()


@pytest.mark.parametrize("era", ERAS)
async def test_it_lists_and_calls_tools_over_stdio_through_the_bridge(
    door: Door, shell: Shell, era: str
) -> None:
    environ = [text for item in shell.environ.items() for text in ("-e", "=".join(item))]
    command = (sys.executable, "-m", "exai", "bridge")
    await Inspector(shell.home, "--protocol-era", era, *environ, "--", *command).check()
