"""All tools of the conformance suite's server, by the names that its scenarios look for."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import mcp_types as types
from mcp.server.subscriptions import PromptsListChanged, SubscriptionBus, ToolsListChanged
from mcp.shared.exceptions import MCPError

from tests.conformance.fixture_asking_tools import (
    ASKING_TOOLS,
    Params,
    Result,
    says,
    test_elicitation,
    test_sampling,
)
from tests.conformance.fixture_media import PNG_BASE64, WAV_BASE64
from tests.conformance.fixture_questions import Context, is_modern

Run = Callable[[Context, Params], Awaitable[Result]]

STEP_S = 0.05
DIALECT = "https://json-schema.org/draft/2020-12/schema"
ALL_KEYWORDS = {
    "$schema": DIALECT,
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


class FixtureTool(NamedTuple):
    """A tool, and what it does."""

    run: Run
    input_schema: dict[str, Any]


def _one_text(**argument: dict[str, str]) -> dict[str, Any]:
    return {"type": "object", "properties": argument, "required": list(argument)}


def _resource(uri: str, mime_type: str, text: str) -> types.EmbeddedResource:
    contents = types.TextResourceContents(uri=uri, mime_type=mime_type, text=text)
    return types.EmbeddedResource(resource=contents)


async def test_simple_text(context: Context, params: Params) -> Result:
    """Return one text."""
    return says("This is a simple text response for testing.")


async def test_image_content(context: Context, params: Params) -> Result:
    """Return a picture."""
    return types.CallToolResult(
        content=[types.ImageContent(data=PNG_BASE64, mime_type="image/png")]
    )


async def test_audio_content(context: Context, params: Params) -> Result:
    """Return a sound."""
    return types.CallToolResult(
        content=[types.AudioContent(data=WAV_BASE64, mime_type="audio/wav")]
    )


async def test_embedded_resource(context: Context, params: Params) -> Result:
    """Return a resource."""
    resource = _resource(
        "test://embedded-resource", "text/plain", "This is an embedded resource content."
    )
    return types.CallToolResult(content=[resource])


async def test_multiple_content_types(context: Context, params: Params) -> Result:
    """Return a text, a picture and a resource."""
    return types.CallToolResult(
        content=[
            types.TextContent(text="Multiple content types test:"),
            types.ImageContent(data=PNG_BASE64, mime_type="image/png"),
            _resource(
                "test://mixed-content-resource",
                "application/json",
                '{"test":"data","value":123}',
            ),
        ]
    )


async def _log(context: Context, text: str) -> None:
    await context.session.send_log_message(
        "info", text, logger="everything", related_request_id=context.request_id
    )


async def test_tool_with_logging(context: Context, params: Params) -> Result:
    """Say in the log how it goes, three times."""
    await _log(context, "Tool execution started")
    await asyncio.sleep(STEP_S)
    await _log(context, "Tool processing data")
    await asyncio.sleep(STEP_S)
    await _log(context, "Tool execution completed")
    return says("Tool with logging executed successfully")


async def test_logging_tool(context: Context, params: Params) -> Result:
    """Say one thing in the log, which only who has asked for it may be told."""
    await _log(context, "Tool executed")
    return says("Logged, for whoever has asked for it")


async def test_tool_with_progress(context: Context, params: Params) -> Result:
    """Report progress three times."""
    for progress in (0, 50, 100):
        await context.session.report_progress(progress, 100, f"Completed step {progress} of 100")
        await asyncio.sleep(STEP_S)
    return says("Tool with progress executed successfully")


async def test_error_handling(context: Context, params: Params) -> Result:
    """Fail, always."""
    text = types.TextContent(text="This tool intentionally returns an error for testing")
    return types.CallToolResult(content=[text], is_error=True)


async def test_reconnection(context: Context, params: Params) -> Result:
    """Have the stream closed in the middle of the call; whoever comes back gets the answer."""
    if context.close_sse_stream is not None:
        await context.close_sse_stream()
        await asyncio.sleep(2 * STEP_S)
    return says("Reconnection test completed successfully")


async def test_x_mcp_header(context: Context, params: Params) -> Result:
    """Return the region, which a client of 2026-07-28 also sends as a header."""
    return says(f"Region: {(params.arguments or {}).get('region')}")


async def json_schema_2020_12_tool(context: Context, params: Params) -> Result:
    """Take arguments whose schema uses what JSON Schema 2020-12 brought."""
    return says(f"Arguments: {params.arguments}")


class FixtureTools:
    """The tools there are at the moment, and what they do."""

    def __init__(self, bus: SubscriptionBus) -> None:
        self._bus = bus
        self._cancelled = asyncio.Event()
        self.has_added_prompt = False
        self._tools = dict(
            _without_arguments(run)
            for run in (
                test_simple_text,
                test_image_content,
                test_audio_content,
                test_embedded_resource,
                test_multiple_content_types,
                test_tool_with_logging,
                test_logging_tool,
                test_tool_with_progress,
                test_error_handling,
                test_reconnection,
                self.wait_for_cancellation,
                self.return_after_cancellation,
                self.test_trigger_tool_change,
                self.test_trigger_prompt_change,
                *ASKING_TOOLS,
            )
        )
        prompt = {"type": "string", "description": "The prompt to send to the LLM"}
        message = {"type": "string", "description": "The message to show the user"}
        region = {"type": "string", "x-mcp-header": "Region"}
        self._tools |= {
            "test_sampling": FixtureTool(test_sampling, _one_text(prompt=prompt)),
            "test_elicitation": FixtureTool(test_elicitation, _one_text(message=message)),
            "test_x_mcp_header": FixtureTool(test_x_mcp_header, _one_text(region=region)),
            "json_schema_2020_12_tool": FixtureTool(json_schema_2020_12_tool, ALL_KEYWORDS),
        }

    async def list(
        self, context: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        """Return all tools."""
        return types.ListToolsResult(
            tools=[
                types.Tool(
                    name=name,
                    description=(tool.run.__doc__ or "").strip(),
                    input_schema=tool.input_schema,
                )
                for name, tool in self._tools.items()
            ]
        )

    async def call(self, context: Context, params: Params) -> Result:
        """Run one tool."""
        tool = self._tools.get(params.name)
        if tool is None:
            raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name}")
        return await tool.run(context, params)

    async def wait_for_cancellation(self, context: Context, params: Params) -> Result:
        """Report that it has begun, and never end by itself."""
        await context.session.report_progress(1, None, "waiting")
        try:
            await asyncio.Event().wait()
        finally:
            self._cancelled.set()
        return says("Nobody ends this")

    async def return_after_cancellation(self, context: Context, params: Params) -> Result:
        """Return when a call of `wait_for_cancellation` has been cancelled."""
        await self._cancelled.wait()
        return says("It was cancelled")

    async def test_trigger_tool_change(self, context: Context, params: Params) -> Result:
        """Add a tool or, if it is there, take it away; and say that the tools have changed."""
        name, tool = _without_arguments(added_tool)
        if self._tools.pop(name, None) is None:
            self._tools[name] = tool
        await self._bus.publish(ToolsListChanged())
        if not is_modern(context):
            await context.session.send_tool_list_changed()
        return says("The tools have changed")

    async def test_trigger_prompt_change(self, context: Context, params: Params) -> Result:
        """Add a prompt or, if it is there, take it away; and say that the prompts have changed."""
        self.has_added_prompt = not self.has_added_prompt
        await self._bus.publish(PromptsListChanged())
        if not is_modern(context):
            await context.session.send_prompt_list_changed()
        return says("The prompts have changed")


async def added_tool(context: Context, params: Params) -> Result:
    """Say that it has been added."""
    return says("I was added")


def _without_arguments(run: Run) -> tuple[str, FixtureTool]:
    return run.__name__, FixtureTool(run, {"type": "object", "properties": {}})
