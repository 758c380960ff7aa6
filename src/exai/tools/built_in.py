"""The tools that need nothing behind them: `echo` and `version`."""

from typing import Any

from exai.core.outcomes import Completed, text_block
from exai.core.tool import SharingPolicy, ToolRun, ToolSpec
from exai.tools.own_tool import OwnTool

_PURE = SharingPolicy(share="principal", idempotent=True, read_only=True)
_PURE_HINTS = {"readOnlyHint": True, "idempotentHint": True, "openWorldHint": False}


class EchoTool(OwnTool):
    """Says back what it is told: the shortest walk there and back."""

    spec = ToolSpec(
        name="echo",
        title="Echo",
        description="Returns the given text unchanged; a test of the whole way there and back.",
        input_schema={
            "type": "object",
            "properties": {"text": {"type": "string", "description": "What to say back."}},
            "required": ["text"],
            "additionalProperties": False,
        },
        annotations=_PURE_HINTS,
        policy=_PURE,
    )

    async def run(self, arguments: dict[str, Any], run: ToolRun) -> Completed:
        """Return the text."""
        return Completed([text_block(arguments["text"])])


class VersionTool(OwnTool):
    """Says which EXAI this is."""

    spec = ToolSpec(
        name="version",
        title="Version",
        description="Returns the daemon's name and version, and the protocol it speaks.",
        input_schema={"type": "object", "properties": {}, "additionalProperties": False},
        output_schema={
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "version": {"type": "string"},
                "protocol": {"type": "string"},
            },
            "required": ["name", "version", "protocol"],
        },
        annotations=_PURE_HINTS,
        policy=_PURE,
    )

    def __init__(self, name: str, version: str, protocol: str) -> None:
        super().__init__()
        self._facts = {"name": name, "version": version, "protocol": protocol}

    async def run(self, arguments: dict[str, Any], run: ToolRun) -> Completed:
        """Return name, version and protocol, as text and structured."""
        text = "{name} {version} ({protocol})".format(**self._facts)
        return Completed([text_block(text)], structured=self._facts)
