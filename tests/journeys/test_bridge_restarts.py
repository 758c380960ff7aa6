"""Twenty calls at once through one bridge, while its daemon is restarted: nobody notices."""

import asyncio
import itertools
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from mcp.client.client import Client
from mcp_types import CallToolResult, TextContent

from tests.cli.bridge_process import sdk_client
from tests.cli.exai_process import PATIENCE_S
from tests.journeys.unhurried_daemon import UnhurriedDaemon, end

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

CALLERS = 20
RESTARTS = 5


@pytest.fixture
def daemon(tmp_path: Path) -> UnhurriedDaemon:
    return UnhurriedDaemon(tmp_path)


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


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize(
    ("tool", "number"),
    [("box__again", signal.SIGKILL), ("box__once", signal.SIGTERM)],
)
async def test_no_caller_sees_that_the_daemon_was_restarted(
    daemon: UnhurriedDaemon, tool: str, number: signal.Signals, mode: str
) -> None:
    async with AsyncExitStack() as stack:
        process, _ = await stack.enter_async_context(daemon.serving())
        async with sdk_client(daemon.shell, mode=mode) as client, asyncio.TaskGroup() as tasks:
            callers = Callers(client, tool)
            for _ in range(CALLERS):
                tasks.create_task(callers.call())
            for _ in range(RESTARTS):
                await callers.until_answered(CALLERS)
                await end(process, number)
                process, _ = await stack.enter_async_context(daemon.serving())
            await callers.until_answered(CALLERS)
            callers.is_over = True
    assert len(callers.said) == len(set(callers.said))
    if tool == "box__once":
        assert daemon.execution_counts == {1}
