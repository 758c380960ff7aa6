"""Which schemas a JSON Schema is made of, and where each applies another one.

Knows the keywords of all drafts that hold schemas; follows references within the schema,
never out of it.
"""

from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import unquote

_MAX_SUBSCHEMAS = 1500

_IN_PLACE = ("not", "if", "then", "else")
_IN_PLACE_LISTS = ("allOf", "anyOf", "oneOf")
_IN_PLACE_MAPS = ("dependentSchemas", "dependencies")
_ANY_PROPERTY = ("additionalProperties", "unevaluatedProperties", "propertyNames")
_ANY_ITEM = ("items", "additionalItems", "unevaluatedItems", "contains")
_ITEM_LISTS = ("prefixItems", "items")
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_DEFINITIONS = ("$defs", "definitions")
_ANCHORS = ("$anchor", "$dynamicAnchor")


class Unbounded(Exception):
    """A schema so large or so woven that its cost cannot be told; `str()` says how."""


class RefersOutside(Exception):
    """The schema refers to another document; `str()` is the reference."""


class Subschema:
    """One schema in a schema, and those that it applies: to the same value, or to its parts."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self.schema = schema
        self.here: list[Subschema] = []
        self.one_property: list[Subschema] = []
        self.any_property: list[Subschema] = []
        self.one_item: list[Subschema] = []
        self.any_item: list[Subschema] = []


def find_subschemas(root: dict[str, Any]) -> list[Subschema]:
    """Return all subschemas, the whole schema first; raises `Unbounded`, `RefersOutside`."""
    return _Search(root).run()


class _Search:
    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._found: dict[int, Subschema] = {}
        self._open: list[Subschema] = []
        self._anchors: dict[str, Any] = {}

    def run(self) -> list[Subschema]:
        self._note([self._root])
        done = 0
        while self._open:
            while self._open:
                self._connect(self._open.pop())
            # Only now are all anchors known; a reference may lead to what was not found yet.
            nodes = list(self._found.values())
            for node in nodes[done:]:
                self._follow_references(node)
            done = len(nodes)
        return list(self._found.values())

    def _note(self, schemas: Iterable[Any]) -> list[Subschema]:
        """Return the nodes of those that are more than true or false."""
        nodes = []
        for schema in schemas:
            if not isinstance(schema, dict):
                continue
            if id(schema) not in self._found:
                self._found[id(schema)] = Subschema(schema)
                self._open.append(self._found[id(schema)])
            nodes.append(self._found[id(schema)])
        if len(self._found) > _MAX_SUBSCHEMAS:
            raise Unbounded(f"the schema is made of more than {_MAX_SUBSCHEMAS:,} schemas")
        return nodes

    def _connect(self, node: Subschema) -> None:
        schema = node.schema
        if "$id" in schema and schema is not self._root:
            raise Unbounded("the schema embeds another one")
        for anchor in (schema.get(keyword) for keyword in _ANCHORS):
            if isinstance(anchor, str):
                self._anchors[anchor] = schema
        node.here = self._note(_under(schema, _IN_PLACE, _IN_PLACE_LISTS, _IN_PLACE_MAPS))
        node.one_property = self._note(_under(schema, maps=("properties",)))
        node.any_property = self._note(_under(schema, _ANY_PROPERTY, maps=("patternProperties",)))
        node.one_item = self._note(_under(schema, lists=_ITEM_LISTS))
        node.any_item = self._note(_under(schema, _ANY_ITEM))
        self._note(_under(schema, maps=_DEFINITIONS))

    def _follow_references(self, node: Subschema) -> None:
        references = (node.schema[keyword] for keyword in _REFERENCES if keyword in node.schema)
        node.here += self._note(self._resolve(reference) for reference in references)

    def _resolve(self, reference: Any) -> Any:
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise RefersOutside(str(reference))
        if reference == "#":
            return self._root
        if not reference.startswith("#/"):
            return self._anchors.get(reference[1:])
        target: Any = self._root
        for token in unquote(reference[2:]).split("/"):
            target = _child(target, token.replace("~1", "/").replace("~0", "~"))
        return target


def _child(target: Any, token: str) -> Any:
    if isinstance(target, dict):
        return target.get(token)
    if isinstance(target, list) and token.isdecimal() and int(token) < len(target):
        return target[int(token)]
    return None


def _under(
    schema: dict[str, Any],
    singles: Iterable[str] = (),
    lists: Iterable[str] = (),
    maps: Iterable[str] = (),
) -> Iterator[Any]:
    """Yield what stands under these keywords: a schema, a list of them, or a map of them."""
    for keyword in singles:
        yield schema.get(keyword)
    for keyword in lists:
        if isinstance(several := schema.get(keyword), list):
            yield from several
    for keyword in maps:
        if isinstance(named := schema.get(keyword), dict):
            yield from named.values()
