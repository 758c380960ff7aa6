"""A client that tools ask back, which answers what a test says."""

import asyncio
from collections.abc import Mapping
from typing import Any

from exai.core.client_side import AskFailed, ClientSide

_PATIENCE_S = 30.0


class ScriptedClient(ClientSide):
    """Declares `capabilities`, and keeps what it was asked.

    An answer by method is a result, or an `AskFailed` to raise; a method without one is not
    answered until `answer` is called, or its asking is given up.
    """

    def __init__(
        self,
        answers: Mapping[str, dict[str, Any] | AskFailed] | None = None,
        *,
        capabilities: dict[str, Any] | None = None,
    ) -> None:
        everything: dict[str, Any] = {"sampling": {}, "elicitation": {}, "roots": {}}
        self.capabilities = everything if capabilities is None else capabilities
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.given_up: list[str] = []
        self._answers = dict(answers or {})
        self._changed = asyncio.Event()

    async def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Return the answer, once there is one."""
        self.asked.append((method, params))
        self._pulse()
        try:
            while method not in self._answers:
                await self._changed.wait()
        except asyncio.CancelledError:
            self.given_up.append(method)
            self._pulse()
            raise
        answer = self._answers[method]
        if isinstance(answer, AskFailed):
            raise answer
        return answer

    def answer(self, method: str, result: dict[str, Any]) -> None:
        """Answer what is asked and was not, and from now on."""
        self._answers[method] = result
        self._pulse()

    async def wait_asked(self, count: int = 1) -> None:
        """Wait until it was asked so often."""
        async with asyncio.timeout(_PATIENCE_S):
            while len(self.asked) < count:
                await self._changed.wait()

    async def wait_given_up(self, count: int = 1) -> None:
        """Wait until so many of its askers wait no more."""
        async with asyncio.timeout(_PATIENCE_S):
            while len(self.given_up) < count:
                await self._changed.wait()

    def _pulse(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
