"""An MCP server of 2026 on the official SDK, whose tools grow in number."""

from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("growing")


@server.tool()
async def grow(name: str, ctx: Context) -> str:
    """Add a tool and tell whoever subscribed."""
    server.add_tool(lambda: "grown", name=name)
    await ctx.notify_tools_changed()
    return "done"


server.run("stdio")
