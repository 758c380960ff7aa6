"""What a server says of a tool call, read as an outcome; its blocks stay untouched."""

from typing import Any

import msgspec

from exai.core.errors import ToolFailed
from exai.core.outcomes import Block, Completed, ExecutionFacts, text_block, text_of
from exai.upstream.json_rpc import BrokenAnswer

_encode = msgspec.json.Encoder().encode


def read_tool_result(result: dict[str, Any], upstream: str) -> Completed:
    """Return the outcome in a `tools/call` result; raises `ToolFailed`, `BrokenAnswer`."""
    if result.get("resultType") == "input_required":
        return _ask_for_more(result, upstream)
    if result.get("resultType", "complete") != "complete":
        raise BrokenAnswer(
            f"the tool asks for more ({result['resultType']!r:.40}), not offered here"
        )
    outputs, structured = _blocks_of(result), result.get("structuredContent")
    if structured is not None and not isinstance(structured, dict):
        # Our outcomes know objects only; the server's text says the same, if there is one.
        outputs = outputs or [text_block(_encode(structured).decode())]
        structured = None
    if result.get("isError") is True:
        message = text_of(outputs)[:1000] or "the tool failed without a word"
        raise ToolFailed(message, outputs=outputs, structured=structured)
    return Completed(
        outputs,
        structured=structured,
        facts=ExecutionFacts(provider=upstream),
        result_meta=result.get("_meta") or None,
    )


def _ask_for_more(result: dict[str, Any], upstream: str) -> Completed:
    requests, state = result.get("inputRequests", {}), result.get("requestState", "")
    says_what = isinstance(requests, dict) and isinstance(state, str)
    if not says_what or not (requests or "requestState" in result):
        raise BrokenAnswer("the tool asks for more, and does not say for what")
    asked: dict[str, Any] = {key: result[key] for key in ("inputRequests", "requestState") if key in result}
    facts = ExecutionFacts(provider=upstream)
    return Completed([], facts=facts, result_meta=result.get("_meta") or None, input_required=asked)


def _blocks_of(result: dict[str, Any]) -> list[Block]:
    blocks = result.get("content", [])
    if not isinstance(blocks, list) or not all(_is_block(block) for block in blocks):
        raise BrokenAnswer("the answer's content is no list of content blocks")
    return blocks


def _is_block(block: Any) -> bool:
    match block:
        case {"type": "text", "text": str()}:
            return True
        case {"type": str() as kind}:
            return kind != "text"
    return False
