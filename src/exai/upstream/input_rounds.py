"""A call whose server asks for more before it can answer, done in rounds inside the call.

MCP of 2026 has no requests of a server: it answers `input_required`, and is called again with
what the client said. Knows the rounds; knows nothing of who is asked, nor how a server is.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from exai.core.client_side import AskFailed
from exai.core.errors import ToolFailed
from exai.core.mcp_words import CLIENT_CAPABILITIES_KEY
from exai.core.tool import ToolRun
from exai.upstream.client_questions import ClientQuestions
from exai.upstream.json_rpc import BrokenAnswer
from exai.upstream.tool_result import input_required

_MAX_ROUNDS = 10
_MAX_REQUESTS = 16
_METHOD_LENGTH = 40
_PAUSES_S = (0.05, 0.1, 0.2)

AskOnce = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
"""Makes the request with this input: `inputResponses` and `requestState`."""


async def ask_in_rounds(
    ask_once: AskOnce, run: ToolRun, questions: ClientQuestions
) -> dict[str, Any]:
    """Make a request, and again while the server wants more; a caller of 2026 does that itself.

    Raises what `ask_once` raises; `ToolFailed` where the client does not say what is asked;
    `BrokenAnswer` where the server asks for what is no request, or without an end.
    """
    result, pauses_s = await ask_once(run.input), iter(_PAUSES_S)
    for _ in range(_MAX_ROUNDS):
        if CLIENT_CAPABILITIES_KEY in run.meta or (wanted := input_required(result)) is None:
            return result
        given = {name: wanted[name] for name in wanted if name == "requestState"}
        if requests := wanted.get("inputRequests"):
            given["inputResponses"] = await _answers(requests, questions)
        else:  # it only wants to be called again
            await asyncio.sleep(next(pauses_s, _PAUSES_S[-1]))
        result = await ask_once(given)
    if input_required(result) is None:
        return result
    raise BrokenAnswer(f"the server asked for more {_MAX_ROUNDS} times, and again")


async def _answers(requests: dict[str, Any], questions: ClientQuestions) -> dict[str, Any]:
    """Ask the client everything at once; the first that it does not answer ends the call."""
    if len(requests) > _MAX_REQUESTS:
        raise BrokenAnswer(f"the server asks for more than {_MAX_REQUESTS} things at once")
    refusals: list[ToolFailed] = []
    asked: dict[str, asyncio.Task[dict[str, Any]]] = {}
    try:
        async with asyncio.TaskGroup() as tasks:
            for key, request in requests.items():
                asked[key] = tasks.create_task(_answer(request, questions))
    except* ToolFailed as failed:
        refusals += [each for each in failed.exceptions if isinstance(each, ToolFailed)]
    if refusals:
        raise refusals[0]
    return {key: task.result() for key, task in asked.items()}


async def _answer(request: Any, questions: ClientQuestions) -> dict[str, Any]:
    asked = request if isinstance(request, dict) else {}
    method, params = str(asked.get("method"))[:_METHOD_LENGTH], asked.get("params")
    try:
        return await questions.answer(method, params if isinstance(params, dict) else {})
    except AskFailed as failed:
        raise ToolFailed(
            f"the tool asks the client for more ({method}), in vain: {failed.message}",
            asked=method,
        ) from None
