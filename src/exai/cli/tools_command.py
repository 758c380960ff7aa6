"""`exai tools`: what can be called, and with which arguments."""

from typing import Any

from exai.cli.config_file import CommandLine
from exai.cli.daemon_session import run_in_session
from exai.cli.exit_codes import ExitCode
from exai.cli.terminal import write, write_json
from exai.client.daemon_client import DaemonClient


def run_tools(
    command_line: CommandLine, url: str | None, principal: str | None, *, as_json: bool
) -> ExitCode:
    """List the tools that this identity may use."""

    async def work(client: DaemonClient) -> ExitCode:
        tools = await client.list_tools()
        if as_json:
            write_json(tools)
        else:
            write("".join(_lines(tool) for tool in tools))
        return ExitCode.OK

    return run_in_session(command_line, url, principal, work)


def _lines(tool: dict[str, Any]) -> str:
    """Write a tool as it is called: `chat prompt= [model=]`, and what it does."""
    name, description = str(tool.get("name")), str(tool.get("description") or "").strip()
    call = " ".join([name, *_arguments(tool.get("inputSchema"))])
    return (
        f"{call}\n    {summary}\n" if (summary := description.partition("\n")[0]) else f"{call}\n"
    )


def _arguments(schema: Any) -> list[str]:
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict):
        return []
    required = schema.get("required")
    needed = set(required) if isinstance(required, list) else set()
    return [f"{name}=" if name in needed else f"[{name}=]" for name in properties]
