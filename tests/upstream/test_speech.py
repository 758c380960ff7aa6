"""What servers say becomes events: harmless to show, and never a flood."""

from exai.core.clock import Clock
from exai.core.events import UpstreamSpoke
from exai.upstream.speech import MAX_LINE_BYTES, Speech, shown
from tests.upstream.running_server import Recorder


class Hands(Clock):
    """A clock that is moved by hand."""

    now_s = 100.0

    def wall_s(self) -> float:
        raise AssertionError("nothing here is told in wall time")

    def monotonic_s(self) -> float:
        return self.now_s


async def test_a_flood_is_cut_and_what_was_left_out_is_counted() -> None:
    clock, recorder = Hands(), Recorder()
    speech = Speech("srv", recorder, clock)
    for number in range(1000):
        speech.say(b"line %d" % number)
    assert [event.line for event in recorder.of(UpstreamSpoke)] == [f"line {n}" for n in range(100)]
    recorder.events.clear()
    clock.now_s += 0.15
    assert speech.may_speak()
    speech.say(b"after a while")
    lines = [event.line for event in recorder.of(UpstreamSpoke)]
    assert lines == ["[900 lines were left out]", "after a while"]
    assert not speech.may_speak()


async def test_a_calm_server_is_heard_in_full() -> None:
    clock, recorder = Hands(), Recorder()
    speech = Speech("srv", recorder, clock)
    for _ in range(1000):
        clock.now_s += 0.2
        speech.say(b"tick")
    assert len(recorder.events) == 1000


async def test_empty_lines_say_nothing() -> None:
    recorder = Recorder()
    Speech("srv", recorder, Hands()).say(b" \r")
    assert recorder.events == []


def test_foreign_text_is_harmless_to_show() -> None:
    assert (
        shown(b"\x1b]0;title\x07 \xff \xe2\x80\xae ok\r") == "\\x1b]0;title\\x07 \ufffd \\u202e ok"
    )
    assert shown("grüße 你好".encode()) == "grüße 你好"
    assert len(shown(b"x" * 1_000_000)) < MAX_LINE_BYTES + 10
