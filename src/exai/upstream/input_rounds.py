"""A call whose server asks for more before it can answer, done in rounds inside the call.

MCP of 2026 has no requests of a server: it answers `input_required`, and is called again with
what the client said. Knows the rounds; knows nothing of who is asked, nor how a server is.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from exai.core.client_side import AskFailed
from exai.core.errors import ToolFailed, UpstreamFailed
from exai.core.outcomes import Completed
from exai.core.tool import ToolRun
from exai.upstream.client_questions import ClientQuestions
from exai.upstream.handshake import CAPABILITIES_META

_MAX_ROUNDS = 10
_MAX_REQUESTS = 16
_METHOD_LENGTH = 40
_PAUSES_S = (0.05, 0.1, 0.2)

CallOnce = Callable[[dict[str, Any]], Awaitable[Completed]]
"""Calls with this input: `inputResponses` and `requestState`."""


async def call_in_rounds(
    call_once: CallOnce, run: ToolRun, questions: ClientQuestions, upstream: str
) -> Completed:
    """Call, and again for as long as the server asks for more; a caller of 2026 does it itself.

    Raises what `call_once` raises; `ToolFailed` where the client does not say what is asked,
    `UpstreamFailed` where it cannot be asked, or not so often.
    """
    completed = await call_once(run.input)
    if CAPABILITIES_META in run.meta:
        return completed
    for pause_s in (*_PAUSES_S, *(_PAUSES_S[-1],) * (_MAX_ROUNDS - len(_PAUSES_S))):
        if completed.input_required is None:
            return completed
        completed = await call_once(
            await _input_for(completed.input_required, questions, upstream, pause_s)
        )
    if completed.input_required is None:
        return completed
    raise UpstreamFailed(f"{upstream} asked for more {_MAX_ROUNDS} times, and had no end")


async def _input_for(
    required: dict[str, Any], questions: ClientQuestions, upstream: str, pause_s: float
) -> dict[str, Any]:
    requests, state = required.get("inputRequests") or {}, required.get("requestState")
    given = {} if state is None else {"requestState": state}
    if not requests:
        await asyncio.sleep(pause_s)  # it only wants to be called again
        return given
    if not isinstance(requests, dict) or len(requests) > _MAX_REQUESTS:
        raise UpstreamFailed(f"{upstream} broke the protocol: what it asks for cannot be read")
    return {"inputResponses": await _answers(requests, questions), **given}


async def _answers(requests: dict[str, Any], questions: ClientQuestions) -> dict[str, Any]:
    """Ask the client everything at once; the first that it does not answer ends the call."""
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
