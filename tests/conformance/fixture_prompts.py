"""The prompts of the conformance suite's server, and how their arguments are completed."""

from collections.abc import Callable

import mcp_types as types
from mcp.shared.exceptions import MCPError

from tests.conformance.fixture_media import PNG_BASE64
from tests.conformance.fixture_questions import Context, answers, form

Params = types.GetPromptRequestParams
Result = types.GetPromptResult | types.InputRequiredResult

ASKING = types.Prompt(
    name="test_input_required_result_prompt", description="Asks what it is to be about"
)
ADDED = types.Prompt(name="added_prompt", description="Comes and goes")
ARGUMENTS = [
    types.PromptArgument(name="arg1", description="First test argument", required=True),
    types.PromptArgument(name="arg2", description="Second test argument", required=True),
]
PROMPTS = (
    types.Prompt(name="test_simple_prompt", description="One text"),
    types.Prompt(
        name="test_prompt_with_arguments", description="Two arguments", arguments=ARGUMENTS
    ),
    types.Prompt(
        name="test_prompt_with_embedded_resource",
        description="A resource",
        arguments=[
            types.PromptArgument(
                name="resourceUri", description="URI of the resource to embed", required=True
            )
        ],
    ),
    types.Prompt(name="test_prompt_with_image", description="A picture"),
    ASKING,
)
CONTEXT = form("What context should the prompt use?", {"context": {"type": "string"}})
COMPLETIONS = ("paris", "park", "party")


def _text(text: str) -> types.TextContent:
    return types.TextContent(text=text)


def _contents(prompt: Params) -> list[types.ContentBlock]:
    """Return what the user says in a prompt, one message for each block."""
    given = prompt.arguments or {}
    match prompt.name:
        case "test_simple_prompt":
            return [_text("This is a simple prompt for testing.")]
        case "test_prompt_with_arguments":
            arg1, arg2 = given.get("arg1"), given.get("arg2")
            return [_text(f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'")]
        case "test_prompt_with_embedded_resource":
            resource = types.TextResourceContents(
                uri=given.get("resourceUri", ""),
                mime_type="text/plain",
                text="Embedded resource content for testing.",
            )
            return [
                types.EmbeddedResource(resource=resource),
                _text("Please process the embedded resource above."),
            ]
        case "test_prompt_with_image":
            return [
                types.ImageContent(data=PNG_BASE64, mime_type="image/png"),
                _text("Please analyze the image above."),
            ]
        case ADDED.name:
            return [_text("I was added")]
        case name:
            raise MCPError(types.INVALID_PARAMS, f"Unknown prompt: {name}")


class FixturePrompts:
    """The prompts there are at the moment; `has_added` tells whether one more is among them."""

    def __init__(self, has_added: Callable[[], bool]) -> None:
        self._has_added = has_added

    async def list(
        self, context: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListPromptsResult:
        """Return all prompts."""
        return types.ListPromptsResult(
            prompts=[*PROMPTS, ADDED] if self._has_added() else list(PROMPTS)
        )

    async def get(self, context: Context, params: Params) -> Result:
        """Return what one prompt says."""
        if params.name == ASKING.name:
            given = await answers(context, params, {"user_context": CONTEXT})
            if isinstance(given, types.InputRequiredResult):
                return given
            contents: list[types.ContentBlock] = [_text(f"Context: {given['user_context']}")]
        else:
            contents = _contents(params)
        return types.GetPromptResult(
            messages=[types.PromptMessage(role="user", content=content) for content in contents]
        )

    async def complete(
        self, context: Context, params: types.CompleteRequestParams
    ) -> types.CompleteResult:
        """Return the known words that begin as the argument does."""
        values = [word for word in COMPLETIONS if word.startswith(params.argument.value)]
        return types.CompleteResult(
            completion=types.Completion(values=values, total=len(values), has_more=False)
        )
