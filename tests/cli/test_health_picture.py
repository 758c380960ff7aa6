"""What of a health report people are shown."""

from typing import Any

import pytest

from exai.cli.health_picture import UnknownShape, Upstream, picture, read_health, state_in_words


def shown(**report: Any) -> str:
    return "".join(picture(read_health({"status": "ok", **report}), "http://x/"))


def test_a_report_without_anything_is_shown_all_the_same() -> None:
    assert shown() == "EXAI ? at http://x/ is ok; up ?, pid None\n\n"


def test_what_is_unknown_is_left_out_and_what_is_odd_is_refused() -> None:
    assert "novel" not in shown(novel=5)
    with pytest.raises(UnknownShape, match="pools"):
        shown(pools=5)


def test_sizes_and_times_are_in_units_that_people_read() -> None:
    text = shown(
        resident_bytes=300 * 1024 * 1024,
        store={"record_count": 3, "result_bytes": 2048},
        loop_lag={"latest_s": 0.0004, "longest_s": 1.5},
    )
    assert "300 MiB" in text
    assert "3 calls, 2 KiB of results" in text
    assert "0.4 ms, at most 1500.0 ms in the last minute" in text


def test_a_ledger_in_memory_and_one_that_cannot_store_say_so() -> None:
    store = {"record_count": 3, "result_bytes": 20, "durable": True, "unstored_count": 0}
    assert "3 calls, 20 bytes of results\n" in shown(store=store)
    assert "of results, in memory\n" in shown(store=store | {"durable": False})
    unstored = shown(store=store | {"unstored_count": 2})
    assert "of results; 2 outcomes cannot be stored\n" in unstored


def test_calls_wait_in_their_scope_and_in_the_whole() -> None:
    pools = [{"scope": "global", "limit": 9, "in_use": 2}, {"scope": "s", "limit": 1, "in_use": 1}]
    rows = [line.split() for line in shown(pools=pools, waiting_count={"": 3, "s": 4}).splitlines()]
    assert ["global", "2", "9", "7"] in rows
    assert ["s", "1", "1", "4"] in rows


def test_leaked_permits_are_called_a_defect() -> None:
    assert "defect: 1 permits" in shown(leaked_permits=[{"scope": "global", "owner": "c1"}])
    assert "defect" not in shown(leaked_permits=None)


def test_a_server_that_is_down_says_why_and_until_when() -> None:
    down = Upstream("box", "backing_off", last_end="exited with status 3", retry_in_s=0.2)
    assert state_in_words(down) == "backing off: exited with status 3; again in 1 s"
    assert state_in_words(Upstream("box", "ready")) == "ready"


def test_of_a_server_that_many_have_for_themselves_is_said_how_many_run() -> None:
    own = Upstream("box", "ready", instance="session", instance_count=3)
    assert state_in_words(own) == "ready, 3 running, one for each session"
