"""Finding the schemas in a schema, and what each applies where."""

from typing import Any

import pytest

from exai.tools.subschemas import RefersOutside, Unbounded, find_subschemas

LEAF = {"type": "string"}


def count(schema: dict[str, Any]) -> int:
    return len(find_subschemas(schema))


@pytest.mark.parametrize("keyword", ["not", "if", "then", "else"])
def test_what_applies_to_the_same_value_is_found(keyword: str) -> None:
    root, leaf = find_subschemas({keyword: LEAF})
    assert root.here == [leaf]


@pytest.mark.parametrize("keyword", ["allOf", "anyOf", "oneOf"])
def test_lists_of_schemas_are_found(keyword: str) -> None:
    root, *leaves = find_subschemas({keyword: [{"a": 1}, {"b": 2}, True]})
    assert set(root.here) == set(leaves)
    assert len(leaves) == 2


def test_properties_and_items_are_told_apart_from_those_that_apply_to_any() -> None:
    root = find_subschemas(
        {
            "properties": {"a": {"x": 1}, "b": {"x": 2}},
            "patternProperties": {"c": {"x": 3}},
            "additionalProperties": {"x": 4},
            "prefixItems": [{"x": 5}],
            "items": {"x": 6},
            "contains": {"x": 7},
        }
    )[0]
    assert [node.schema["x"] for node in root.one_property] == [1, 2]
    assert [node.schema["x"] for node in root.any_property] == [4, 3]
    assert [node.schema["x"] for node in root.one_item] == [5]
    assert [node.schema["x"] for node in root.any_item] == [6, 7]


def test_the_older_list_of_items_is_understood() -> None:
    root, _ = find_subschemas({"items": [LEAF]})
    assert len(root.one_item) == 1
    assert root.any_item == []


def test_data_that_looks_like_a_schema_is_none() -> None:
    assert count({"const": LEAF, "enum": [LEAF], "default": LEAF, "examples": [LEAF]}) == 1


@pytest.mark.parametrize(
    ("reference", "definition"),
    [
        ("#/$defs/a~1b", {"$defs": {"a/b": LEAF}}),
        ("#/definitions/a%20b", {"definitions": {"a b": LEAF}}),
        ("#here", {"$defs": {"x": {**LEAF, "$anchor": "here"}}}),
        ("#/x-own/0", {"x-own": [LEAF]}),
    ],
)
def test_references_within_the_schema_are_followed(
    reference: str, definition: dict[str, Any]
) -> None:
    root, leaf = find_subschemas({"$ref": reference, **definition})
    assert root.here == [leaf]


def test_a_schema_may_hold_itself() -> None:
    (root,) = find_subschemas({"properties": {"child": {"$ref": "#"}}})[:1]
    assert root.one_property[0].here == [root]


def test_references_found_behind_references_are_followed_too() -> None:
    assert count({"$ref": "#/x/a", "x": {"a": {"$ref": "#/x/b"}, "b": {"not": LEAF}}}) == 4


@pytest.mark.parametrize("reference", ["http://x/y", "file:///etc/passwd", "other.json", 7])
def test_a_reference_to_another_document_is_named(reference: Any) -> None:
    with pytest.raises(RefersOutside, match=str(reference)):
        count({"properties": {"a": {"$ref": reference}}})


def test_a_reference_to_nothing_applies_nothing() -> None:
    assert count({"$ref": "#/$defs/none"}) == count({"$ref": "#none"}) == 1


def test_too_many_schemas_and_embedded_ones_are_unbounded() -> None:
    with pytest.raises(Unbounded, match="1,500"):
        count({"anyOf": [{} for _ in range(2000)]})
    with pytest.raises(Unbounded, match="embeds"):
        count({"$defs": {"a": {"$id": "http://x/y"}}})
