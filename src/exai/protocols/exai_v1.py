"""The `exai.v1` wire, after the hello: frames to typed requests, replies to frames.

Pure functions of bytes. What a frame means is decided here; what is done about it is
not. `docs/protocol.md` is the norm.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from exai.core.errors import ErrorInfo, InvalidRequest, MalformedFrame
from exai.core.outcomes import Block, Completed, Failed, Usage, text_of
from exai.core.replies import (
    CallAcked,
    CallAnswered,
    CallProgressed,
    GoingAway,
    HealthReported,
    PromptsChanged,
    Reply,
    RequestRefused,
    ResourcesChanged,
    ResourceUpdated,
    TokenRotated,
    ToolsChanged,
    ToolsListed,
)
from exai.core.requests import (
    Acknowledge,
    Bye,
    CallTool,
    CancelTool,
    GetResult,
    Health,
    ListTools,
    Request,
    RequestId,
    RotateToken,
)
from exai.core.tool import ToolSpec
from exai.protocols.strict_json import check_limits, decode_object

AnyRequest = (
    CallTool | CancelTool | GetResult | Acknowledge | ListTools | Health | RotateToken | Bye
)

OPS: dict[str, type[AnyRequest]] = {
    "call_tool": CallTool,
    "cancel_tool": CancelTool,
    "get_result": GetResult,
    "ack": Acknowledge,
    "list_tools": ListTools,
    "health": Health,
    "rotate_token": RotateToken,
    "bye": Bye,
}
_ANSWERED_BY_RESULT = {"call_tool", "cancel_tool", "get_result"}

_request_decoder: msgspec.json.Decoder[AnyRequest] = msgspec.json.Decoder(AnyRequest)
_encode = msgspec.json.Encoder().encode


def decode(frame: bytes) -> Request | Reply:
    """Read one frame: the request it holds, or the refusal that answers it. Never raises."""
    try:
        check_limits(frame)
    except MalformedFrame as error:
        return RequestRefused(request_id=None, error=error.describe())
    try:
        return _request_decoder.decode(frame)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _decode_slowly(frame)


def _decode_slowly(frame: bytes) -> Request | Reply:
    """Find out what is wrong with a frame, and whom the refusal must reach."""
    try:
        message = decode_object(frame)
    except MalformedFrame as error:
        return RequestRefused(request_id=None, error=error.describe())
    op = message.get("op")
    if not isinstance(op, str) or op not in OPS:
        return RequestRefused(_usable_id(message), _unknown_op(op).describe())
    try:
        return msgspec.convert(message, OPS[op])
    except msgspec.ValidationError as error:
        refusal = InvalidRequest(f"{op}: {error}").describe()
    request_id = _usable_id(message)
    if request_id is not None and op in _ANSWERED_BY_RESULT:
        return CallAnswered(request_id, Failed(refusal))
    return RequestRefused(request_id, refusal)


def _unknown_op(op: Any) -> MalformedFrame:
    if op == "hello":
        return MalformedFrame("this session is open already; hello is sent once")
    known = ", ".join(OPS)
    said = f"{op[:64]!r}" if isinstance(op, str) else "no text"
    return MalformedFrame(f"the op is {said}; known are {known}")


def _usable_id(message: dict[str, Any]) -> str | None:
    try:
        return msgspec.convert(message.get("request_id"), RequestId)
    except msgspec.ValidationError:
        return None


class _Frame(msgspec.Struct, frozen=True, tag_field="op", omit_defaults=True, kw_only=True):
    """Root of outgoing frames: what has its default is left out."""


class _CallToolAck(_Frame, frozen=True, tag="call_tool_ack"):
    request_id: str
    accepted: bool
    name: str
    call_id: str
    timeout_s: float
    timeout: float
    joined: bool = False


class _Progress(_Frame, frozen=True, tag="progress"):
    request_id: str
    name: str
    t: float
    message: str | None = None
    level: str | None = None
    progress: float | None = None
    total: float | None = None
    delta: str | None = None
    offset: int | None = None
    attempt: int | None = None
    log: dict[str, Any] | None = None


class _ResultMeta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    call_id: str
    cached: bool
    joined: bool
    replayed: bool
    durable: bool = True
    attempts: int
    queue_ms: int
    run_ms: int
    provider: str | None = None
    model: str | None = None
    usage: Usage | None = None


class _CallToolRes(_Frame, frozen=True, tag="call_tool_res"):
    request_id: str
    ok: bool
    outputs: list[Block]
    text: str
    structured: dict[str, Any] | None = None
    meta: _ResultMeta | None = None
    error: ErrorInfo | None = None
    result_meta: dict[str, Any] | None = msgspec.field(default=None, name="_meta")
    input_required: dict[str, Any] | None = None


class _ToolListing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    name: str
    description: str
    input_schema: dict[str, Any]
    provider: str
    title: str | None = None
    output_schema: dict[str, Any] | None = None
    annotations: dict[str, Any] | None = None
    icons: list[dict[str, Any]] | None = None
    meta: dict[str, Any] | None = msgspec.field(default=None, name="_meta")


class _ListToolsRes(_Frame, frozen=True, tag="list_tools_res"):
    tools: list[_ToolListing]
    request_id: str | None = None


class _HealthRes(_Frame, frozen=True, tag="health_res"):
    ok: bool
    health: dict[str, Any]
    request_id: str | None = None


class _RotateTokenRes(_Frame, frozen=True, tag="rotate_token_res"):
    ok: bool
    error: str | None = None
    request_id: str | None = None


class _Error(_Frame, frozen=True, tag="error"):
    error: ErrorInfo
    request_id: str | None


class _ToolsChanged(_Frame, frozen=True, tag="tools_changed"):
    pass


class _ResourcesChanged(_Frame, frozen=True, tag="resources_changed"):
    pass


class _PromptsChanged(_Frame, frozen=True, tag="prompts_changed"):
    pass


class _ResourceUpdated(_Frame, frozen=True, tag="resource_updated"):
    uri: str


class _GoingAway(_Frame, frozen=True, tag="going_away"):
    reason: str
    reconnect_after_s: float


def encode(reply: Reply) -> bytes:
    """Write one reply as a frame."""
    return _encode(_FRAMES[type(reply)](reply))


def _ack(reply: CallAcked) -> _CallToolAck:
    return _CallToolAck(
        request_id=reply.request_id,
        accepted=True,
        name=reply.name,
        call_id=reply.call_id,
        timeout_s=reply.timeout_s,
        timeout=reply.timeout_s,
        joined=reply.joined,
    )


def _progress(reply: CallProgressed) -> _Progress:
    streams = reply.delta is not None
    return _Progress(
        request_id=reply.request_id,
        name=reply.name,
        t=reply.at,
        message=reply.message,
        level=reply.level,
        progress=reply.progress,
        total=reply.total,
        delta=reply.delta,
        offset=reply.offset if streams else None,
        attempt=reply.attempt if streams else None,
        log=reply.log,
    )


def _result(reply: CallAnswered) -> _CallToolRes:
    outcome, meta = reply.outcome, reply.meta
    facts = outcome.facts
    return _CallToolRes(
        request_id=reply.request_id,
        ok=isinstance(outcome, Completed),
        outputs=outcome.outputs,
        text=text_of(outcome.outputs),
        structured=outcome.structured,
        error=outcome.error if isinstance(outcome, Failed) else None,
        result_meta=outcome.result_meta if isinstance(outcome, Completed) else None,
        input_required=outcome.input_required if isinstance(outcome, Completed) else None,
        meta=None
        if meta is None
        else _ResultMeta(
            call_id=meta.call_id,
            cached=meta.cached,
            joined=meta.joined,
            replayed=meta.replayed,
            durable=meta.durable,
            attempts=facts.attempts,
            queue_ms=meta.queue_ms,
            run_ms=meta.run_ms,
            provider=facts.provider,
            model=facts.model,
            usage=facts.usage,
        ),
    )


def _listing(spec: ToolSpec) -> _ToolListing:
    return _ToolListing(
        name=spec.name,
        description=spec.description,
        input_schema=spec.input_schema,
        provider=spec.provider,
        title=spec.title,
        output_schema=spec.output_schema,
        annotations=spec.annotations,
        icons=spec.icons,
        meta=spec.meta,
    )


def _tool_list(reply: ToolsListed) -> _ListToolsRes:
    return _ListToolsRes(request_id=reply.request_id, tools=[_listing(s) for s in reply.tools])


def _health(reply: HealthReported) -> _HealthRes:
    return _HealthRes(ok=True, health=reply.health, request_id=reply.request_id)


def _token_rotated(reply: TokenRotated) -> _RotateTokenRes:
    return _RotateTokenRes(ok=reply.error is None, error=reply.error, request_id=reply.request_id)


def _refusal(reply: RequestRefused) -> _Error:
    return _Error(error=reply.error, request_id=reply.request_id)


def _resource_updated(reply: ResourceUpdated) -> _ResourceUpdated:
    return _ResourceUpdated(uri=reply.uri)


def _going_away(reply: GoingAway) -> _GoingAway:
    return _GoingAway(reason=reply.reason, reconnect_after_s=reply.reconnect_after_s)


_FRAMES: dict[type[Reply], Callable[[Any], _Frame]] = {
    CallAcked: _ack,
    CallProgressed: _progress,
    CallAnswered: _result,
    ToolsListed: _tool_list,
    ToolsChanged: lambda _: _ToolsChanged(),
    ResourcesChanged: lambda _: _ResourcesChanged(),
    PromptsChanged: lambda _: _PromptsChanged(),
    ResourceUpdated: _resource_updated,
    HealthReported: _health,
    TokenRotated: _token_rotated,
    RequestRefused: _refusal,
    GoingAway: _going_away,
}
