"""The `chat` tool: one prompt to one model, its answer streamed as it comes."""

from typing import Any

import msgspec

from exai.core.errors import ArgumentsInvalid
from exai.core.outcomes import Completed, ExecutionFacts, text_block
from exai.core.tool import SharingPolicy, Tool, ToolRun, ToolSpec, provider_scope
from exai.providers.provider import ChatRequest, Message
from exai.providers.registry import AUTO, ProviderRegistry
from exai.tools.argument_schema import ArgumentSchema

_INPUT_SCHEMA = {
    "type": "object",
    "properties": {
        "prompt": {"type": "string", "minLength": 1, "description": "What to ask the model."},
        "model": {
            "type": "string",
            "minLength": 1,
            "maxLength": 256,
            "default": AUTO,
            "description": "Which model to ask; `listmodels` lists them.",
        },
        "system_prompt": {
            "type": "string",
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


_MESSAGE_LENGTH = 200


class _Arguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    prompt: str
    model: str = AUTO
    system_prompt: str = ""
    temperature: float | None = None

    def messages(self) -> tuple[Message, ...]:
        prompt = Message("user", self.prompt)
        return (Message("system", self.system_prompt), prompt) if self.system_prompt else (prompt,)


class ChatTool(Tool):
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
        self._providers = providers
        self._schema = ArgumentSchema(self.spec.input_schema)

    def check(self, arguments: dict[str, Any]) -> None:
        """Raise `ArgumentsInvalid` for what no model could be asked."""
        self._schema.check(arguments)
        _parse(arguments)  # the schema lets pass what is too large to be checked cheaply

    def capacity_of(self, arguments: dict[str, Any]) -> str:
        """Return the scope of the model's provider."""
        provider, _ = self._providers.resolve(_parse(arguments).model)
        return provider_scope(provider.name)

    async def run(self, arguments: dict[str, Any], run: ToolRun) -> Completed:
        """Ask, stream, return the whole answer."""
        asked = _parse(arguments)
        provider, model = self._providers.resolve(asked.model)
        request = ChatRequest(model=model, messages=asked.messages(), temperature=asked.temperature)
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


def _parse(arguments: dict[str, Any]) -> _Arguments:
    try:
        return msgspec.convert(arguments, _Arguments)
    except msgspec.ValidationError as error:
        raise ArgumentsInvalid(str(error)[:_MESSAGE_LENGTH], path="") from None
