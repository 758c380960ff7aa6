"""Asking the client of a call back, over the channel on which it called."""

from typing import Any, cast

from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata
from mcp_types import INVALID_PARAMS, ServerRequest
from pydantic import ValidationError

from exai.core.client_side import AskFailed, ClientSide
from exai.transports.mcp_raw import RawMessage, RawResult

_ASKED_FOR = ("sampling", "elicitation", "roots")


class McpClientSide(ClientSide):
    """A client of before 2026; one of 2026 is not asked: it calls again with what it is asked."""

    def __init__(self, ctx: ServerRequestContext[Any, Any], capabilities: dict[str, Any]) -> None:
        self.capabilities = capabilities
        self._ctx = ctx

    async def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Send a request to the client, and return its result. Raises `AskFailed`."""
        try:
            result = await self._ctx.session.send_request(
                cast(ServerRequest, RawMessage(method=method, params=params)),
                RawResult,
                metadata=ServerMessageMetadata(related_request_id=self._ctx.request_id),
            )
        except MCPError as error:
            raise AskFailed(error.code, error.message, error.data) from None
        except ValidationError:
            raise AskFailed(INVALID_PARAMS, "the client's answer is none to this request") from None
        return result.root


def client_side_of(ctx: ServerRequestContext[Any, Any]) -> McpClientSide | None:
    """Return how to ask the client of a request back; None where it takes no questions."""
    declared = ctx.session.client_capabilities
    if declared is None or not ctx.session.can_send_request:
        return None
    named = {name for name in _ASKED_FOR if getattr(declared, name) is not None}
    if not named:
        return None
    capabilities = declared.model_dump(by_alias=True, mode="json", exclude_none=True, include=named)
    return McpClientSide(ctx, capabilities)
