"""Equal work has equal digests, other work has others."""

import pytest

from exai.calls.arguments_digest import (
    arguments_digest,
    digest_of_request,
    digest_of_work,
    size_bytes_of,
)
from exai.core.requests import CallTool

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


def test_a_request_is_its_name_its_arguments_and_its_round() -> None:
    digest = digest_of_request(CallTool("a"))
    assert digest == digest_of_request(CallTool("a", meta={"tenant": "x"}))
    for other in (
        CallTool("b"),
        CallTool("a", arguments={"a": 1}),
        CallTool("a", input={"requestState": "s"}),
    ):
        assert digest != digest_of_request(other)


def test_work_is_all_that_its_server_sees_but_what_names_one_request() -> None:
    bare = arguments_digest({})
    assert digest_of_work(CallTool("a"), bare) == bare
    with_tenant = digest_of_work(CallTool("a", meta={"tenant": "x"}), bare)
    named = {"tenant": "x", "claudecode/toolUseId": "t-1", "traceparent": "00-1"}
    assert with_tenant == digest_of_work(CallTool("a", meta=named), bare)
    for other in (CallTool("a", meta={"tenant": "y"}), CallTool("a", input={"requestState": "s"})):
        assert digest_of_work(other, bare) not in (bare, with_tenant)


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
