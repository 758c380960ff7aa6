"""What leaves `calls`: a call's outcome as a value, `Completed` or `Failed`.

An outcome is what stores keep and protocols encode, so it holds plain JSON values only.
"""

from typing import Any

import msgspec

from exai.core.errors import ErrorInfo

Block = dict[str, Any]
"""One MCP content block (text, image, audio, resource link, embedded resource), untouched."""


class Usage(msgspec.Struct, frozen=True):
    """Tokens that a model call cost."""

    input_tokens: int
    output_tokens: int


class ExecutionFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who did the work, in how many attempts, at what cost."""

    attempts: int = 1
    provider: str | None = None
    model: str | None = None
    usage: Usage | None = None


class Completed(msgspec.Struct, frozen=True, tag="completed", omit_defaults=True):
    """The tool answered. `result_meta` is the `_meta` of an MCP server's result, untouched.

    `input_required` is not None where the server asks for more before it can answer: its
    `inputRequests` and `requestState`, untouched. Nothing of that is served to others.
    """

    outputs: list[Block]
    structured: dict[str, Any] | None = None
    facts: ExecutionFacts = ExecutionFacts()
    result_meta: dict[str, Any] | None = None
    input_required: dict[str, Any] | None = None


class Failed(msgspec.Struct, frozen=True, tag="failed", omit_defaults=True):
    """The tool failed, or the call did; `outputs` is what the tool said nevertheless."""

    error: ErrorInfo
    outputs: list[Block] = []
    structured: dict[str, Any] | None = None
    facts: ExecutionFacts = ExecutionFacts()


Outcome = Completed | Failed

SUCCESS = "ok"
"""The code of an outcome that is no failure."""


def code_of(outcome: Outcome) -> str:
    """Return how a call ended, in one word: `SUCCESS`, or the error's code."""
    return SUCCESS if isinstance(outcome, Completed) else outcome.error.code.value


def text_block(text: str) -> Block:
    """Return an MCP text block."""
    return {"type": "text", "text": text}


def text_of(outputs: list[Block]) -> str:
    """Join the text blocks of `outputs` with newlines."""
    texts = [block.get("text") for block in outputs if block.get("type") == "text"]
    return "\n".join([text for text in texts if isinstance(text, str)])
