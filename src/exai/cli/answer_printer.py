"""How one call is shown: its progress, its streamed text, and its one answer.

Knows what goes to stdout and what to stderr; knows nothing of connections.
"""

import sys
from typing import Any

from exai.cli.terminal import complain, is_terminal, say, write, write_json
from exai.client.answers import CallResult, Progress


class AnswerPrinter:
    """Prints one call: streamed text once, as it comes, and then what is left of the answer."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._attempt = 1
        self._streamed: list[str] = []
        self._streamed_length = 0

    def show_progress(self, progress: Progress) -> None:
        """Show what a running call says."""
        if progress.delta is not None and not self._as_json:
            self._stream(progress)
        if line := _progress_line(progress):
            self._end_line()
            say(line)

    def _stream(self, progress: Progress) -> None:
        if progress.attempt != self._attempt:
            self._end_line()
            say(f"attempt {progress.attempt} begins anew:")
            self._attempt, self._streamed, self._streamed_length = progress.attempt, [], 0
        known = self._streamed_length - progress.offset
        if known >= 0 and (fresh := (progress.delta or "")[known:]):
            write(fresh)
            self._streamed.append(fresh)
            self._streamed_length += len(fresh)

    def _end_line(self) -> None:
        """Keep what people are told off the line of an unfinished answer on a terminal."""
        if self._streamed and not self._streamed[-1].endswith("\n") and is_terminal(sys.stdout):
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
        text, streamed = result.text, "".join(self._streamed)
        if not text and result.structured is not None:
            write_json(result.structured)
        elif text.startswith(streamed):
            write(_with_line_end(text)[len(streamed) :])
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
