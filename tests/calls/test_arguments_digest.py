"""Equal work has equal digests, other work has others."""

import pytest

from exai.calls.arguments_digest import arguments_digest

EQUAL = [
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ({"a": {"x": 1, "y": [1, 2]}}, {"a": {"y": [1, 2], "x": 1}}),
    ({"n": 1}, {"n": 1.0}),
    ({"n": [2.0]}, {"n": [2]}),
    ({"n": -0.0}, {"n": 0}),
    ({"n": 2**53 - 1}, {"n": float(2**53 - 1)}),
]
DIFFERENT = [
    ({}, {"a": None}),
    ({"a": [1, 2]}, {"a": [2, 1]}),
    ({"a": 1}, {"a": "1"}),
    ({"a": True}, {"a": 1}),
    ({"a": 1.5}, {"a": 1}),
    ({"n": 2**53}, {"n": float(2**53)}),
    ({"n": 10**30}, {"n": 10**30 + 1}),
    ({"n": 10**300}, {"n": 1e300}),
    ({"a": {"b": 1}}, {"a": 1, "b": 1}),
]


@pytest.mark.parametrize(("one", "other"), EQUAL, ids=str)
def test_equal_work(one: dict[str, object], other: dict[str, object]) -> None:
    assert arguments_digest("t", one) == arguments_digest("t", other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT, ids=str)
def test_other_work(one: dict[str, object], other: dict[str, object]) -> None:
    assert arguments_digest("t", one) != arguments_digest("t", other)


def test_the_name_counts_and_cannot_run_into_the_arguments() -> None:
    assert arguments_digest("a", {}) != arguments_digest("b", {})
    assert arguments_digest("a{", {}) != arguments_digest("a", {})
