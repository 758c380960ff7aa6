"""Answers of the daemon in the words of MCP."""

from typing import Any

import pytest
from mcp_types import CallToolResult, ListToolsResult

from exai.core.mcp_words import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    SERVER_INFO_KEY,
    Era,
)
from exai.protocols.mcp_eras import ServerInfo, finish_result
from exai.protocols.mcp_results import (
    ERROR_KEY,
    completed_result,
    failed_result,
    input_required_result,
    method_error,
    tool_error,
    tools_result,
)

US = ServerInfo("exai", "1")
FULL: dict[str, Any] = {
    "code": "OVER_CAPACITY",
    "message": "kimi is full",
    "retryable": True,
    "retry_after_s": 1.5,
    "details": {"scope": "provider"},
}
BLOCK = {"type": "text", "text": "it broke"}


def test_a_success_keeps_its_blocks_its_structure_and_its_meta() -> None:
    result = completed_result([BLOCK], {"a": 1}, {"box/page": 2})
    assert result == {
        "content": [BLOCK],
        "isError": False,
        "structuredContent": {"a": 1},
        "_meta": {"box/page": 2},
    }
    assert completed_result([]) == {"content": [], "isError": False}


def test_a_refusal_is_a_result_that_says_why_in_words_and_in_structure() -> None:
    result = failed_result(FULL, has_output_schema=False)
    assert result["isError"] is True
    assert result["content"] == [{"type": "text", "text": "OVER_CAPACITY: kimi is full"}]
    assert result["_meta"][ERROR_KEY] == result["structuredContent"] == FULL
    CallToolResult.model_validate(result)


def test_a_promised_structure_is_never_replaced_by_the_reason() -> None:
    assert "structuredContent" not in failed_result(FULL, has_output_schema=True)


def test_what_a_failed_tool_said_itself_is_what_its_caller_reads() -> None:
    result = failed_result(FULL, [BLOCK], {"line": 3}, has_output_schema=False)
    assert (result["content"], result["structuredContent"]) == ([BLOCK], {"line": 3})
    assert "structuredContent" not in failed_result(FULL, [BLOCK], has_output_schema=False)


def test_a_wrong_argument_is_named_so_that_a_model_can_mend_it() -> None:
    error = {
        "code": "VALIDATION_ERROR",
        "message": "5 is not of type string",
        "retryable": False,
        "details": {"path": "/text"},
    }
    (block,) = failed_result(error, has_output_schema=True)["content"]
    assert block["text"] == "VALIDATION_ERROR: 5 is not of type string (at /text)"
    assert tool_error("echo", error) is None


def test_an_unknown_tool_is_a_fault_of_the_protocol() -> None:
    error = {"code": "TOOL_NOT_FOUND", "message": "no such tool", "details": {"closest": "echo"}}
    fault = tool_error("ecko", error)
    assert fault is not None
    assert (fault.code, fault.message) == (INVALID_PARAMS, "Unknown tool: ecko")
    assert fault.data == {"closest": "echo"}


@pytest.mark.parametrize(("code", "is_error"), [(-32021, True), (-32042, True), (-32603, False)])
def test_only_what_a_client_must_act_upon_stays_an_error_of_a_tool_call(
    code: int, is_error: bool
) -> None:
    error = {
        "code": "TOOL_EXECUTION_ERROR",
        "message": "no",
        "details": {"jsonrpc_code": code, "jsonrpc_data": {"x": 1}},
    }
    fault = tool_error("box__ask", error)
    assert (fault is not None) is is_error
    if fault is not None:
        assert (fault.code, fault.message, fault.data) == (code, "no", {"x": 1})


def test_a_state_that_a_client_brings_back_wrong_is_its_own_fault_not_a_models() -> None:
    details = {"jsonrpc_code": INVALID_PARAMS}
    error = {"code": "TOOL_EXECUTION_ERROR", "message": "bad state", "details": details}
    assert tool_error("box__ask", error) is None
    assert tool_error("box__ask", error, is_continued=True) is not None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"code": "TOOL_NOT_FOUND", "message": "none"}, METHOD_NOT_FOUND),
        ({"code": "VALIDATION_ERROR", "message": "no uri"}, INVALID_PARAMS),
        (FULL, INTERNAL_ERROR),
        ({"code": "X", "message": "gone", "details": {"jsonrpc_code": -32002}}, -32002),
    ],
)
def test_another_method_fails_with_an_error_of_the_protocol(
    error: dict[str, Any], code: int
) -> None:
    fault = method_error("resources/read", error, Era.HANDSHAKE)
    assert fault.code == code
    if error is FULL:
        assert fault.data == {ERROR_KEY: FULL}
    if code == -32002:
        assert method_error("resources/read", error, Era.MODERN).code == INVALID_PARAMS


def test_only_the_modern_era_can_be_asked_for_more() -> None:
    asked = {"inputRequests": {"a": {"method": "roots/list"}}, "requestState": "s"}
    assert input_required_result(asked, Era.MODERN) == {**asked, "resultType": "input_required"}
    assert input_required_result(asked, Era.HANDSHAKE)["isError"] is True


def test_a_listing_has_the_servers_own_descriptions() -> None:
    tool = {
        "name": "box__get",
        "description": "",
        "inputSchema": {"type": "object"},
        "outputSchema": {"type": "object"},
        "annotations": {"readOnlyHint": True},
        "_meta": {"x": 1},
        "provider": "box",
    }
    told = {key: value for key, value in tool.items() if key != "provider"}
    for era in Era:
        result = finish_result("tools/list", tools_result([tool], era), era, US)
        assert result["tools"] == [told]
        ListToolsResult.model_validate(result)


def test_a_schema_that_the_handshake_era_cannot_take_is_left_out_there() -> None:
    tool = {"name": "n", "inputSchema": {"type": "object"}, "outputSchema": {"type": "array"}}
    assert tools_result([tool], Era.MODERN)["tools"] == [tool]
    assert "outputSchema" not in tools_result([tool], Era.HANDSHAKE)["tools"][0]


def test_a_modern_result_says_what_it_is_and_who_made_it() -> None:
    theirs = {"contents": [], "_meta": {SERVER_INFO_KEY: {"name": "box"}, "k": 1}}
    assert finish_result("resources/read", theirs, Era.MODERN, US) == {
        "contents": [],
        "resultType": "complete",
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": {SERVER_INFO_KEY: {"name": "exai", "version": "1"}, "k": 1},
    }
    said = {"contents": [], "ttlMs": 5, "cacheScope": "public"}
    assert finish_result("resources/read", said, Era.MODERN, US)["ttlMs"] == 5
    assert finish_result("resources/read", said, Era.HANDSHAKE, US) == {"contents": []}
    asked = finish_result("resources/read", {"resultType": "input_required"}, Era.MODERN, US)
    assert "ttlMs" not in asked
