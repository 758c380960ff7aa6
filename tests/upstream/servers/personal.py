"""An MCP server on the official SDK that keeps state, and asks its client for things.

It speaks both eras; with `--legacy` only the handshake of before 2026. Its tools: `count`,
`pid`, `wait`, `exit`, `ask` (what its `method` and `params` say; `rounds` times where it has to
answer instead of asking), `capabilities` (of the client, as it sees them), `grow`.
"""

import asyncio
import json
import os
import sys
from typing import Any

import mcp_types as types
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.runner import serve_loop
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import TypeAdapter

LEGACY = "--legacy" in sys.argv
REQUEST: TypeAdapter[Any] = TypeAdapter(
    types.ElicitRequest | types.CreateMessageRequest | types.ListRootsRequest
)
RESULTS: dict[str, Any] = {
    "elicitation/create": types.ElicitResult,
    "sampling/createMessage": types.CreateMessageResult,
    "roots/list": types.ListRootsResult,
}
tool_names = ["count", "pid", "wait", "exit", "ask", "capabilities", "grow"]
counted = 0


def said(text: Any) -> types.CallToolResult:
    text = text if isinstance(text, str) else json.dumps(text)
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)])


async def list_tools(ctx: Any, params: Any) -> types.ListToolsResult:
    schema = {"type": "object"}
    return types.ListToolsResult(
        tools=[
            types.Tool(
                name=name,
                input_schema=schema,
                annotations=types.ToolAnnotations(read_only_hint=name == "pid"),
            )
            for name in tool_names
        ]
    )


async def call_tool(ctx: Any, params: types.CallToolRequestParams) -> Any:
    global counted
    arguments = params.arguments or {}
    match params.name:
        case "count":
            counted += 1
            return said(str(counted))
        case "pid":
            return said(str(os.getpid()))
        case "wait":
            await asyncio.sleep(600)
        case "exit":
            os._exit(int(arguments.get("status", 1)))
        case "capabilities":
            declared = ctx.session.client_capabilities
            return said(declared.model_dump_json(by_alias=True, exclude_none=True))
        case "grow":
            tool_names.append(arguments["name"])
            await ctx.session.send_tool_list_changed()
            return said("grown")
        case "ask" if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
            return ask_by_answering(arguments, params)
        case "ask":
            return await ask(ctx, arguments)
    return said("done")


async def ask(ctx: Any, arguments: dict[str, Any]) -> types.CallToolResult:
    request = REQUEST.validate_python(arguments)
    try:
        answer = await ctx.session.send_request(request, RESULTS[arguments["method"]])
    except MCPError as error:
        return said({"code": error.error.code, "message": error.error.message})
    return said(answer.model_dump(by_alias=True, mode="json", exclude_none=True))


def ask_by_answering(arguments: dict[str, Any], params: types.CallToolRequestParams) -> Any:
    state = json.loads(params.request_state) if params.request_state else []
    if params.input_responses or params.request_state:
        responses = params.input_responses or {}
        state.append(
            {
                key: answer.model_dump(by_alias=True, mode="json", exclude_none=True)
                for key, answer in responses.items()
            }
        )
    if len(state) == arguments.get("rounds", 1):
        return said(state)
    requests = [{"method": arguments["method"], "params": arguments.get("params")}]
    if arguments["method"] == "nothing":
        requests = []
    return types.InputRequiredResult(
        input_requests={f"q{n}": REQUEST.validate_python(each) for n, each in enumerate(requests)},
        request_state=json.dumps(state),
    )


async def main() -> None:
    server: Server[Any] = Server("personal", on_list_tools=list_tools, on_call_tool=call_tool)
    options = server.create_initialization_options(NotificationOptions(tools_changed=True))
    async with stdio_server() as (read_stream, write_stream):
        if not LEGACY:
            await server.run(read_stream, write_stream, options)
            return
        async with server.lifespan(server) as state:
            await serve_loop(
                server, read_stream, write_stream, lifespan_state=state, init_options=options
            )


asyncio.run(main())
