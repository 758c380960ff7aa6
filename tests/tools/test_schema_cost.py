"""The bound on a check's work holds for every schema and document, and is not absurd."""

import json
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exai.tools.schema_cost import MAX_DEPTH, SchemaCost, measure
from exai.tools.subschemas import Unbounded, find_subschemas

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=15,
)


def nested(depth: int, key: str = "x") -> Any:
    document: Any = 1
    for _ in range(depth):
        document = {key: document}
    return document


def branching(depth: int) -> dict[str, Any]:
    """Return a schema that visits a value 2**depth times."""
    steps = {
        f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}, {"$ref": f"#/$defs/a{n + 1}"}]}
        for n in range(depth)
    }
    return {"$defs": {**steps, f"a{depth}": {"type": "string"}}, "$ref": "#/$defs/a0"}


@given(JSON)
def test_a_document_is_measured_as_a_whole(document: Any) -> None:
    def inner(value: Any) -> list[Any]:
        if isinstance(value, dict):
            return list(value.values())
        return value if isinstance(value, list) else []

    def parts(value: Any) -> int:
        return 1 + sum(parts(part) for part in inner(value))

    def depth(value: Any) -> int:
        return max((1 + depth(part) for part in inner(value)), default=0)

    size = measure(document)
    assert size is not None
    assert (size.parts, size.depth) == (parts(document), depth(document))


def test_what_is_too_large_or_too_deep_is_not_measured_to_the_end() -> None:
    assert measure([0] * 30_000) is None
    assert measure(nested(MAX_DEPTH)) is not None
    assert measure(nested(MAX_DEPTH + 1)) is None
    assert measure(nested(100_000)) is None
    assert measure({"a" * 10: "b" * 20}) == (2, 1, 30)


@pytest.mark.parametrize("depth", [5, 12])
def test_a_schema_that_branches_a_little_is_allowed(depth: int) -> None:
    assert SchemaCost(branching(depth)).allows({"x": 1})


@pytest.mark.parametrize("depth", [30, 45])
def test_a_schema_that_branches_too_often_is_not(depth: int) -> None:
    assert not SchemaCost(branching(depth)).allows({"x": 1})


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"not": {"$ref": "#/$defs/a"}}}},
        branching(60),
    ],
)
def test_a_schema_without_an_end_is_unbounded(schema: dict[str, Any]) -> None:
    with pytest.raises(Unbounded):
        SchemaCost(schema)


def test_recursion_is_bounded_by_the_documents_depth() -> None:
    twice = {"properties": {"x": {"$ref": "#"}}}
    cost = SchemaCost({"anyOf": [twice, {**twice}]})
    assert cost.allows(nested(8))
    assert not cost.allows(nested(40))
    tree = SchemaCost(
        {"properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}, "value": {"type": "string"}}}
    )
    assert tree.allows(nested(40, "left"))


def test_branches_over_different_properties_do_not_add_up() -> None:
    many = {f"p{n}": {"type": "string", "maxLength": 9} for n in range(200)}
    assert SchemaCost({"properties": many}).allows({f"p{n}": "text" for n in range(200)})


@pytest.mark.parametrize(
    ("schema", "cheap", "dear"),
    [
        ({"items": {"enum": list(range(10_000))}}, [1], [1] * 100),
        ({"items": {"const": [0] * 10_000}}, [1], [1] * 100),
        ({"pattern": "(a|b){500}"}, "a" * 100, "a" * 100_000),
        ({"patternProperties": {"(a|b){500}": {}}}, {"a" * 100: 1}, {"a" * 100_000: 1}),
        ({"items": {"anyOf": [{"type": "null"}] * 100}}, [1] * 10, [1] * 5000),
        ({"items": {"required": [f"p{n}" for n in range(1000)]}}, [{}], [{}] * 1000),
        (
            {"uniqueItems": True, "items": {"uniqueItems": True}},
            [[1], [2]],
            [[n] for n in range(9999)],
        ),
    ],
    ids=["enum", "const", "pattern", "names", "branches", "required", "unique"],
)
def test_dear_keywords_count(schema: dict[str, Any], cheap: Any, dear: Any) -> None:
    assert SchemaCost(schema).allows(cheap)
    assert not SchemaCost(schema).allows(dear)


SCHEMAS = st.recursive(
    st.sampled_from([{"type": "string"}, {"type": "object"}, {"$ref": "#"}, {"$ref": "#/$defs/a"}]),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"allOf": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"not": inner}),
        st.fixed_dictionaries(
            {},
            optional={
                "properties": st.dictionaries(st.sampled_from("ab"), inner),
                "patternProperties": st.fixed_dictionaries({"a": inner}),
                "additionalProperties": inner,
                "prefixItems": st.lists(inner, min_size=1, max_size=2),
                "items": inner,
                "contains": inner,
            },
        ),
    ),
    max_leaves=12,
)
DOCUMENTS = st.recursive(
    st.sampled_from(["", 1, None]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=12,
)


@given(SCHEMAS, SCHEMAS, DOCUMENTS)
def test_a_check_takes_no_more_steps_than_were_foreseen(
    root: dict[str, Any], definition: dict[str, Any], document: Any
) -> None:
    schema = json.loads(json.dumps({"allOf": [root], "$defs": {"a": definition}}))
    visits = 0

    class Probe:
        def __init__(self, *_: object) -> None: ...

        def validate(self, _: object) -> None:
            nonlocal visits
            visits += 1

    try:
        cost = SchemaCost(schema)
    except Unbounded:
        return
    for subschema in find_subschemas(schema):
        subschema.schema["probe"] = True
    size = measure(document)
    assert size is not None
    if cost.most_steps(size) > 10_000:
        return
    validator = jsonschema_rs.validator_for(schema, keywords={"probe": Probe})
    validator.is_valid(document)
    assert visits <= cost.most_steps(size)
