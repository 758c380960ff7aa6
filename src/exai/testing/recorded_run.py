"""A tool's run that writes down what the tool tells its callers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from exai.core.identity import Principal
from exai.core.tool import LogLevel, ToolRun


class RecordedRun(ToolRun):
    """What was reported and streamed, in order; `streamed` is the last attempt's text.

    `attempt` counts from 1.
    """

    def __init__(self, *, principal: str = "tester", timeout_s: float = 30.0) -> None:
        self.call_id = "recorded"
        self.principal = Principal(principal)
        self._deadline = asyncio.get_running_loop().time() + timeout_s
        self.messages: list[str] = []
        self.logged: list[dict[str, Any]] = []
        self.deltas: list[str] = []
        self.permits: list[str] = []
        self.attempt = 1
        self.has_streamed = asyncio.Event()

    @property
    def deadline(self) -> float:
        """Return when the time of the test is over."""
        return self._deadline

    @property
    def streamed(self) -> str:
        """The text that the callers have been told so far."""
        return "".join(self.deltas)

    def report(
        self,
        message: str | None = None,
        *,
        progress: float | None = None,
        total: float | None = None,
        level: LogLevel | None = None,
    ) -> None:
        """Keep the message."""
        if message is not None:
            self.messages.append(message)

    def log(self, entry: dict[str, Any]) -> None:
        """Keep the entry."""
        self.logged.append(entry)

    def stream(self, delta: str) -> None:
        """Keep the piece."""
        self.deltas.append(delta)
        self.has_streamed.set()

    def begin_attempt(self) -> None:
        """Forget the pieces of the attempt that failed."""
        self.attempt += 1
        self.deltas.clear()

    @asynccontextmanager
    async def permit(self, scope: str) -> AsyncIterator[None]:
        """Grant every permit at once, and keep its scope in `permits` while it is held."""
        self.permits.append(scope)
        try:
            yield
        finally:
            self.permits.remove(scope)
