"""Arguments from the command line, read as the tool's schema asks."""

from typing import Any

import pytest

from exai.cli.call_arguments import ArgumentsUnreadable, CallArguments, read_object

SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "deep": {"type": "boolean"},
        "tags": {"type": "array"},
        "where": {"type": "object"},
        "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "either": {"type": ["string", "integer"]},
        "level": {"enum": [1, 2]},
        "colour": {"enum": ["1", "2"]},
        "limit": {"$ref": "#/$defs/limit"},
        "loop": {"$ref": "#/$defs/loop"},
        "any": True,
        "odd": {"type": 5, "enum": "x", "anyOf": {}},
    },
    "$defs": {"limit": {"type": "number"}, "loop": {"$ref": "#/$defs/loop"}},
}


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("text=5", "5"),
        ("text=a=b", "a=b"),
        ("text=", ""),
        ("count=5", 5),
        ("count=12345678901234567890", 12345678901234567890),
        ("deep=true", True),
        ('tags=["a"]', ["a"]),
        ('where={"a": 1}', {"a": 1}),
        ("maybe=null", None),
        ("maybe=5", 5),
        ("either=5", "5"),
        ("level=1", 1),
        ("colour=1", "1"),
        ("limit=0.5", 0.5),
        ("loop=5", "5"),
        ("any=5", "5"),
        ("odd=5", "5"),
        ("unknown=5", "5"),
        ("text:=5", 5),
        ('unknown:={"a": null}', {"a": None}),
    ],
)
def test_a_value_is_read_as_its_property_asks(pair: str, value: Any) -> None:
    read = CallArguments([pair]).read_by(SCHEMA)
    name = pair.partition("=")[0].rstrip(":")
    assert read == {name: value}
    assert type(read[name]) is type(value)


@pytest.mark.parametrize("pair", ["count=many", "tags=a,b", "deep=yes", "count="])
def test_what_does_not_fit_is_left_to_the_daemon_to_refuse(pair: str) -> None:
    name, _, text = pair.partition("=")
    assert CallArguments([pair]).read_by(SCHEMA) == {name: text}


@pytest.mark.parametrize("schema", [{}, {"properties": []}, {"properties": {"a": None}}])
def test_a_schema_that_says_nothing_leaves_texts(schema: Any) -> None:
    assert CallArguments(["a=1"]).read_by(schema) == {"a": "1"}


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (["text"], "expected key=value or key:=json, got 'text'"),
        (["=5"], "expected key=value"),
        ([":=5"], "expected key=value"),
        (["a=1", "a=2"], "a is given twice"),
        (["a=1", "a:=2"], "a is given twice"),
        (["a:=x"], "a: no JSON"),
        (["a:=" + "[" * 100_000], "a: nested too deeply"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_name(pairs: list[str], said: str) -> None:
    with pytest.raises(ArgumentsUnreadable, match=said):
        CallArguments(pairs)


def test_one_object_may_hold_all() -> None:
    assert read_object('{"a": [1]}') == {"a": [1]}
    for text in ("[1]", "{", "5"):
        with pytest.raises(ArgumentsUnreadable, match="--json"):
            read_object(text)
