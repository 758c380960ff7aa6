"""`exai call`: one call, its progress as it comes, its answer to stdout."""

import sys
from typing import Any

import msgspec

from exai.cli.call_arguments import ArgumentsUnreadable, CallArguments, read_object
from exai.cli.config_file import CommandLine
from exai.cli.daemon_session import run_in_session
from exai.cli.exit_codes import ExitCode
from exai.cli.terminal import complain, is_terminal, say, write, write_json
from exai.client.daemon_client import CallResult, DaemonClient, Progress


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


class AnswerPrinter:
    """Prints one call: streamed text once, as it comes, and then what is left of the answer."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._attempt = 1
        self._streamed = ""

    def show_progress(self, progress: Progress) -> None:
        """Show what a running call says."""
        if progress.delta and not self._as_json:
            self._stream(progress)
        if line := _progress_line(progress):
            self._end_line()
            say(line)

    def _stream(self, progress: Progress) -> None:
        if progress.attempt != self._attempt:
            self._end_line()
            say(f"attempt {progress.attempt} begins anew:")
            self._attempt, self._streamed = progress.attempt, ""
        known = len(self._streamed) - progress.offset
        if known >= 0 and (fresh := (progress.delta or "")[known:]):
            write(fresh)
            self._streamed += fresh

    def _end_line(self) -> None:
        """Keep what people are told off the line of an unfinished answer on a terminal."""
        if self._streamed and not self._streamed.endswith("\n") and is_terminal(sys.stdout):
            say("")

    def show_result(self, result: CallResult) -> None:
        """Show the answer, or why there is none."""
        if self._as_json:
            write_json(result.frame)
        elif result.ok:
            self._show_success(result)
        else:
            self._end_line()
            _show_failure(result)

    def _show_success(self, result: CallResult) -> None:
        text = result.text
        if not text and result.structured is not None:
            write_json(result.structured)
        elif text.startswith(self._streamed):
            write(_with_line_end(text)[len(self._streamed) :])
        else:
            write("\n" + _with_line_end(text))
        for block in result.outputs:
            if block.get("type") != "text":
                say(f"({_block_in_words(block)}; -o json shows it)")


def _with_line_end(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


def _progress_line(progress: Progress) -> str:
    count = "" if progress.progress is None else f"{progress.progress:g}"
    if count and progress.total is not None:
        count += f"/{progress.total:g}"
    if progress.message and count:
        return f"{progress.message} ({count})"
    return progress.message or count


def _block_in_words(block: dict[str, Any]) -> str:
    resource = block.get("resource")
    about = block if not isinstance(resource, dict) else resource
    details = (block.get("type"), about.get("mimeType"), about.get("uri"))
    return " ".join(str(detail) for detail in details if detail)


def _show_failure(result: CallResult) -> None:
    error = result.error
    if error is None:
        complain("the call failed, and the daemon does not say why")
        return
    if result.text and result.text not in error.message:
        say(result.text)
    complain(f"{error.code}: {error.message}")
    if error.details.get("path"):
        say(f"  at {error.details['path']}")
    if error.retryable:
        when = f" in {error.retry_after_s:g} s" if error.retry_after_s is not None else ""
        say(f"  it may be tried again{when}")
