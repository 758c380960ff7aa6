"""Answers of the daemon in the words of MCP: results of tools, listings, refusals.

A call that failed is a result with `isError`, since a JSON-RPC error ends many agents; only
faults of the protocol itself are errors. What is handed in are the values of `exai.v1`: an
`error` is the object of its wire (`code`, `message`, `retryable`, …).
"""

from collections.abc import Iterable
from typing import Any

from exai.core.mcp_words import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    MISSING_CLIENT_CAPABILITY,
    RESOURCE_NOT_FOUND,
    URL_ELICITATION_REQUIRED,
    Era,
)
from exai.core.tool import ToolSpec
from exai.protocols.mcp_messages import McpError

ERROR_KEY = "exai/error"
"""Where in a failed result's `_meta` stands why."""

CANNOT_BE_ASKED = "the server asks its caller for more, which this version of MCP cannot tell"

_REASON_FIELDS = ("code", "message", "retryable", "retry_after_s", "details")
_PROGRAMS_MUST_HEAR = frozenset({MISSING_CLIENT_CAPABILITY, URL_ELICITATION_REQUIRED})
_OF_OUR_LISTING = frozenset({"provider"})

Result = dict[str, Any]


def completed_result(
    outputs: list[dict[str, Any]],
    structured: dict[str, Any] | None = None,
    result_meta: dict[str, Any] | None = None,
) -> Result:
    """Return a tool's success."""
    result: Result = {"content": outputs, "isError": False}
    if structured is not None:
        result["structuredContent"] = structured
    if result_meta:
        result["_meta"] = result_meta
    return result


def failed_result(
    error: dict[str, Any],
    outputs: list[dict[str, Any]] | None = None,
    structured: dict[str, Any] | None = None,
    *,
    has_output_schema: bool,
) -> Result:
    """Return a call's failure: what the tool said, or else the error's text, and the reason.

    The reason is also the structured content where the tool promised none and said nothing:
    clients hold structured content against the output schema, failed or not.
    """
    reason = {key: error[key] for key in _REASON_FIELDS if error.get(key) is not None}
    result: Result = {
        "content": outputs or [{"type": "text", "text": _in_words(error)}],
        "isError": True,
        "_meta": {ERROR_KEY: reason},
    }
    if structured is not None:
        result["structuredContent"] = structured
    elif not outputs and not has_output_schema:
        result["structuredContent"] = reason
    return result


def _in_words(error: dict[str, Any]) -> str:
    message = str(error.get("message") or "the call failed")
    details = error.get("details") or {}
    path = details.get("path")
    where = f" (at {path})" if isinstance(path, str) and path and path not in message else ""
    closest = details.get("closest")
    return f"{error.get('code')}: {message}{where}" + (f"; closest: {closest}" if closest else "")


def input_required_result(input_required: dict[str, Any], era: Era) -> Result:
    """Return what a server asks for before it can answer; only the modern era can bring it."""
    if era is Era.MODERN:
        return {**input_required, "resultType": "input_required"}
    error = {"code": "TOOL_EXECUTION_ERROR", "message": CANNOT_BE_ASKED, "retryable": False}
    return failed_result(error, has_output_schema=True)


def tool_error(name: str, error: dict[str, Any], *, is_continued: bool = False) -> McpError | None:
    """Return the protocol's error where a failed tool call is one; None where it is a result.

    What a call that `is_continued` brings to its server, its program has put together, not a model.
    """
    if error.get("code") == "TOOL_NOT_FOUND":
        return McpError(INVALID_PARAMS, f"Unknown tool: {name}", _closest(error))
    said = _said_by_the_server(error)
    of_programs = _PROGRAMS_MUST_HEAR | ({INVALID_PARAMS} if is_continued else set())
    return said if said is not None and said.code in of_programs else None


def method_error(method: str, error: dict[str, Any], era: Era) -> McpError:
    """Return the error of a request that is no tool call: MCP knows no failed results for it."""
    said = _said_by_the_server(error)
    if said is not None:
        if said.code == RESOURCE_NOT_FOUND and era is Era.MODERN:
            said.code = INVALID_PARAMS  # the code of its own was retired
        return said
    message = str(error.get("message") or "the request failed")
    match error.get("code"):
        case "TOOL_NOT_FOUND":
            return McpError(METHOD_NOT_FOUND, "Method not found", method)
        case "VALIDATION_ERROR" | "INVALID_REQUEST":
            return McpError(INVALID_PARAMS, message, error.get("details"))
    reason = {key: error[key] for key in _REASON_FIELDS if error.get(key) is not None}
    return McpError(INTERNAL_ERROR, message, {ERROR_KEY: reason})


def _said_by_the_server(error: dict[str, Any]) -> McpError | None:
    details = error.get("details") or {}
    code = details.get("jsonrpc_code")
    if not isinstance(code, int):
        return None
    return McpError(code, str(error.get("message") or "error"), details.get("jsonrpc_data"))


def _closest(error: dict[str, Any]) -> Any:
    closest = (error.get("details") or {}).get("closest")
    return {"closest": closest} if closest else None


def listing_of(spec: ToolSpec) -> dict[str, Any]:
    """Return a tool as `exai.v1` lists it."""
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


def tools_result(tools: Iterable[dict[str, Any]], era: Era) -> Result:
    """Return the answer to `tools/list`, of the tools as `exai.v1` lists them."""
    return {"tools": [_tool(tool, era) for tool in tools]}


def _tool(tool: dict[str, Any], era: Era) -> dict[str, Any]:
    left_out = _OF_OUR_LISTING
    schema = tool.get("outputSchema")
    if era is Era.HANDSHAKE and isinstance(schema, dict) and schema.get("type") != "object":
        left_out |= {"outputSchema"}  # clients of that era would take the whole list as invalid
    return {key: value for key, value in tool.items() if key not in left_out}
