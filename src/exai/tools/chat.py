"""The `chat` tool: one prompt to one model, its answer streamed as it comes."""

from typing import Any

from exai.core.identity import Principal
from exai.core.outcomes import Completed, ExecutionFacts, text_block
from exai.core.tool import Demand, SharingPolicy, ToolRun, ToolSpec, provider_scope
from exai.providers.provider import ChatRequest, Message
from exai.providers.registry import AUTO, ProviderRegistry
from exai.tools.own_tool import OwnTool

_MAX_PROMPT_LENGTH = 4_000_000  # some million tokens: more than any model reads

_INPUT_SCHEMA = {
    "type": "object",
    "properties": {
        "prompt": {
            "type": "string",
            "minLength": 1,
            "maxLength": _MAX_PROMPT_LENGTH,
            "description": "What to ask the model.",
        },
        "model": {
            "type": "string",
            "minLength": 1,
            "maxLength": 256,
            "default": AUTO,
            "description": "Which model to ask; `listmodels` lists them.",
        },
        "system_prompt": {
            "type": "string",
            "maxLength": _MAX_PROMPT_LENGTH,
            "description": "How the model is to behave: its role, its tone, its limits.",
        },
        "temperature": {
            "type": "number",
            "minimum": 0,
            "maximum": 2,
            "description": "0 for the likeliest words, more for surprising ones.",
        },
    },
    "required": ["prompt"],
    "additionalProperties": False,
}
_OUTPUT_SCHEMA = {
    "type": "object",
    "properties": {
        "provider": {"type": "string", "description": "Which service answered."},
        "model": {"type": "string", "description": "Which model really answered."},
        "finish_reason": {
            "type": "string",
            "description": "`stop`: the answer is complete; `length`: it was cut off.",
        },
    },
    "required": ["provider", "model", "finish_reason"],
}


class ChatTool(OwnTool):
    """Asks a model.

    Asking again changes nothing but the bill, and after a crash that one repetition is what
    brings the answer: the tool counts as idempotent.
    """

    spec = ToolSpec(
        name="chat",
        title="Chat with a model",
        description=(
            "Asks a language model and returns its answer as text. "
            "Each call stands alone: put everything the model must know into the prompt."
        ),
        input_schema=_INPUT_SCHEMA,
        output_schema=_OUTPUT_SCHEMA,
        annotations={"readOnlyHint": True, "openWorldHint": True},
        policy=SharingPolicy(share="principal", idempotent=True, read_only=True),
    )

    def __init__(self, providers: ProviderRegistry) -> None:
        super().__init__()
        self._providers = providers

    async def demand_of(self, arguments: dict[str, Any], principal: Principal) -> Demand:
        """Ask for a permit of the model's provider."""
        provider, _ = self._providers.resolve(arguments.get("model"))
        return Demand(provider_scope(provider.name))

    async def run(self, arguments: dict[str, Any], run: ToolRun) -> Completed:
        """Ask, stream, return the whole answer."""
        provider, model = self._providers.resolve(arguments.get("model"))
        request = ChatRequest(
            model=model, messages=_messages(arguments), temperature=arguments.get("temperature")
        )
        reply = await provider.complete(request, run)
        return Completed(
            [text_block(reply.text)],
            structured={
                "provider": provider.name,
                "model": reply.model,
                "finish_reason": reply.finish_reason,
            },
            facts=ExecutionFacts(reply.attempts, provider.name, reply.model, reply.usage),
        )


def _messages(arguments: dict[str, Any]) -> tuple[Message, ...]:
    prompt = Message("user", arguments["prompt"])
    system_prompt = arguments.get("system_prompt")
    return (Message("system", system_prompt), prompt) if system_prompt else (prompt,)
