"""The contract of asking back: what a tool's server may want of the client that called.

MCP calls it sampling, elicitation and roots. A question belongs to one call, so only work
that is done for one session alone may ask.
"""

from typing import Any, Protocol


class AskFailed(Exception):
    """The client answered with a JSON-RPC error, takes no such question, or has gone."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class ClientSide(Protocol):
    """A client that can be asked."""

    capabilities: dict[str, Any]
    """What it declared, as MCP writes it: `sampling`, `elicitation`, `roots`."""

    async def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Send a request of MCP to the client, and return its result. Raises `AskFailed`."""
