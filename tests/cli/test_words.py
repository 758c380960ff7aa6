"""Sizes, durations and moments as people read them."""

import time

import pytest

from exai.cli.words import duration_in_words, moment_in_words, size_in_words


@pytest.mark.parametrize(
    ("size_bytes", "said"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (1024 * 1024 - 1, "1024 KiB"),
        (5 * 1024 * 1024 * 1024, "5,120 MiB"),
    ],
)
def test_a_size_has_the_unit_that_fits_it(size_bytes: int, said: str) -> None:
    assert size_in_words(size_bytes) == said


@pytest.mark.parametrize(
    ("duration_s", "said"),
    [
        (0.0, "0 ms"),
        (0.812, "812 ms"),
        (1.0, "1.0 s"),
        (119.0, "119.0 s"),
        (600.0, "10 min"),
        (7200.0, "2 h"),
        (172_800.0, "2 days"),
    ],
)
def test_a_duration_has_the_unit_that_fits_it(duration_s: float, said: str) -> None:
    assert duration_in_words(duration_s) == said


def test_a_moment_is_told_in_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Etc/GMT-2")
    time.tzset()
    try:
        assert moment_in_words(0.0, 90.0) == "1970-01-01 02:00:00, 90.0 s ago"
        assert moment_in_words(1.0, 0.0).endswith(", 0 ms ago")
    finally:
        monkeypatch.undo()
        time.tzset()
