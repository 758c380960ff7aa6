"""Frames become requests, and whatever cannot be read is answered where it belongs."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exai.core.errors import ToolFailed
from exai.core.outcomes import Completed, ExecutionFacts, Failed, Usage, text_block
from exai.core.replies import (
    CallAcked,
    CallAnswered,
    CallMeta,
    CallProgressed,
    GoingAway,
    HealthReported,
    Reply,
    TokenRotated,
    ToolsChanged,
    ToolsListed,
)
from exai.core.requests import CallTool, GetResult, Health, Request
from exai.core.tool import ToolSpec
from exai.protocols.exai_v1 import OPS, decode, encode


def read(frame: bytes | dict[str, Any]) -> Request | dict[str, Any]:
    """Decode a frame; a refusal comes back as the object that goes on the wire."""
    decoded = decode(frame if isinstance(frame, bytes) else json.dumps(frame).encode())
    return json.loads(encode(decoded)) if isinstance(decoded, Reply) else decoded


def refusal_of(frame: bytes | dict[str, Any]) -> dict[str, Any]:
    answer = read(frame)
    assert isinstance(answer, dict)
    return answer


def test_a_call_needs_only_its_name() -> None:
    assert read({"op": "call_tool", "name": "echo"}) == CallTool("echo")


def test_unknown_fields_are_ignored() -> None:
    assert read({"op": "get_result", "request_id": "r", "novelty": [1]}) == GetResult("r")


def test_of_two_ops_the_last_counts() -> None:
    assert read(b'{"op":"bye","op":"health"}') == Health()


@pytest.mark.parametrize("op", ["call_tool", "cancel_tool"])
def test_a_broken_request_with_a_usable_id_is_answered_by_a_result(op: str) -> None:
    broken = {"op": op, "request_id": "r1", "name": 7, "reason": 7, "arguments": 7}
    answer = refusal_of(broken)
    assert (answer["op"], answer["request_id"], answer["ok"]) == ("call_tool_res", "r1", False)
    assert answer["error"]["code"] == "INVALID_REQUEST"


@pytest.mark.parametrize("request_id", ["", "a b", "ü", "x" * 129, 7, None, "r\n", ["r"]])
@pytest.mark.parametrize("op", ["cancel_tool", "get_result"])
def test_an_unusable_id_is_answered_by_an_error_without_id(op: str, request_id: object) -> None:
    answer = refusal_of({"op": op, "request_id": request_id})
    assert answer["op"] == "error"
    assert answer["request_id"] is None
    assert answer["error"]["code"] == "INVALID_REQUEST"


def test_a_call_with_an_unusable_id_is_no_call_without_id() -> None:
    assert refusal_of({"op": "call_tool", "name": "echo", "request_id": "a b"})["op"] == "error"


@pytest.mark.parametrize(
    "field",
    [
        {"timeout_s": 0},
        {"timeout_s": -1},
        {"timeout_s": "5"},
        {"timeout_s": True},
        {"cache": "sometimes"},
        {"arguments": []},
        {"arguments": None},
        {"idempotency_key": "with space"},
    ],
    ids=str,
)
def test_a_field_of_the_wrong_kind_is_named(field: dict[str, object]) -> None:
    answer = refusal_of({"op": "call_tool", "name": "echo", "request_id": "r", **field})
    assert answer["error"]["code"] == "INVALID_REQUEST"
    assert f"$.{next(iter(field))}" in answer["error"]["message"]


def test_an_unknown_op_keeps_its_request_id() -> None:
    answer = refusal_of({"op": "dance", "request_id": "r9"})
    assert (answer["op"], answer["request_id"]) == ("error", "r9")
    assert answer["error"]["code"] == "PROTOCOL_ERROR"


def test_a_second_hello_is_a_protocol_error() -> None:
    assert refusal_of({"op": "hello"})["error"]["code"] == "PROTOCOL_ERROR"


def test_malformed_json_is_a_protocol_error_without_id() -> None:
    answer = refusal_of(b'{"op":"health"')
    assert (answer["op"], answer["request_id"]) == ("error", None)
    assert answer["error"]["code"] == "PROTOCOL_ERROR"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
request_like = st.fixed_dictionaries(
    {"op": st.sampled_from([*OPS, "hello", "dance"]) | json_values},
    optional=dict.fromkeys(
        ("request_id", "name", "arguments", "timeout_s", "cache", "request_ids", "new"), json_values
    ),
)


@given(st.binary() | request_like.map(lambda value: json.dumps(value).encode()))
def test_every_frame_is_a_request_or_gets_a_frame_in_answer(frame: bytes) -> None:
    decoded = decode(frame)
    if isinstance(decoded, Reply):
        assert json.loads(encode(decoded))["op"] in ("error", "call_tool_res")
    else:
        assert isinstance(decoded, Request)


def written(reply: Reply) -> dict[str, Any]:
    frame = json.loads(encode(reply))
    assert isinstance(frame, dict)
    return frame


def test_an_ack_says_the_timeout_in_both_spellings() -> None:
    assert written(CallAcked("r", "echo", "c", 5.0)) == {
        "op": "call_tool_ack",
        "request_id": "r",
        "accepted": True,
        "name": "echo",
        "call_id": "c",
        "timeout_s": 5.0,
        "timeout": 5.0,
    }


def test_a_delta_is_always_accompanied_by_offset_and_attempt() -> None:
    frame = written(CallProgressed("r", "chat", 1.5, delta="hi"))
    assert (frame["delta"], frame["offset"], frame["attempt"]) == ("hi", 0, 1)


def test_progress_without_a_delta_has_no_offset() -> None:
    frame = written(CallProgressed("r", "chat", 1.5, message="half", progress=0.5, total=1.0))
    assert frame == {
        "op": "progress",
        "request_id": "r",
        "name": "chat",
        "t": 1.5,
        "message": "half",
        "progress": 0.5,
        "total": 1.0,
    }


def test_a_result_joins_its_text_blocks_and_keeps_all_others_untouched() -> None:
    image = {"type": "image", "data": "AA==", "mimeType": "image/png", "_meta": {"x": 1}}
    outcome = Completed(
        [text_block("a"), image, text_block("b")],
        structured={"n": 1},
        facts=ExecutionFacts(2, "kimi", "k2", Usage(3, 4)),
        result_meta={"trace": 1},
    )
    frame = written(CallAnswered("r", outcome, CallMeta("c", queue_ms=5, run_ms=6)))
    assert frame == {
        "op": "call_tool_res",
        "request_id": "r",
        "ok": True,
        "outputs": [{"type": "text", "text": "a"}, image, {"type": "text", "text": "b"}],
        "text": "a\nb",
        "structured": {"n": 1},
        "_meta": {"trace": 1},
        "meta": {
            "call_id": "c",
            "cached": False,
            "joined": False,
            "replayed": False,
            "attempts": 2,
            "queue_ms": 5,
            "run_ms": 6,
            "provider": "kimi",
            "model": "k2",
            "usage": {"input_tokens": 3, "output_tokens": 4},
        },
    }


def test_a_failure_says_what_the_tool_said() -> None:
    error = ToolFailed("no such file", outputs=[text_block("ENOENT")])
    frame = written(CallAnswered("r", Failed(error.describe(), error.outputs)))
    assert frame["ok"] is False
    assert frame["text"] == "ENOENT"
    assert frame["error"] == {
        "code": "TOOL_EXECUTION_ERROR",
        "message": "no such file",
        "retryable": False,
    }


def test_a_listing_has_the_names_that_mcp_gives_its_fields() -> None:
    spec = ToolSpec(
        name="box__f",
        description="d",
        input_schema={"type": "object"},
        output_schema={"type": "object"},
        annotations={"readOnlyHint": True},
        meta={"k": 1},
        provider="box",
    )
    assert written(ToolsListed("r", [spec])) == {
        "op": "list_tools_res",
        "request_id": "r",
        "tools": [
            {
                "name": "box__f",
                "description": "d",
                "inputSchema": {"type": "object"},
                "outputSchema": {"type": "object"},
                "annotations": {"readOnlyHint": True},
                "_meta": {"k": 1},
                "provider": "box",
            }
        ],
    }


def test_the_small_frames() -> None:
    assert written(ToolsChanged()) == {"op": "tools_changed"}
    assert written(HealthReported(None, {"status": "ok"})) == {
        "op": "health_res",
        "ok": True,
        "health": {"status": "ok"},
    }
    assert written(GoingAway("restart", 2.0)) == {
        "op": "going_away",
        "reason": "restart",
        "reconnect_after_s": 2.0,
    }
    assert written(TokenRotated()) == {"op": "rotate_token_res", "ok": True}
    assert written(TokenRotated(error="unauthorized"))["error"] == "unauthorized"
