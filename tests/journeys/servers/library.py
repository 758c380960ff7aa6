"""An MCP server of 2026 on the official SDK that has everything beside tools, under its own SCHEME.

    python library.py SCHEME

Its tools change what it has, and tell whoever listens: `add_book NAME`, `add_prompt NAME`,
`touch URI`. `log LEVEL TEXT` writes to the client's log, `exit` ends the process, `listeners` says
which resources are listened for.
"""

import asyncio
import json
import os
import sys
from typing import Any

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
)
from mcp.shared.exceptions import MCPError

Context = ServerRequestContext[Any, Any]

SCHEME = sys.argv[1]
books = ["first", "second"]
prompts = ["greet"]
heard: list[list[str]] = []
bus = InMemorySubscriptionBus()
listen = ListenHandler(bus)


async def list_resources(
    ctx: Context, params: types.PaginatedRequestParams | None
) -> types.ListResourcesResult:
    """List a book a page, since pages are easily forgotten."""
    at = int(params.cursor or 0) if params else 0
    resource = types.Resource(
        uri=f"{SCHEME}://{books[at]}",
        name=books[at],
        title=f"The {books[at]}",
        size=7,
        annotations=types.Annotations(audience=["user"], priority=0.5),
        _meta={"shelf": at},
    )
    more = str(at + 1) if at + 1 < len(books) else None
    return types.ListResourcesResult(resources=[resource], next_cursor=more)


async def list_templates(
    ctx: Context, params: types.PaginatedRequestParams | None
) -> types.ListResourceTemplatesResult:
    template = types.ResourceTemplate(uri_template=f"{SCHEME}://page/{{number}}", name="page")
    return types.ListResourceTemplatesResult(resource_templates=[template])


async def read_resource(
    ctx: Context, params: types.ReadResourceRequestParams
) -> types.ReadResourceResult:
    name = params.uri.removeprefix(f"{SCHEME}://")
    if name not in books and not name.startswith("page/"):
        raise MCPError(-32002, "no such book", {"uri": params.uri, "scheme": SCHEME})
    text = json.dumps({"read": name, "meta": dict(ctx.meta or {})})
    contents = types.TextResourceContents(uri=params.uri, text=text, _meta={"of": SCHEME})
    return types.ReadResourceResult(contents=[contents], _meta={"served": SCHEME})


async def list_prompts(
    ctx: Context, params: types.PaginatedRequestParams | None
) -> types.ListPromptsResult:
    return types.ListPromptsResult(prompts=[types.Prompt(name=name) for name in prompts])


async def get_prompt(ctx: Context, params: types.GetPromptRequestParams) -> types.GetPromptResult:
    said = f"{SCHEME} {params.name} {json.dumps(params.arguments)}"
    message = types.PromptMessage(role="user", content=types.TextContent(text=said))
    return types.GetPromptResult(messages=[message])


async def complete(ctx: Context, params: types.CompleteRequestParams) -> types.CompleteResult:
    of = params.ref.name if isinstance(params.ref, types.PromptReference) else params.ref.uri
    return types.CompleteResult(completion=types.Completion(values=[f"{SCHEME}:{of}"]))


async def list_tools(
    ctx: Context, params: types.PaginatedRequestParams | None
) -> types.ListToolsResult:
    schema = {"type": "object"}
    names = ["add_book", "add_prompt", "touch", "log", "exit", "listeners"]
    return types.ListToolsResult(
        tools=[types.Tool(name=name, input_schema=schema) for name in names]
    )


async def call_tool(ctx: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    arguments, text = params.arguments or {}, "done"
    match params.name:
        case "add_book":
            books.append(arguments["name"])
            await bus.publish(ResourcesListChanged())
        case "add_prompt":
            prompts.append(arguments["name"])
            await bus.publish(PromptsListChanged())
        case "touch":
            await bus.publish(ResourceUpdated(uri=arguments["uri"]))
        case "log":
            await ctx.session.send_log_message(arguments["level"], arguments["text"], "library")
        case "exit":
            os._exit(3)
        case "listeners":
            text = json.dumps(heard[-1])
    return types.CallToolResult(content=[types.TextContent(text=text)])


async def note_listener(
    ctx: Context, params: types.SubscriptionsListenRequestParams
) -> types.SubscriptionsListenResult:
    heard.append(params.notifications.resource_subscriptions or [])
    return await listen(ctx, params)


server: Server[Any] = Server(
    "library",
    on_list_tools=list_tools,
    on_call_tool=call_tool,
    on_list_resources=list_resources,
    on_list_resource_templates=list_templates,
    on_read_resource=read_resource,
    on_list_prompts=list_prompts,
    on_get_prompt=get_prompt,
    on_completion=complete,
    on_subscriptions_listen=note_listener,
)


async def main() -> None:
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


asyncio.run(main())
