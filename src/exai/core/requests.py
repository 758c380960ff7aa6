"""What a peer may ask, as typed values. Every protocol decodes into these.

`op` is the request's name in this vocabulary; `protocols.exai_v1` happens to use the
same names on its wire.
"""

from typing import Annotated, Any, Literal

import msgspec

RequestId = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,128}\Z")]
"""1-128 printable ASCII characters without space, chosen by the client."""

CacheUse = Literal["use", "refresh", "off"]


class Request(msgspec.Struct, frozen=True, tag_field="op"):
    """Root of all requests."""


class CallTool(Request, frozen=True, tag="call_tool"):
    """Run a tool and answer exactly once.

    `meta` goes along to an MCP server as the request's `_meta`. `input` has the
    `inputResponses` and the `requestState` of a call that its server had asked for more
    (`Completed.input_required`); it is a call of its own.
    """

    name: str
    request_id: RequestId | None = None
    arguments: dict[str, Any] = {}
    timeout_s: Annotated[float, msgspec.Meta(gt=0)] | None = None
    cache: CacheUse = "use"
    idempotency_key: RequestId | None = None
    traceparent: str | None = None
    meta: dict[str, Any] = {}
    input: dict[str, Any] = {}


class CancelTool(Request, frozen=True, tag="cancel_tool"):
    """Settle the caller's request as cancelled."""

    request_id: RequestId
    reason: str | None = None


class GetResult(Request, frozen=True, tag="get_result"):
    """Answer with the stored result, or attach to the running call."""

    request_id: RequestId


class Acknowledge(Request, frozen=True, tag="ack"):
    """The client has these results; their payloads may be erased."""

    request_ids: list[RequestId]


class ListTools(Request, frozen=True, tag="list_tools"):
    """List the tools that this identity may use."""

    request_id: RequestId | None = None


class Health(Request, frozen=True, tag="health"):
    """The whole picture, as on `/health`."""

    request_id: RequestId | None = None


class RotateToken(Request, frozen=True, tag="rotate_token"):
    """Replace the caller's own token by another."""

    request_id: RequestId | None = None
    old: str | None = None
    new: str | None = None
    grace_s: Annotated[float, msgspec.Meta(ge=0, le=31_536_000)] = 0.0
    revoke_sessions: bool = False


class Bye(Request, frozen=True, tag="bye"):
    """End the session at once."""
