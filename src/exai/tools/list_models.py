"""The `listmodels` tool: which models can be asked, and what the others still need."""

from typing import Any

from exai.core.outcomes import Completed, text_block
from exai.core.tool import SharingPolicy, ToolRun, ToolSpec
from exai.providers.registry import ListedModel, ProviderRegistry
from exai.tools.own_tool import OwnTool

_OUTPUT_SCHEMA = {
    "type": "object",
    "properties": {
        "models": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "model": {
                        "type": "string",
                        "description": "A name, or a pattern where `*` stands for anything.",
                    },
                    "provider": {"type": "string"},
                    "configured": {"type": "boolean", "description": "Can it be asked now?"},
                    "default": {"type": "boolean"},
                },
                "required": ["model", "provider", "configured", "default"],
            },
        }
    },
    "required": ["models"],
}


class ListModelsTool(OwnTool):
    """Lists every model that a provider is configured for."""

    spec = ToolSpec(
        name="listmodels",
        title="List models",
        description="Lists the models that `chat` can ask, and which of them still need a key.",
        input_schema={"type": "object", "properties": {}, "additionalProperties": False},
        output_schema=_OUTPUT_SCHEMA,
        annotations={"readOnlyHint": True, "openWorldHint": False},
        policy=SharingPolicy(share="principal", idempotent=True, read_only=True),
    )

    def __init__(self, providers: ProviderRegistry) -> None:
        super().__init__()
        self._providers = providers

    async def run(self, arguments: dict[str, Any], run: ToolRun) -> Completed:
        """Return the list, as text and structured."""
        listed = self._providers.models()
        models = [
            {
                "model": one.model,
                "provider": one.provider,
                "configured": one.is_configured,
                "default": one.is_default,
            }
            for one in listed
        ]
        text = "\n".join(map(_line, listed)) or "no models"
        return Completed([text_block(text)], structured={"models": models})


def _line(one: ListedModel) -> str:
    notes = ["default"] * one.is_default + ["not configured"] * (not one.is_configured)
    return f"{one.model} ({', '.join([one.provider, *notes])})"
