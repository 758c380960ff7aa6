"""What an MCP server may ask the client of the session that it works for, and until when.

Knows which questions MCP has, what a client must have declared for them, and until when
they are of use; knows neither wires nor processes. What is not declared is refused with the
protocol's own error.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from exai.core.client_side import AskFailed, ClientSide
from exai.core.mcp_words import INTERNAL_ERROR, INVALID_PARAMS, LIST_CHANGED, METHOD_NOT_FOUND
from exai.core.tool import ToolRun

CAPABILITY_OF = {
    "sampling/createMessage": "sampling",
    "elicitation/create": "elicitation",
    "roots/list": "roots",
}
"""What a client must have declared in order to be asked this."""

EVERYTHING: Mapping[str, Any] = {
    "sampling": {},
    "elicitation": {"form": {}, "url": {}},
    "roots": {},
}
"""What one declares that is only asked for its tools: some servers hide those of others."""


class ClientQuestions:
    """The questions of one instance, to the client of its latest call that is under way.

    `declared` is what the server was told at its start. Where no call is under way, the client
    of the latest one gets `patience_s()` for an answer.
    """

    def __init__(
        self,
        client: ClientSide | None,
        declared: Mapping[str, Any],
        patience_s: Callable[[], float],
    ) -> None:
        self.declared = dict(declared)
        self._latest = client
        self._patience_s = patience_s
        self._runs: dict[ToolRun, None] = {}
        self._of_calls: set[asyncio.Timeout] = set()

    @contextmanager
    def asked_for(self, run: ToolRun) -> Iterator[None]:
        """Let the server ask on behalf of this run while the context is open.

        Where nobody waits for its last run any more, nobody is asked any more either.
        """
        self._latest = run.client or self._latest
        self._runs[run] = None
        try:
            yield
        except asyncio.CancelledError:
            if len(self._runs) == 1:
                for bound in self._of_calls:
                    bound.reschedule(asyncio.get_running_loop().time())
            raise
        finally:
            del self._runs[run]

    async def answer(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Ask the client, and return what it says, untouched. Raises `AskFailed`."""
        refuse_undeclared(method, params, self.declared)
        client = next((r.client for r in reversed(self._runs) if r.client), self._latest)
        if client is None:
            raise AskFailed(INTERNAL_ERROR, "there is no client that could be asked")
        refuse_undeclared(method, params, client.capabilities)
        try:
            return await self._ask(client, method, params)
        except TimeoutError:
            raise AskFailed(INTERNAL_ERROR, "the client did not answer in time") from None

    async def _ask(self, client: ClientSide, method: str, params: dict[str, Any]) -> dict[str, Any]:
        if not self._runs:
            async with asyncio.timeout(self._patience_s()):
                return await client.ask(method, params)
        async with asyncio.timeout_at(max(run.deadline for run in self._runs)) as bound:
            self._of_calls.add(bound)
            try:
                return await client.ask(method, params)
            finally:
                self._of_calls.discard(bound)


def declared_by(client: ClientSide | None) -> dict[str, Any]:
    """Return what of a client's capabilities a server is told: that it may be asked.

    What a client tells of its own accord, as that its roots have changed, is not passed on.
    """
    if client is None:
        return {}
    return {
        name: {detail: of for detail, of in declared.items() if detail != LIST_CHANGED}
        for name in CAPABILITY_OF.values()
        if isinstance(declared := client.capabilities.get(name), dict)
    }


def refuse_undeclared(method: str, params: dict[str, Any], declared: Mapping[str, Any]) -> None:
    """Raise `AskFailed`, as MCP wants it, where a client has not declared what is asked of it."""
    capability = CAPABILITY_OF.get(method)
    if capability is None:
        raise AskFailed(METHOD_NOT_FOUND, "Method not found")
    if capability not in declared:
        raise AskFailed(METHOD_NOT_FOUND, f"the client has not declared {capability}")
    detail = _undeclared_detail(method, params, declared[capability])
    if detail is not None:
        raise AskFailed(INVALID_PARAMS, f"the client has not declared {capability}.{detail}")


def _undeclared_detail(
    method: str, params: dict[str, Any], declared: Mapping[str, Any]
) -> str | None:
    if method == "elicitation/create":
        mode = params.get("mode", "form")
        modes = declared.keys() & {"form", "url"} or {"form"}  # an empty one means forms
        return None if mode in modes else str(mode)[:20]
    if method == "sampling/createMessage" and params.keys() & {"tools", "toolChoice"}:
        return None if "tools" in declared else "tools"
    return None
