"""The log: what happened, one line each, whatever the peers and the terminal do."""

import errno
import json
import logging
import os
import pty
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest

from exai.core import events
from exai.core.clock import Clock
from exai.core.events import Event
from exai.observe.line_writer import LineWriter
from exai.observe.log_lines import LogLines
from exai.observe.logs import FACTS, LibraryHandler, configure_logging

DOCUMENT = (Path(__file__).parents[2] / "docs/logs.md").read_text("utf-8")
OPENED = events.SessionOpened("s1", "default", "127.0.0.1", "my agent")


class StoppedClock(Clock):
    def wall_s(self) -> float:
        return 1_760_000_000.25

    def monotonic_s(self) -> float:
        return 0.0


IN_JSON = LogLines(StoppedClock(), for_people=False)
IN_WORDS = LogLines(StoppedClock(), for_people=True)
IN_COLORS = LogLines(StoppedClock(), for_people=True, colors=True)


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __int__ = __str__


class LogFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.stream: TextIO = path.open("w", encoding="utf-8")

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[LogFile]:
    log = LogFile(tmp_path / "log")
    yield log
    log.stream.close()


def test_an_event_is_one_line_of_json(log_file: LogFile) -> None:
    with configure_logging("info", log_file.stream, StoppedClock()) as sink:
        sink.emit(OPENED)
    assert log_file.lines() == [
        {
            "time": "2025-10-09T08:53:20.250Z",
            "level": "info",
            "event": "connections.session_opened",
            "session_id": "s1",
            "principal": "default",
            "remote_address": "127.0.0.1",
            "client_name": "my agent",
        }
    ]


def test_every_event_has_a_name_of_its_own_in_the_room_that_emits_it() -> None:
    assert set(FACTS) == set(Event.__subclasses__())
    names = [fact.name for fact in FACTS.values()]
    assert len(names) == len(set(names))
    rooms = {path.name for path in Path(events.__file__).parents[1].iterdir() if path.is_dir()}
    for name in names:
        room, _, fact = name.partition(".")
        assert room in rooms | {"daemon"}
        assert re.fullmatch(r"[a-z_]+", fact)


def test_no_field_hides_what_every_line_has() -> None:
    for event in FACTS:
        assert not {"time", "level", "event", "exc_info"} & set(event.__struct_fields__)


def test_every_fact_stands_in_the_document_with_its_level_and_fields() -> None:
    facts = {
        fact.name: (logging.getLevelName(fact.level).lower(), event.__struct_fields__)
        for event, fact in FACTS.items()
    } | {"observe.lines_lost": ("warning", ("count",))}
    rows = re.findall(r"^\| `([\w.]+)` \| (\w+) \| (.*?) \| .+ \|$", DOCUMENT, re.M)
    assert len(rows) == len(facts)
    assert facts == {
        name: (level, tuple(re.findall(r"`(\w+)`", fields))) for name, level, fields in rows
    }


def test_what_is_below_the_level_is_not_written(log_file: LogFile) -> None:
    with configure_logging("warning", log_file.stream) as sink:
        sink.emit(OPENED)
        sink.emit(events.ConnectionRefused("192.0.2.1", "unauthorized"))
    assert [line["event"] for line in log_file.lines()] == ["connections.refused"]


def test_calls_are_written_only_on_request(log_file: LogFile) -> None:
    accepted = events.CallAccepted("c1", "r1", "s1", "default", "echo")
    with configure_logging("info", log_file.stream) as sink:
        sink.emit(accepted)
    with configure_logging("debug", log_file.stream) as sink:
        sink.emit(accepted)
    (line,) = log_file.lines()
    assert (line["event"], line["call_id"], line["request_id"]) == ("calls.accepted", "c1", "r1")


def test_an_unknown_event_is_written_all_the_same(log_file: LogFile) -> None:
    with configure_logging("info", log_file.stream) as sink:
        sink.emit(Event())
    assert log_file.lines()[0]["event"] == "unnamed.Event"


def test_a_defect_is_told_by_where_it_came_from_and_not_by_what_it_says(
    log_file: LogFile,
) -> None:
    def blunder() -> None:
        try:
            int("a secret")
        except ValueError as quoted:
            raise FileNotFoundError(errno.ENOENT, "no such file", "a-secret.txt") from quoted

    with configure_logging("info", log_file.stream) as sink:
        sink.emit(events.CallFailedInside("e1", "echo", caught(blunder)))
    (line,) = log_file.lines()
    assert (line["level"], line["error_id"]) == ("error", "e1")
    assert re.findall(r"^\S.*", line["exception"], re.M) == [
        "ValueError",
        "FileNotFoundError ENOENT",
    ]
    assert 'int("a secret")' in line["exception"]  # our own source, which is no secret
    assert "a secret'" not in line["exception"]
    assert "a-secret.txt'" not in line["exception"]


def test_an_exception_of_many_is_told_with_all_of_them(log_file: LogFile) -> None:
    def blunder() -> None:
        raise ExceptionGroup("quoted", [caught(lambda: 1 // 0), caught(lambda: [][0])])

    with configure_logging("info", log_file.stream) as sink:
        sink.emit(events.CallFailedInside("e1", "echo", caught(blunder)))
    told = log_file.lines()[0]["exception"]
    assert re.findall(r"^\S.*", told, re.M) == ["ZeroDivisionError", "IndexError", "ExceptionGroup"]
    assert "lambda: 1 // 0" in told


def test_exceptions_without_end_are_told_in_a_bounded_line() -> None:
    deep = itself = ValueError()
    itself.__cause__ = itself
    for _ in range(2000):
        deep = later_than(deep)
    for exception in (itself, deep):
        assert 0 < len(IN_JSON.line(logging.ERROR, "x", exc_info=exception)) < 1_000


def test_of_a_long_traceback_the_end_is_told() -> None:
    def dive(depth: int) -> int:
        return 1 // 0 if depth == 0 else dive(depth - 1) + len("a long line " + "of source" * depth)

    line = IN_JSON.line(logging.ERROR, "x", exc_info=caught(lambda: dive(300)))
    assert len(line) < 25_000
    assert json.loads(line)["exception"].endswith("ZeroDivisionError")


def test_an_exception_that_cannot_be_shown_does_no_harm(log_file: LogFile) -> None:
    with configure_logging("info", log_file.stream) as sink:
        sink.emit(events.CallFailedInside("e1", "here", Unspeakable()))
    assert "Unspeakable" in log_file.lines()[0]["exception"]


@pytest.mark.parametrize(
    "evil",
    [
        "\x1b[2J\x1b]0;owned\x07",
        "\x9b2J",
        "a\rb\x00c\x7f",
        "user\u202egnp.exe",
        "line\u2028break",
        "\ud800 lone",
    ],
)
def test_foreign_text_cannot_move_the_cursor(evil: str) -> None:
    facts = {"line": evil, "exc_info": ValueError(evil)}
    for lines in (IN_JSON, IN_WORDS):
        written = lines.line(logging.INFO, "upstream.spoke", **facts).decode()
        assert not set(evil) - set("[]2J0;ownedabcusergnp.xlinebreak ") & set(written)
    assert "\\" in json.loads(IN_JSON.line(logging.INFO, "upstream.spoke", **facts))["line"]


@pytest.mark.parametrize("lines", [IN_JSON, IN_WORDS, IN_COLORS])
def test_foreign_text_cannot_fake_a_second_line(lines: LogLines) -> None:
    line = lines.line(logging.INFO, "upstream.spoke", line="one\n12:00:00Z info faked")
    assert line.count(b"\n") == 0


@pytest.mark.parametrize("lines", [IN_JSON, IN_WORDS])
def test_a_long_text_is_cut(lines: LogLines) -> None:
    assert len(lines.line(logging.INFO, "upstream.spoke", line="x" * 1_000_000)) < 10_000


def test_what_is_not_known_is_left_out() -> None:
    line = json.loads(IN_JSON.line(logging.INFO, "calls.settled", shared=None, run_s=0.1 + 0.2))
    assert "shared" not in line
    assert line["run_s"] == 0.3


def test_a_person_reads_words() -> None:
    line = IN_WORDS.line(logging.INFO, "calls.settled", tool="a b", run_s=0.25, code="ok")
    assert line == (
        b"08:53:20Z [info     ] calls.settled                tool='a b' run_s=0.25 code=ok"
    )


@pytest.mark.parametrize("colors", [True, False])
def test_a_terminal_gets_words_and_all_else_json(colors: bool) -> None:
    master, slave = pty.openpty()
    with (
        os.fdopen(slave, "w") as terminal,
        configure_logging("info", terminal, colors=colors) as sink,
    ):
        sink.emit(OPENED)
    shown = os.read(master, 65_536)
    os.close(master)
    assert (b"\x1b[" in shown) == colors
    plain = re.sub(rb"\x1b\[\d+m", b"", shown)
    assert b"connections.session_opened   session_id=s1 principal=default" in plain


def test_warnings_of_libraries_stand_in_the_same_log(log_file: LogFile) -> None:
    with configure_logging("info", log_file.stream):
        logging.getLogger("asyncio").warning("slow: %s", "callback")
        logging.getLogger("httpx").info("chatter")
        logging.getLogger("exai.transports.picows").error("broke", exc_info=caught(lambda: [][0]))
        logging.getLogger("asyncio").error("unheard\nfuture: <Task result='a secret'>")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("old", DeprecationWarning, stacklevel=1)
    lines = log_file.lines()
    assert [line["event"] for line in lines] == [
        "library.asyncio",
        "transports.picows",
        "library.asyncio",
        "library.py.warnings",
    ]
    assert lines[0]["message"] == "slow: callback"
    assert "IndexError" in lines[1]["exception"]
    assert "message" not in lines[1]
    assert lines[2]["message"] == "unheard"


@pytest.mark.parametrize("argument", ["no number", Unspeakable()])
def test_a_library_whose_words_do_not_fit_its_format_is_heard_all_the_same(
    log_file: LogFile, argument: object
) -> None:
    writer = LineWriter(log_file.stream.fileno(), lost)
    record = logging.LogRecord("odd", logging.ERROR, "", 0, "%d apples", (argument,), None)
    LibraryHandler(writer, IN_JSON).handle(record)
    writer.close()
    assert [line["message"] for line in log_file.lines()] == ["%d apples"]


def test_logging_is_left_as_it_was_found(log_file: LogFile) -> None:
    before = list(logging.getLogger().handlers)
    with configure_logging("info", log_file.stream):
        assert logging.getLogger().handlers != before
    assert logging.getLogger().handlers == before


# The writer


def test_a_reader_that_stops_reading_stops_nobody_and_is_told_what_it_missed() -> None:
    read_end, write_end = os.pipe()
    writer = LineWriter(write_end, lost, max_waiting_bytes=1_000_000)
    for _ in range(1000):
        writer.write(b"x" * 10_000)
    writer.close(patience_s=0.05)  # returns, though nobody reads
    seen_count = lost_count = 0
    with os.fdopen(read_end, "rb") as pipe:
        while seen_count + lost_count < 1000:
            line = pipe.readline()
            if line.startswith(b"lost"):
                lost_count += int(line.split()[1])
            else:
                seen_count += 1
    writer.close(patience_s=5.0)
    os.close(write_end)
    assert seen_count <= 250


def test_a_terminal_that_somebody_made_non_blocking_gets_every_line() -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    writer = LineWriter(write_end, lost)
    for number in range(500):
        writer.write(b"%d " % number + b"x" * 1000)
    received: list[bytes] = []

    def read() -> None:
        with os.fdopen(read_end, "rb") as pipe:
            received.extend(pipe.readlines())

    reader = threading.Thread(target=read)
    reader.start()
    writer.close(patience_s=5.0)
    os.close(write_end)
    reader.join(5.0)
    assert [int(line.split()[0]) for line in received] == list(range(500))


def test_a_reader_that_went_away_does_no_harm() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    writer = LineWriter(write_end, lost)
    for _ in range(10):
        writer.write(b"nobody hears this")
    writer.close()
    os.close(write_end)


def test_a_process_that_ends_while_nobody_reads_its_log_ends() -> None:
    script = """
import sys
from exai.core.events import ConnectionRefused
from exai.observe.logs import configure_logging
with configure_logging("info") as sink:
    for _ in range(5000):
        sink.emit(ConnectionRefused("192.0.2.1", "unauthorized"))
"""
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE) as process:
        assert process.wait(timeout=10) == 0


def test_only_the_daemon_pays_for_the_log() -> None:
    commands = ["call", "tools", "config", "token", "version"]
    modules = ", ".join(f"exai.cli.{command}_command" for command in commands)
    script = f"import sys, exai.cli.app, {modules}; print('structlog' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=10, check=True
    )
    assert done.stdout == "False\n"


def later_than(exception: ValueError) -> ValueError:
    later = ValueError()
    later.__context__ = exception
    return later


def lost(count: int) -> bytes:
    return b"lost %d" % count


def caught(fail: Callable[[], object]) -> Exception:
    try:
        fail()
    except Exception as exception:  # noqa: BLE001 - whatever it is
        return exception
    raise AssertionError("did not fail")
