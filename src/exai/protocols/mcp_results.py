"""What MCP says of a tool, and of a call's outcome. Pure; whichever transport carries it.

A call that fails is a result all the same, for a JSON-RPC error ends the work of many agents.
"""

from typing import Any

import msgspec

from exai.core.errors import ErrorInfo
from exai.core.outcomes import Completed, Outcome, text_block
from exai.core.tool import ToolSpec

ERROR_META_KEY = "exai/error"
"""Where the `_meta` of a failed call's result has the reason, for programs."""


def listing_of(spec: ToolSpec) -> dict[str, Any]:
    """Return a tool as `tools/list` describes it."""
    said = {
        "name": spec.name,
        "title": spec.title,
        "description": spec.description,
        "inputSchema": spec.input_schema,
        "outputSchema": spec.output_schema,
        "annotations": spec.annotations,
        "icons": spec.icons,
        "_meta": spec.meta,
    }
    return {name: value for name, value in said.items() if value is not None}


def result_of(outcome: Outcome) -> dict[str, Any]:
    """Return the result of `tools/call`."""
    if not isinstance(outcome, Completed):
        error = outcome.error
        content = outcome.outputs or [text_block(error.message)]
        result: dict[str, Any] = {"content": content, "isError": True}
        meta: dict[str, Any] | None = {ERROR_META_KEY: reason_of(error)}
    elif outcome.input_required is not None:
        return {"resultType": "input_required", **outcome.input_required}
    else:
        result, meta = {"content": outcome.outputs}, outcome.result_meta
    if outcome.structured is not None:
        result["structuredContent"] = outcome.structured
    if meta is not None:
        result["_meta"] = meta
    return result


def reason_of(error: ErrorInfo) -> dict[str, Any]:
    """Return why a call failed, for programs: code, whether to try again, and when."""
    reason: dict[str, Any] = msgspec.to_builtins(error)
    return reason
