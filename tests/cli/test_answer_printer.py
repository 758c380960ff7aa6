"""What people and pipes see of one call."""

from typing import Any

import msgspec
import pytest

from exai.cli.answer_printer import AnswerPrinter
from exai.client.answers import CallError, CallResult, Progress

Captured = pytest.CaptureFixture[str]


def answer(text: str = "", **fields: Any) -> CallResult:
    return CallResult(frame={"ok": True, "text": text}, accepted=True, ok=True, text=text, **fields)


def failure(error: CallError, text: str = "") -> CallResult:
    return CallResult(frame={}, accepted=True, ok=False, error=error, text=text)


def delta(text: str, offset: int, attempt: int = 1) -> Progress:
    return Progress(delta=text, offset=offset, attempt=attempt)


def shown(capsys: Captured, *said: Progress | CallResult, as_json: bool = False) -> tuple[str, str]:
    """Return what stands on stdout and on stderr after all this was said."""
    printer = AnswerPrinter(as_json=as_json)
    for one in said:
        if isinstance(one, Progress):
            printer.show_progress(one)
        else:
            printer.show_result(one)
    out, err = capsys.readouterr()
    return out, err


@pytest.mark.parametrize(("text", "out"), [("a", "a\n"), ("a\n", "a\n"), ("", "")])
def test_an_answer_ends_its_line(capsys: Captured, text: str, out: str) -> None:
    assert shown(capsys, answer(text)) == (out, "")


@pytest.mark.parametrize(
    "deltas",
    [
        [delta("ab", 0), delta("cd", 2)],
        [delta("ab", 0), delta("abcd", 0)],
        [delta("ab", 0), delta("bcd", 1)],
        [delta("ab", 0), delta("lost", 9)],
        [delta("abcde", 0)],
        [delta("", 0)],
        [],
    ],
)
def test_streamed_text_is_printed_once(capsys: Captured, deltas: list[Progress]) -> None:
    assert shown(capsys, *deltas, answer("abcde")) == ("abcde\n", "")


def test_offsets_count_characters_not_bytes(capsys: Captured) -> None:
    assert shown(capsys, delta("ä漢🙂", 0), delta("b", 3), answer("ä漢🙂bc")) == ("ä漢🙂bc\n", "")


def test_a_new_attempt_starts_over(capsys: Captured) -> None:
    out, err = shown(capsys, delta("wro", 0), delta("", 0, attempt=2), answer("right"))
    assert (out, err) == ("wroright\n", "attempt 2 begins anew:\n")


def test_an_answer_that_is_not_what_was_streamed_is_printed_whole(capsys: Captured) -> None:
    assert shown(capsys, delta("ab", 0), answer("xyz")) == ("ab\nxyz\n", "")


def test_progress_is_told_beside_the_answer(capsys: Captured) -> None:
    said: list[Progress | CallResult] = [
        Progress(message="reads", progress=1, total=4),
        Progress(message="thinks"),
        Progress(progress=2.5),
        Progress(),
        answer("done"),
    ]
    assert shown(capsys, *said) == ("done\n", "reads (1/4)\nthinks\n2.5\n")


def test_programs_get_the_frame_and_nothing_else_on_stdout(capsys: Captured) -> None:
    out, err = shown(capsys, delta("ab", 0), Progress(message="m"), answer("abc"), as_json=True)
    assert msgspec.json.decode(out) == {"ok": True, "text": "abc"}
    assert err == "m\n"


def test_an_answer_without_text_is_its_structure(capsys: Captured) -> None:
    assert shown(capsys, answer(structured={"n": 1})) == ('{"n": 1}\n', "")
    assert shown(capsys, answer("one", structured={"n": 1})) == ("one\n", "")


def test_what_is_no_text_is_named(capsys: Captured) -> None:
    outputs = [
        {"type": "text", "text": "see"},
        {"type": "image", "mimeType": "image/png", "data": "AA=="},
        {"type": "resource", "resource": {"uri": "test://a", "text": "x"}},
        {"type": "resource_link", "uri": "test://b"},
    ]
    out, err = shown(capsys, answer("see", outputs=outputs))
    assert out == "see\n"
    assert err.splitlines() == [
        "(image image/png; -o json shows it)",
        "(resource test://a; -o json shows it)",
        "(resource_link test://b; -o json shows it)",
    ]


def test_a_failure_says_why_where_and_whether_to_try_again(capsys: Captured) -> None:
    error = CallError("OVER_CAPACITY", "full \x1b[31m", True, 1.5, {"path": "/text"})
    assert shown(capsys, failure(error)) == (
        "",
        "exai: OVER_CAPACITY: full \\x1b[31m\n  at /text\n  it may be tried again in 1.5 s\n",
    )


def test_what_a_failed_tool_said_is_not_said_twice(capsys: Captured) -> None:
    error = CallError("TOOL_EXECUTION_ERROR", "it broke")
    assert shown(capsys, failure(error, "it broke"))[1] == "exai: TOOL_EXECUTION_ERROR: it broke\n"
    assert shown(capsys, failure(error, "more"))[1] == (
        "more\nexai: TOOL_EXECUTION_ERROR: it broke\n"
    )


def test_a_failure_without_a_reason_is_said_so(capsys: Captured) -> None:
    nameless = CallResult(frame={}, accepted=True, ok=False)
    assert shown(capsys, nameless)[1] == "exai: the call failed, and the daemon does not say why\n"
