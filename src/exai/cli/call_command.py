"""`exai call`: one call, its progress as it comes, its answer to stdout."""

import sys
from typing import Any

import msgspec

from exai.cli.answer_printer import AnswerPrinter
from exai.cli.call_arguments import ArgumentsUnreadable, CallArguments, read_object
from exai.cli.config_file import CommandLine
from exai.cli.daemon_session import run_in_session
from exai.cli.exit_codes import ExitCode
from exai.cli.terminal import complain
from exai.client.answers import CallResult
from exai.client.daemon_client import DaemonClient


class CallOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be called, as written."""

    tool: str
    pairs: list[str]
    json_text: str | None
    timeout_s: float | None
    as_json: bool


def run_call(
    order: CallOrder, command_line: CommandLine, url: str | None, principal: str | None
) -> ExitCode:
    """Call the tool and print what it answers."""
    try:
        arguments = _written_arguments(order)
    except ArgumentsUnreadable as wrong:
        complain(str(wrong))
        return ExitCode.USAGE

    async def work(client: DaemonClient) -> ExitCode:
        schema = await _schema(client, order.tool) if arguments.texts else {}
        answer = AnswerPrinter(as_json=order.as_json)
        result = await client.call(
            order.tool,
            arguments.read_by(schema),
            timeout_s=order.timeout_s,
            on_progress=answer.show_progress,
        )
        answer.show_result(result)
        return _exit_code(result)

    return run_in_session(command_line, url, principal, work)


def _written_arguments(order: CallOrder) -> CallArguments:
    if order.timeout_s is not None and not order.timeout_s > 0:
        raise ArgumentsUnreadable("--timeout: expected a number of seconds, more than 0")
    if order.json_text is None:
        return CallArguments(order.pairs)
    if order.pairs:
        raise ArgumentsUnreadable("give the arguments as key=value or as --json, not as both")
    arguments = CallArguments([])
    arguments.values = read_object(sys.stdin.read() if order.json_text == "-" else order.json_text)
    return arguments


async def _schema(client: DaemonClient, name: str) -> dict[str, Any]:
    for tool in await client.list_tools():
        if tool.get("name") == name and isinstance(tool.get("inputSchema"), dict):
            schema: dict[str, Any] = tool["inputSchema"]
            return schema
    return {}


def _exit_code(result: CallResult) -> ExitCode:
    if result.ok:
        return ExitCode.OK
    return ExitCode.CALL_FAILED if result.accepted else ExitCode.REFUSED
