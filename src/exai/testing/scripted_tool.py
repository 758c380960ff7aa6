"""A tool that does what a test tells it, through the same contract as every other tool."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from exai.core.identity import Principal
from exai.core.outcomes import Completed, text_block
from exai.core.tool import Demand, SharingPolicy, Tool, ToolRun, ToolSpec

_PATIENCE_S = 20.0

Script = Callable[[dict[str, Any], ToolRun], Awaitable[Completed]]


class ScriptedTool(Tool):
    """Runs a coroutine function as a tool; any object is a valid argument."""

    def __init__(
        self,
        name: str,
        script: Script,
        *,
        scope: str | None = None,
        policy: SharingPolicy | None = None,
        timeout_s: float | None = None,
        provider: str = "exai",
        version: str = "1",
    ) -> None:
        self.spec = ToolSpec(
            name=name,
            description="Does what a test tells it.",
            input_schema={"type": "object"},
            policy=policy or SharingPolicy(),
            timeout_s=timeout_s,
            provider=provider,
            version=version,
        )
        self._script = script
        self._scope = scope

    def check(self, arguments: dict[str, Any]) -> None:
        """Accept everything."""

    async def demand_of(self, arguments: dict[str, Any], principal: Principal) -> Demand:
        """Ask for what the test named, and for the conversation that an argument names."""
        return Demand(self._scope, arguments.get("conversation"))

    async def run(self, arguments: dict[str, Any], run: ToolRun) -> Completed:
        """Do what the test told."""
        return await self._script(arguments, run)


class Gates:
    """A script whose runs wait until a test opens the gate that their argument names."""

    def __init__(self) -> None:
        self.inside: set[str] = set()
        self.cancelled: list[str] = []
        self.runs: list[str] = []
        self._open: dict[str, asyncio.Event] = {}
        self._changed = asyncio.Event()

    async def __call__(self, arguments: dict[str, Any], run: ToolRun) -> Completed:
        """Wait at the gate `arguments["gate"]`."""
        name = arguments.get("gate", "g")
        self.inside.add(name)
        self.runs.append(name)
        self._changed.set()
        try:
            await self._gate(name).wait()
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        finally:
            self.inside.discard(name)
            self._changed.set()
        return Completed([text_block(f"through {name}")])

    def open(self, name: str = "g") -> None:
        """Let through whoever waits at this gate, and whoever will come."""
        self._gate(name).set()

    async def until_inside(self, *names: str) -> None:
        """Wait until somebody waits at each of these gates."""
        await self._until(lambda: set(names) <= self.inside)

    async def until_cancelled(self, name: str = "g") -> None:
        """Wait until a run was cancelled at this gate."""
        await self._until(lambda: name in self.cancelled)

    async def _until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(_PATIENCE_S):
            while not is_so():
                self._changed.clear()
                await self._changed.wait()

    def _gate(self, name: str) -> asyncio.Event:
        return self._open.setdefault(name, asyncio.Event())
