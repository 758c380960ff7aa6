"""Equal work has equal digests, other work has others."""

import pytest

from exai.calls.arguments_digest import arguments_digest, request_digest, size_bytes_of

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
    assert arguments_digest(one) == arguments_digest(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT, ids=str)
def test_other_work(one: dict[str, object], other: dict[str, object]) -> None:
    assert arguments_digest(one) != arguments_digest(other)


def test_a_request_is_its_name_and_its_arguments() -> None:
    digest = arguments_digest({})
    assert request_digest("a", digest) != request_digest("b", digest)
    assert request_digest("a", digest) != request_digest("a", arguments_digest({"a": 1}))


@pytest.mark.parametrize(
    ("value", "least_bytes"),
    [
        ("x" * 1000, 1000),
        ("\U0001f642" * 1000, 4000),
        ([10**300] * 100, 100 * 150),
        ([[]] * 100, 100 * 50),
    ],
    ids=["text", "wide text", "numbers", "lists"],
)
def test_everything_counts_that_takes_memory(value: object, least_bytes: int) -> None:
    assert size_bytes_of({"a": value}) > least_bytes
    assert size_bytes_of([{"a": value}]) > least_bytes
