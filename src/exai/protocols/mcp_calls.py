"""Requests of MCP as calls, and what came of calls as results, for every door and both eras.

Pure. What a tool's result or an error looks like is `mcp_results`' concern.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from exai.core.mcp_words import INTERNAL_ERROR, INVALID_PARAMS, Era
from exai.core.outcomes import Completed, Outcome
from exai.core.requests import CallTool, RequestId
from exai.protocols.mcp_eras import IDEMPOTENCY_KEY, meta_for_the_server, meta_of
from exai.protocols.mcp_messages import McpError
from exai.protocols.mcp_results import (
    CANNOT_BE_ASKED,
    Result,
    completed_result,
    failed_result,
    input_required_result,
    method_error,
    tool_error,
)

_INPUT_FIELDS = ("inputResponses", "requestState")


class Answer(NamedTuple):
    """What came of a call. `error` is the object of `exai.v1`'s wire, None for a success."""

    outputs: list[dict[str, Any]]
    structured: dict[str, Any] | None = None
    result_meta: dict[str, Any] | None = None
    input_required: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


def answer_of(outcome: Outcome) -> Answer:
    """Return an outcome as an answer."""
    if isinstance(outcome, Completed):
        return Answer(
            outcome.outputs, outcome.structured, outcome.result_meta, outcome.input_required
        )
    error = msgspec.to_builtins(outcome.error)
    return Answer(outcome.outputs, outcome.structured, error=error)


def read_tool_call(params: Mapping[str, Any], header_key: str | None = None) -> CallTool:
    """Read the params of `tools/call`; a key may also have come in a header. Raises `McpError`."""
    meta, name, arguments = meta_of(params), params.get("name"), params.get("arguments")
    if not isinstance(name, str):
        raise McpError(INVALID_PARAMS, "tools/call needs the name of a tool")
    if arguments is not None and not isinstance(arguments, dict):
        raise McpError(INVALID_PARAMS, "the arguments of a tool are an object")
    traceparent = meta.get("traceparent")
    return CallTool(
        name=name,
        arguments=arguments or {},
        idempotency_key=_read_key(meta, header_key),
        traceparent=traceparent if isinstance(traceparent, str) else None,
        meta=meta_for_the_server(meta),
        input={field: params[field] for field in _INPUT_FIELDS if params.get(field) is not None},
    )


def read_method_call(method: str, params: Mapping[str, Any]) -> CallTool:
    """Return a request that is no tool call as a call of what bears its name."""
    arguments = {key: value for key, value in params.items() if key != "_meta"}
    return CallTool(name=method, arguments=arguments, meta=meta_for_the_server(meta_of(params)))


def tool_result(
    call: CallTool, answer: Answer, era: Era, has_output_schema: Callable[[], bool]
) -> Result:
    """Return the answer to `tools/call`. Raises `McpError` for what is no result of a tool."""
    if answer.input_required is not None:
        return input_required_result(answer.input_required, era)
    if answer.error is None:
        return completed_result(answer.outputs, answer.structured, answer.result_meta)
    fault = tool_error(call.name, answer.error, is_continued=bool(call.input))
    if fault is not None:
        raise fault
    return failed_result(
        answer.error,
        answer.outputs,
        answer.structured,
        has_output_schema=has_output_schema(),
    )


def method_result(method: str, answer: Answer, era: Era) -> Result:
    """Return the answer to any other method. Raises `McpError`."""
    if answer.error is not None:
        raise method_error(method, answer.error, era)
    if answer.input_required is None:
        return answer.structured or {}
    if era is Era.HANDSHAKE:
        raise McpError(INTERNAL_ERROR, CANNOT_BE_ASKED)
    return input_required_result(answer.input_required, era)


def _read_key(meta: Mapping[str, Any], header_key: str | None) -> str | None:
    key = meta.get(IDEMPOTENCY_KEY, header_key)
    if header_key is not None and key != header_key:
        raise McpError(INVALID_PARAMS, f"{IDEMPOTENCY_KEY} and the header Idempotency-Key differ")
    try:
        return None if key is None else msgspec.convert(key, RequestId)
    except msgspec.ValidationError:
        raise McpError(
            INVALID_PARAMS,
            f"{IDEMPOTENCY_KEY}: expected 1 to 128 printable ASCII characters, without space",
        ) from None
