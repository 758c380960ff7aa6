"""What a server answers to a call, read as an outcome; its parts stay untouched."""

from typing import Any

import msgspec

from exai.core.errors import ToolFailed
from exai.core.outcomes import Block, Completed, ExecutionFacts, text_block, text_of
from exai.upstream.json_rpc import BrokenAnswer

_ASKED = ("inputRequests", "requestState")

_encode = msgspec.json.Encoder().encode


def read_tool_result(result: dict[str, Any], upstream: str) -> Completed:
    """Return the outcome in a `tools/call` result; raises `ToolFailed`, `BrokenAnswer`."""
    if (asked := _asking(result, upstream)) is not None:
        return asked
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


def read_result(result: dict[str, Any], upstream: str) -> Completed:
    """Return the outcome in the result of any other method; raises `BrokenAnswer`."""
    whole = Completed([], structured=result, facts=ExecutionFacts(provider=upstream))
    return _asking(result, upstream) or whole


def _asking(result: dict[str, Any], upstream: str) -> Completed | None:
    if (asked := input_required(result)) is None:
        return None
    facts, meta = ExecutionFacts(provider=upstream), result.get("_meta") or None
    return Completed([], facts=facts, result_meta=meta, input_required=asked)


def input_required(result: dict[str, Any]) -> dict[str, Any] | None:
    """Return what a server of 2026 wants first, and wants to be told again then, if it does.

    Raises `BrokenAnswer`.
    """
    kind = result.get("resultType", "complete")
    if kind == "complete":
        return None
    if kind != "input_required":
        raise BrokenAnswer(f"the answer is of a kind that is not known here ({kind!r:.40})")
    match result:
        case {"inputRequests": {**requests}} if not all(map(_is_request, requests.values())):
            raise BrokenAnswer("the answer asks for what cannot be asked")
        case {"inputRequests": {**requests}} if requests:
            pass
        case {"requestState": str()} if result.get("inputRequests") in (None, {}):
            pass
        case _:
            raise BrokenAnswer("the answer asks for more without saying what")
    return {key: result[key] for key in _ASKED if key in result}


def _is_request(request: Any) -> bool:
    return isinstance(request, dict) and isinstance(request.get("method"), str)


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
