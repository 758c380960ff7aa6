"""How much work a JSON Schema can make of a document, at most: known before it is done.

A validator cannot be interrupted, and a schema of a few hundred bytes can keep one busy
for years (`anyOf` over references that branch again). So a schema is weighed once, and a
document is measured before it is checked.

The bound: a part of the document at depth k is visited at most once for each way of k
steps down through the schema. All visits are at most the number of parts times the most
ways of any length up to the document's depth.
"""

from collections.abc import Callable
from itertools import accumulate
from typing import Any, NamedTuple

from exai.tools.pattern_cost import match_states
from exai.tools.subschemas import Subschema, Unbounded, find_subschemas

MAX_DEPTH = 64

_MAX_PARTS = 20_000
_MAX_STEPS = 500_000
_MAX_BRANCHES_EXPLAINED = 1_000
_MAX_SCANNED = 5_000_000
_MAX_WAYS = 1_000_000_000
_MAX_IN_PLACE = 100
_STEPS_OF_UNIQUE_ITEMS = 20

_Weigh = Callable[[dict[str, Any]], int]
_Ways = dict[Subschema, int]


class Measure(NamedTuple):
    """A JSON value's size: how many values it holds, how deep, how much text."""

    parts: int
    depth: int
    text_length: int


def measure(value: Any, max_parts: int = _MAX_PARTS, max_depth: int = MAX_DEPTH) -> Measure | None:
    """Measure a JSON value; None where it is larger than that."""
    parts = depth = text_length = 0
    level: list[Any] = [value]
    while level:
        parts += len(level)
        if parts > max_parts or depth > max_depth:
            return None
        below: list[Any] = []
        for part in level:
            if isinstance(part, str):
                text_length += len(part)
            elif isinstance(part, dict):
                text_length += sum(map(len, part))
                below.extend(part.values())
            elif isinstance(part, list):
                below.extend(part)
        level, depth = below, depth + 1
    return Measure(parts, depth - 1, text_length)


class SchemaCost:
    """The bound for one schema; raises `Unbounded` where there is none."""

    def __init__(self, schema: dict[str, Any]) -> None:
        ordered = _innermost_first(find_subschemas(schema))
        self._steps = list(accumulate(_ways_down(schema, ordered, _steps_at), max))
        self._scans = list(accumulate(_ways_down(schema, ordered, _scans_at), max))
        # What `uniqueItems` compares may lie at any depth below the array.
        self._comparisons = list(accumulate(_ways_down(schema, ordered, _is_unique_at)))
        self._branches = list(accumulate(_ways_down(schema, ordered, _branches_at), max))

    def allows(self, document: Any) -> bool:
        """Tell whether checking `document` is surely cheap."""
        size = measure(document)
        return size is not None and (
            self.most_steps(size) <= _MAX_STEPS
            and size.text_length * self._scans[size.depth] <= _MAX_SCANNED
        )

    def most_steps(self, size: Measure) -> int:
        """Return how many steps a check of a document of this size takes at most."""
        comparisons = self._comparisons[size.depth] * _STEPS_OF_UNIQUE_ITEMS
        return size.parts * (self._steps[size.depth] + comparisons)

    def allows_explaining(self, document: Any) -> bool:
        """Tell whether collecting what each branch holds against `document` is cheap, too."""
        size = measure(document)
        return size is not None and (
            size.parts * self._branches[size.depth] <= _MAX_BRANCHES_EXPLAINED
        )


def _innermost_first(found: list[Subschema]) -> list[Subschema]:
    """Order subschemas so that what one applies in place comes before it."""
    users: dict[Subschema, list[Subschema]] = {node: [] for node in found}
    missing = {node: len(node.here) for node in found}
    depths = dict.fromkeys(found, 1)
    for node in found:
        for inner in node.here:
            users[inner].append(node)
    ordered = [node for node in found if not node.here]
    for node in ordered:
        for user in users[node]:
            depths[user] = max(depths[user], depths[node] + 1)
            missing[user] -= 1
            if missing[user] == 0:
                ordered.append(user)
    if len(ordered) < len(found):
        raise Unbounded("the schema applies itself to the same value for ever")
    if max(depths.values()) > _MAX_IN_PLACE:
        raise Unbounded("the schema refers from one part to the next too often")
    return ordered


def _ways_down(schema: dict[str, Any], ordered: list[Subschema], weigh: _Weigh) -> list[int]:
    """Return, per depth, the weight of all ways from the root to that depth."""
    root = next(node for node in ordered if node.schema is schema)
    before: _Ways = {}
    ways = []
    for depth in range(MAX_DEPTH + 1):
        now: _Ways = {}
        for node in ordered:
            own = _below(node, before) if depth else weigh(node.schema)
            now[node] = min(_MAX_WAYS, own + sum(now[inner] for inner in node.here))
        ways.append(now[root])
        if depth and not any(now.values()):
            break
        before = now
    return ways + [0] * (MAX_DEPTH + 1 - len(ways))


def _below(node: Subschema, ways: _Ways) -> int:
    """Return the ways through one child of a value: it is a property or an item, never both."""
    of_property = max((ways[p] for p in node.one_property), default=0)
    of_item = max((ways[i] for i in node.one_item), default=0)
    return max(
        of_property + sum(ways[a] for a in node.any_property),
        of_item + sum(ways[a] for a in node.any_item),
    )


def _steps_at(schema: dict[str, Any]) -> int:
    several = ("required", "properties", "enum", "dependentRequired")
    lengths = [len(schema[name]) for name in several if isinstance(schema.get(name), list | dict)]
    constants = measure([schema.get("enum"), schema.get("const")])
    return 1 + len(schema) + sum(lengths) + (constants.parts if constants else _MAX_WAYS)


def _scans_at(schema: dict[str, Any]) -> int:
    patterns = [schema.get("pattern")]
    if isinstance(named := schema.get("patternProperties"), dict):
        patterns.extend(named)
    return 1 + sum(match_states(pattern) for pattern in patterns if isinstance(pattern, str))


def _branches_at(schema: dict[str, Any]) -> int:
    several = (schema.get("anyOf"), schema.get("oneOf"))
    return sum(len(branches) for branches in several if isinstance(branches, list))


def _is_unique_at(schema: dict[str, Any]) -> int:
    return int(schema.get("uniqueItems") is True)
