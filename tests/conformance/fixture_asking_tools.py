"""The tools of the conformance suite that need something of their client before they are done."""

import json
from typing import Any

import mcp_types as types

from tests.conformance.fixture_questions import (
    Answers,
    Context,
    Questions,
    answers,
    can_answer,
    form,
    require_capability,
    sampling,
)

Params = types.CallToolRequestParams
Result = types.CallToolResult | types.InputRequiredResult

NAME = form("What is your name?", {"name": {"type": "string"}})
CONFIRMATION = form("Please confirm", {"ok": {"type": "boolean"}})
ROOTS = types.ListRootsRequest()
CAPITAL = sampling("What is the capital of France?")
GREETING = sampling("Generate a greeting", max_tokens=50)
DEFAULTS = {
    "name": {"type": "string", "default": "John Doe"},
    "age": {"type": "integer", "default": 30},
    "score": {"type": "number", "default": 95.5},
    "status": {
        "type": "string",
        "enum": ["active", "inactive", "pending"],
        "default": "active",
    },
    "verified": {"type": "boolean", "default": True},
}
OPTIONS = ["option1", "option2", "option3"]
TITLED_OPTIONS = [
    {"const": "value1", "title": "First Option"},
    {"const": "value2", "title": "Second Option"},
    {"const": "value3", "title": "Third Option"},
]
ENUMS = {
    "untitledSingle": {"type": "string", "enum": OPTIONS},
    "titledSingle": {"type": "string", "oneOf": TITLED_OPTIONS},
    "legacyEnum": {
        "type": "string",
        "enum": ["opt1", "opt2", "opt3"],
        "enumNames": ["Option One", "Option Two", "Option Three"],
    },
    "untitledMulti": {"type": "array", "items": {"type": "string", "enum": OPTIONS}},
    "titledMulti": {"type": "array", "items": {"anyOf": TITLED_OPTIONS}},
}


def says(text: str) -> types.CallToolResult:
    """Return a result that is one text."""
    return types.CallToolResult(content=[types.TextContent(text=text)])


def _in_words(answer: types.InputResponse) -> str:
    return json.dumps(answer.model_dump(mode="json", by_alias=True, exclude_none=True))


async def _told(
    context: Context,
    params: Params,
    prefix: str,
    questions: Questions,
    state: str | None = None,
) -> Result:
    """Ask, and say what the answers were."""
    given = await answers(context, params, questions, state)
    if isinstance(given, types.InputRequiredResult):
        return given
    return says(f"{prefix}: " + ", ".join(_in_words(answer) for answer in given.values()))


def _form_of(given: Answers, key: str) -> dict[str, Any]:
    answer = given[key]
    return dict(answer.content or {}) if isinstance(answer, types.ElicitResult) else {}


async def test_sampling(context: Context, params: Params) -> Result:
    """Ask the client's model what the caller says."""
    question = sampling(str((params.arguments or {}).get("prompt", "")))
    return await _told(context, params, "LLM response", {"reply": question})


async def test_elicitation(context: Context, params: Params) -> Result:
    """Ask the user for a name and an address."""
    question = form(
        str((params.arguments or {}).get("message", "")),
        {
            "username": {"type": "string", "description": "User's response"},
            "email": {"type": "string", "description": "User's email address"},
        },
    )
    return await _told(context, params, "User response", {"user": question})


async def test_elicitation_sep1034_defaults(context: Context, params: Params) -> Result:
    """Ask with a default for each primitive type."""
    question = form("Please review these values", DEFAULTS)
    return await _told(context, params, "Elicitation completed", {"values": question})


async def test_elicitation_sep1330_enums(context: Context, params: Params) -> Result:
    """Ask with each way to write a choice."""
    question = form("Please choose", ENUMS)
    return await _told(context, params, "Elicitation completed", {"choices": question})


async def test_missing_capability(context: Context, params: Params) -> Result:
    """Serve only clients that have declared sampling."""
    require_capability(context, CAPITAL)
    return says("The client has declared sampling.")


async def test_streaming_elicitation(context: Context, params: Params) -> Result:
    """Report progress, then ask."""
    await context.session.report_progress(1, 2, "about to ask")
    return await _told(context, params, "Streamed", {"user_name": NAME})


async def test_input_required_result_elicitation(context: Context, params: Params) -> Result:
    """Ask for a name, and greet."""
    given = await answers(context, params, {"user_name": NAME})
    if isinstance(given, types.InputRequiredResult):
        return given
    return says(f"Hello, {_form_of(given, 'user_name').get('name')}!")


async def test_input_required_result_sampling(context: Context, params: Params) -> Result:
    """Ask the client's model one thing."""
    return await _told(context, params, "The model says", {"capital_question": CAPITAL})


async def test_input_required_result_list_roots(context: Context, params: Params) -> Result:
    """Ask where the client works."""
    return await _told(context, params, "The roots are", {"client_roots": ROOTS})


async def test_input_required_result_request_state(context: Context, params: Params) -> Result:
    """Ask, and have one's own state brought back."""
    state = "asked-to-confirm"
    given = await answers(context, params, {"confirm": CONFIRMATION}, state)
    if isinstance(given, types.InputRequiredResult):
        return given
    return says("state-ok" if params.request_state == state else f"state: {params.request_state}")


async def test_input_required_result_multiple_inputs(context: Context, params: Params) -> Result:
    """Ask three things of three kinds at once."""
    questions: Questions = {"user_name": NAME, "greeting": GREETING, "client_roots": ROOTS}
    return await _told(context, params, "All answers", questions, "asked-three-things")


async def test_input_required_result_multi_round(context: Context, params: Params) -> Result:
    """Ask for a name and then for a colour; the state carries the first answer to the end."""
    name = form("Step 1: What is your name?", {"name": {"type": "string"}})
    color = form("Step 2: What is your favorite color?", {"color": {"type": "string"}})
    known = (params.request_state or "").removeprefix("name:")
    if not (params.request_state or "").startswith("name:"):
        given = await answers(context, params, {"step1": name}, "step1")
        if isinstance(given, types.InputRequiredResult):
            return given
        known = str(_form_of(given, "step1").get("name"))
    given = await answers(context, params, {"step2": color}, f"name:{known}")
    if isinstance(given, types.InputRequiredResult):
        return given
    return says(f"{known} likes {_form_of(given, 'step2').get('color')}")


async def test_input_required_result_tampered_state(context: Context, params: Params) -> Result:
    """Ask with a state that nobody may change: the server seals it, and refuses a broken seal."""
    return await _told(context, params, "Confirmed", {"confirm": CONFIRMATION}, "sealed")


async def test_input_required_result_capabilities(context: Context, params: Params) -> Result:
    """Ask only what the client has declared that it can answer."""
    questions: Questions = {"user_name": NAME, "capital_question": CAPITAL}
    within = {key: asked for key, asked in questions.items() if can_answer(context, asked)}
    return await _told(context, params, "Within your means", within)


ASKING_TOOLS = (
    test_elicitation_sep1034_defaults,
    test_elicitation_sep1330_enums,
    test_missing_capability,
    test_streaming_elicitation,
    test_input_required_result_elicitation,
    test_input_required_result_sampling,
    test_input_required_result_list_roots,
    test_input_required_result_request_state,
    test_input_required_result_multiple_inputs,
    test_input_required_result_multi_round,
    test_input_required_result_tampered_state,
    test_input_required_result_capabilities,
)
