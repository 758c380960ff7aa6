"""Checking a call's arguments against its tool's JSON Schema, whoever wrote the schema.

Knows JSON Schema (2020-12, or the older draft that a schema names), how much work it may
make, and how to say what is wrong; knows nothing of tools. Fetches nothing. What a bad
schema or a huge document could make expensive is not checked here: the tool's own server
will. Constructing one takes up to some tens of milliseconds for a large schema: that
belongs in a thread.
"""

import copy
from typing import Any

import jsonschema_rs

from exai.core.errors import ArgumentsInvalid
from exai.tools.pattern_cost import build_states
from exai.tools.schema_cost import SchemaCost
from exai.tools.subschemas import RefersOutside, Subschema, Unbounded, find_subschemas

_MESSAGE_LENGTH = 300
_PATTERN_BUILD_BYTES = 200_000
_MAX_PATTERN_STATES = 10_000
_REGULAR_EXPRESSIONS = jsonschema_rs.RegexOptions(
    size_limit=_PATTERN_BUILD_BYTES, dfa_size_limit=4 * _PATTERN_BUILD_BYTES
)
"""Linear time, without look-around."""


class SchemaUnusable(Exception):
    """Not a JSON Schema, or one that refers to another document; `str()` says why."""


class ArgumentSchema:
    """A tool's schema, ready to check arguments; raises `SchemaUnusable`.

    `unchecked_because` says why nothing is checked, where that is so.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        self.unchecked_because: str | None = None
        checked = copy.deepcopy(schema)
        try:
            _drop_costly_patterns(find_subschemas(checked))
            self._cost = SchemaCost(checked)
        except Unbounded as unbounded:
            self.unchecked_because = str(unbounded)
        except RefersOutside as reference:
            raise SchemaUnusable(_cut(f"it refers to {reference}, which is not fetched")) from None
        else:
            self._validator = _compile(checked)

    def check(self, arguments: dict[str, Any]) -> None:
        """Raise `ArgumentsInvalid` with the JSON Pointer of a fault, if there is one."""
        if self.unchecked_because is not None or not self._cost.allows(arguments):
            return
        if self._validator.is_valid(arguments):
            return
        if not self._cost.allows_explaining(arguments):
            raise ArgumentsInvalid("the arguments do not fit the tool's schema", path="")
        _raise_fault(self._validator, arguments)


class OwnSchema:
    """A schema that the daemon itself wrote: cheap, so that everything is checked."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._validator = _compile(schema)

    def check(self, arguments: dict[str, Any]) -> None:
        """Raise `ArgumentsInvalid` with the JSON Pointer of a fault, if there is one."""
        if not self._validator.is_valid(arguments):
            _raise_fault(self._validator, arguments)


def _raise_fault(validator: Any, arguments: dict[str, Any]) -> None:
    try:
        validator.validate(arguments)
    except jsonschema_rs.ValidationError as error:
        path = _pointer(error.instance_path)
        message = f"{path or 'arguments'}: {error.message}"
        raise ArgumentsInvalid(_cut(message), path=path) from None


def _compile(schema: dict[str, Any]) -> Any:
    try:
        return jsonschema_rs.validator_for(
            schema,
            offline=True,
            mask="the value",
            validate_formats=False,
            pattern_options=_REGULAR_EXPRESSIONS,
        )
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        raise SchemaUnusable(_cut(f"it is no JSON Schema: {error.message}")) from None


def _drop_costly_patterns(subschemas: list[Subschema]) -> None:
    """Remove the patterns that a linear engine cannot build, or not cheaply.

    JavaScript's look-around is among them; the server that wrote such a pattern checks it.
    """
    states = 0

    def is_costly(pattern: str) -> bool:
        nonlocal states
        states += build_states(pattern)
        return states > _MAX_PATTERN_STATES or not _is_buildable(pattern)

    for schema in (subschema.schema for subschema in subschemas):
        if isinstance(pattern := schema.get("pattern"), str) and is_costly(pattern):
            del schema["pattern"]
        named = schema.get("patternProperties")
        costly = (
            [pattern for pattern in named if is_costly(pattern)] if isinstance(named, dict) else []
        )
        for pattern in costly:
            del schema["patternProperties"][pattern]
        if costly:
            # Which properties are additional cannot be told any more.
            schema.pop("additionalProperties", None)
            schema.pop("unevaluatedProperties", None)


def _is_buildable(pattern: str) -> bool:
    try:
        jsonschema_rs.validator_for({"pattern": pattern}, pattern_options=_REGULAR_EXPRESSIONS)
    except jsonschema_rs.ValidationError:
        return False
    return True


def _pointer(path: list[str | int]) -> str:
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def _cut(text: str) -> str:
    return text if len(text) <= _MESSAGE_LENGTH else text[: _MESSAGE_LENGTH - 1] + "…"
