"""A tool that does what a test tells it, through the same contract as every other tool."""

from collections.abc import Awaitable, Callable
from typing import Any

from exai.core.outcomes import Completed
from exai.core.tool import SharingPolicy, Tool, ToolRun, ToolSpec

Script = Callable[[dict[str, Any], ToolRun], Awaitable[Completed]]


class ScriptedTool(Tool):
    """Runs a coroutine function as a tool; any object is a valid argument."""

    def __init__(
        self,
        name: str,
        script: Script,
        *,
        provider: str | None = None,
        policy: SharingPolicy | None = None,
        timeout_s: float | None = None,
    ) -> None:
        self.spec = ToolSpec(
            name=name,
            description="Does what a test tells it.",
            input_schema={"type": "object"},
            policy=policy or SharingPolicy(),
            timeout_s=timeout_s,
        )
        self._script = script
        self._provider = provider

    def check(self, arguments: dict[str, Any]) -> None:
        """Accept everything."""

    def capacity_of(self, arguments: dict[str, Any]) -> str | None:
        """Return the provider that the test named."""
        return self._provider

    async def run(self, arguments: dict[str, Any], run: ToolRun) -> Completed:
        """Do what the test told."""
        return await self._script(arguments, run)
