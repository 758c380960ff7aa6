"""What servers said lately is kept within bounds."""

from exai.core.events import UpstreamDied, UpstreamSpoke, UpstreamStarted
from exai.observe.upstream_logs import KEPT_LINES, UpstreamLogs
from exai.testing.hand_clock import HandClock


def texts(logs: UpstreamLogs, name: str, count: int = 100, after: int = 0) -> list[str]:
    return [line.text for line in logs.tail(name, count, after).lines]


def test_each_server_has_lines_of_its_own_with_its_starts_and_ends() -> None:
    logs = UpstreamLogs(HandClock())
    logs.emit(UpstreamStarted("a", 7, None, 1, 0.1))
    logs.emit(UpstreamSpoke("b", "other"))
    logs.emit(UpstreamSpoke("a", "hello"))
    logs.emit(UpstreamDied("a", "exited with status 1", 0.5))
    assert texts(logs, "a") == [
        "[started: pid 7]",
        "hello",
        "[exited with status 1; started again in 0.5 s]",
    ]
    assert texts(logs, "a", after=2) == ["[exited with status 1; started again in 0.5 s]"]
    assert texts(logs, "a", 0) == texts(logs, "nobody") == []


def test_only_the_last_lines_are_kept_of_so_many_servers() -> None:
    logs = UpstreamLogs(HandClock())
    for n in range(KEPT_LINES + 10):
        logs.emit(UpstreamSpoke("a", str(n)))
    log = logs.tail("a", 10_000, 0)
    assert (len(log.lines), log.last, log.lines[0].number) == (KEPT_LINES, KEPT_LINES + 10, 11)
    for n in range(300):
        logs.emit(UpstreamSpoke(f"s{n}", "x"))
    assert texts(logs, "a") == texts(logs, "s0") == []
    assert texts(logs, "s299") == ["x"]


def test_who_followed_an_earlier_daemon_is_told_all_of_this_one() -> None:
    logs = UpstreamLogs(HandClock())
    logs.emit(UpstreamSpoke("a", "first"))
    assert texts(logs, "a", after=500) == ["first"]
