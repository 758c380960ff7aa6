"""What a tool or prompt asks of its client in the middle of a request, in either era's way.

In the handshake era a question is a request of the server's own; since 2026-07-28 it is a result
that says what is missing, and the client comes again with it.
"""

from collections.abc import Mapping
from typing import Any

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

Context = ServerRequestContext[Any, Any]
Asking = types.CallToolRequestParams | types.GetPromptRequestParams
Questions = Mapping[str, types.InputRequest]
Answers = Mapping[str, types.InputResponse]

_CAPABILITIES = {
    "elicitation/create": types.ClientCapabilities(elicitation=types.ElicitationCapability()),
    "sampling/createMessage": types.ClientCapabilities(sampling=types.SamplingCapability()),
    "roots/list": types.ClientCapabilities(roots=types.RootsCapability()),
}
_ANSWERS: dict[
    str, type[types.ElicitResult | types.CreateMessageResult | types.ListRootsResult]
] = {
    "elicitation/create": types.ElicitResult,
    "sampling/createMessage": types.CreateMessageResult,
    "roots/list": types.ListRootsResult,
}


def is_modern(context: Context) -> bool:
    """Tell whether the client speaks 2026-07-28 or later."""
    return context.protocol_version in MODERN_PROTOCOL_VERSIONS


def form(message: str, properties: dict[str, Any]) -> types.ElicitRequest:
    """Return a question to the user; every property is required."""
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return types.ElicitRequest(
        params=types.ElicitRequestFormParams(message=message, requested_schema=schema)
    )


def sampling(prompt: str, max_tokens: int = 100) -> types.CreateMessageRequest:
    """Return a question to the client's model."""
    content = types.TextContent(text=prompt)
    return types.CreateMessageRequest(
        params=types.CreateMessageRequestParams(
            messages=[types.SamplingMessage(role="user", content=content)], max_tokens=max_tokens
        )
    )


def can_answer(context: Context, question: types.InputRequest) -> bool:
    """Tell whether the client has declared what it takes to answer."""
    return context.session.check_client_capability(_CAPABILITIES[question.method])


def require_capability(context: Context, question: types.InputRequest) -> None:
    """Refuse a request whose client has not declared what it takes to answer."""
    if not can_answer(context, question):
        capability = _CAPABILITIES[question.method].model_dump(exclude_none=True)
        raise MCPError(
            types.MISSING_REQUIRED_CLIENT_CAPABILITY,
            f"This needs a client that answers {question.method}",
            {"requiredCapabilities": capability},
        )


async def answers(
    context: Context,
    params: Asking,
    questions: Questions,
    state: str | None = None,
) -> Answers | types.InputRequiredResult:
    """Return the answers to all questions; or, in the newer era, the result that asks for them."""
    for question in questions.values():
        require_capability(context, question)
    if not is_modern(context):
        return {key: await _asked(context, question) for key, question in questions.items()}
    given = params.input_responses or {}
    if questions.keys() <= given.keys():
        return {key: given[key] for key in questions}
    return types.InputRequiredResult(input_requests=dict(questions), request_state=state)


async def _asked(context: Context, question: types.InputRequest) -> types.InputResponse:
    return await context.session.send_request(
        question,
        _ANSWERS[question.method],
        metadata=ServerMessageMetadata(related_request_id=context.request_id),
    )
