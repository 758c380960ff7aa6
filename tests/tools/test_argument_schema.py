"""Arguments are checked, faults are named, and no schema can hold the loop."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import jsonschema_rs
import pytest

from exai.core.errors import ArgumentsInvalid
from exai.tools.argument_schema import ArgumentSchema, SchemaUnusable
from tests.tools.test_schema_cost import branching, nested

HELD_S = 0.05
CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "days/ahead": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "unit": {"enum": ["C", "F"]},
        "at": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "required": ["city"],
    "additionalProperties": False,
}


def fault_of(schema: dict[str, Any], arguments: dict[str, Any]) -> tuple[str, str]:
    """Return the path and the message of the fault."""
    with pytest.raises(ArgumentsInvalid) as invalid:
        ArgumentSchema(schema).check(arguments)
    info = invalid.value.describe()
    assert isinstance(info.details, dict)
    return info.details["path"], info.message


@pytest.mark.parametrize(
    ("arguments", "path", "message"),
    [
        ({}, "", 'arguments: "city" is a required property'),
        ({"city": 7}, "/city", '/city: the value is not of type "string"'),
        ({"city": "x" * 21}, "/city", "/city: the value is longer than 20 characters"),
        ({"city": "x", "unit": "K"}, "/unit", '/unit: the value is not one of "C" or "F"'),
        (
            {"city": "x", "days/ahead": [1, -1]},
            "/days~1ahead/1",
            "/days~1ahead/1: the value is less than the minimum of 0",
        ),
        (
            {"city": "x", "town": "y"},
            "",
            "arguments: Additional properties are not allowed ('town' was unexpected)",
        ),
        (
            {"city": "x", "at": 1},
            "/at",
            "/at: the value is not valid under any of the schemas listed in the 'anyOf' keyword",
        ),
    ],
)
def test_a_fault_is_named_by_its_place(arguments: dict[str, Any], path: str, message: str) -> None:
    assert fault_of(CITY, arguments) == (path, message)


def test_what_fits_passes() -> None:
    ArgumentSchema(CITY).check({"city": "Oslo", "days/ahead": [0, 3], "unit": "C", "at": None})


def test_a_message_is_short_and_holds_no_argument() -> None:
    _, message = fault_of(CITY, {"city": "secret" * 100})
    assert "secret" not in message
    _, message = fault_of(CITY, {"city": "x", "n" * 5000: 1})
    assert len(message) <= 300


def test_the_schema_is_left_as_it_is() -> None:
    schema = {"properties": {"a": {"pattern": "(?=x)"}}, "patternProperties": {"(?=x)": {}}}
    before = repr(schema)
    ArgumentSchema(schema)
    assert repr(schema) == before


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:9/x", "https://example.com/s#/a", "file:///etc/passwd", "x.json"]
)
@pytest.mark.parametrize("keyword", ["$ref", "$dynamicRef"])
def test_nothing_is_fetched(keyword: str, address: str) -> None:
    with pytest.raises(SchemaUnusable, match="which is not fetched"):
        ArgumentSchema({"type": "object", "properties": {"a": {keyword: address}}})


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "obj"},
        {"properties": 7},
        {"required": "city"},
        {"$schema": "http://example.com/mine"},
        {"properties": {"a": {"$ref": "#/$defs/none"}}},
    ],
    ids=str,
)
def test_what_is_no_schema_is_said_to_be_none(schema: dict[str, Any]) -> None:
    with pytest.raises(SchemaUnusable, match="no JSON Schema"):
        ArgumentSchema(schema)


def test_an_older_draft_is_read_as_what_it_says_it_is() -> None:
    pair = {"items": [{"type": "string"}, {"type": "integer"}]}
    draft7 = {"$schema": "http://json-schema.org/draft-07/schema#", "properties": {"a": pair}}
    assert fault_of(draft7, {"a": ["x", "y"]})[0] == "/a/1"


def test_2020_12_is_understood() -> None:
    schema = {
        "$defs": {"n": {"$anchor": "n", "type": "integer"}},
        "properties": {"a": {"prefixItems": [{"$ref": "#n"}], "items": False}},
        "dependentRequired": {"b": ["c"]},
        "unevaluatedProperties": False,
    }
    ArgumentSchema(schema).check({"a": [1]})
    assert fault_of(schema, {"a": ["x"]})[0] == "/a/0"
    assert "c" in fault_of({**schema, "properties": {"b": {}}}, {"b": 1})[1]


def test_a_pattern_is_matched_in_linear_time() -> None:
    schema = {"properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}
    ArgumentSchema(schema).check({"a": "a" * 10_000})
    with held_for() as held:
        assert fault_of(schema, {"a": "a" * 100_000 + "!"})[0] == "/a"
    assert held() < HELD_S


@pytest.mark.parametrize("pattern", [r"^(?!\.)x", r"(a)\1", "[", r"\p{L}{1,250}", "(a{0,99}){99}"])
def test_a_pattern_that_cannot_be_built_cheaply_is_left_to_the_server(pattern: str) -> None:
    schema = ArgumentSchema(
        {
            "properties": {"a": {"type": "string", "pattern": pattern}},
            "patternProperties": {pattern: {"type": "string"}},
            "additionalProperties": False,
        }
    )
    schema.check({"a": "anything", "b": 1})
    with pytest.raises(ArgumentsInvalid):
        schema.check({"a": 1})


EVIL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "branching 12": (
        {"properties": {"a": branching(12)["$defs"]["a0"]}, **branching(12)},
        {"a": 1},
    ),
    "branching 40": (branching(40), {"a": 1}),
    "branching 99": (branching(99), {"a": 1}),
    "loop": ({"$ref": "#"}, {}),
    "recursion": (
        {"anyOf": [{"properties": {"x": {"$ref": "#"}}}, {"properties": {"x": {"$ref": "#"}}}]},
        nested(60),
    ),
    "depth": ({"properties": {"x": {"$ref": "#"}}}, nested(900)),
    "enum": ({"properties": {"a": {"items": {"enum": list(range(15_000))}}}}, {"a": ["x"] * 999}),
    "unique": ({"properties": {"a": {"uniqueItems": True}}}, {"a": [[n] for n in range(99_999)]}),
    "large": ({"properties": {"a": {"items": {"type": "string"}}}}, {"a": ["x"] * 999_999}),
    "pattern": ({"properties": {"a": {"pattern": "[ab]*a[ab]{400}$"}}}, {"a": "ab" * 500_000}),
    "many patterns": (
        {"properties": {f"p{n}": {"pattern": rf"^\w+@\w+{n}$"} for n in range(1400)}},
        {f"p{n}": "x" for n in range(1400)},
    ),
    "many schemas": ({"anyOf": [{} for _ in range(80_000)]}, {}),
    "just not too many": ({"anyOf": [{"minProperties": n + 1} for n in range(1400)]}, {}),
    "many properties": (
        {"properties": {f"p{n}": {"type": "string", "title": "x"} for n in range(1400)}},
        {f"p{n}": 1 for n in range(1400)},
    ),
    "references": (
        {"anyOf": [{"$ref": "#/$defs/a"}] * 1400, "$defs": {"a": {"required": ["x"]}}},
        {},
    ),
    "conditions": (
        {
            "allOf": [{"if": {"$ref": "#/$defs/a"}, "else": False}] * 400,
            "$defs": {"a": {"type": "null"}},
        },
        {},
    ),
}


@pytest.mark.parametrize("name", EVIL)
def test_neither_building_nor_checking_holds_the_interpreter(name: str) -> None:
    schema, arguments = EVIL[name]
    with held_for() as held:
        checked = ArgumentSchema(schema)
    assert held() < HELD_S
    started_s = time.thread_time()
    try:
        checked.check(arguments)
    except ArgumentsInvalid as invalid:
        assert len(str(invalid)) <= 300
    assert time.thread_time() - started_s < HELD_S


def test_why_nothing_is_checked_is_told() -> None:
    assert ArgumentSchema(CITY).unchecked_because is None
    assert "too often" in (ArgumentSchema(branching(99)).unchecked_because or "")


def test_a_small_schema_is_built_and_checked_at_once() -> None:
    ArgumentSchema(CITY)
    started_s = time.thread_time()
    for _ in range(20):
        schema = ArgumentSchema(CITY)
    built_s = (time.thread_time() - started_s) / 20
    started_s = time.thread_time()
    for _ in range(1000):
        schema.check({"city": "Oslo"})
    checked_s = (time.thread_time() - started_s) / 1000
    assert built_s < 0.005
    assert checked_s < 0.0002


@contextmanager
def held_for() -> Iterator[Callable[[], float]]:
    """Measure the longest single call of the compiler: another thread cannot run meanwhile."""
    longest_s = 0.0
    build = jsonschema_rs.validator_for

    def timed(*args: Any, **settings: Any) -> Any:
        nonlocal longest_s
        started_s = time.thread_time()
        try:
            return build(*args, **settings)
        finally:
            longest_s = max(longest_s, time.thread_time() - started_s)

    with mock.patch.object(jsonschema_rs, "validator_for", timed):
        yield lambda: longest_s
