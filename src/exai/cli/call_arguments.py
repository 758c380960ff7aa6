"""A call's arguments from the command line: `key=value`, `key:=json`, or one JSON object.

Knows how to read a text as what the tool's schema asks for. Whether it fits is for the
daemon to say, so that there is one judge.
"""

import json
from typing import Any

Schema = dict[str, Any]


class ArgumentsUnreadable(Exception):
    """The arguments are not written as they must be."""


class CallArguments:
    """What was written: `texts` wait for the tool's schema, `values` do not."""

    def __init__(self, pairs: list[str]) -> None:
        self.texts: dict[str, str] = {}
        self.values: dict[str, Any] = {}
        for pair in pairs:
            key, separator, text = pair.partition("=")
            name = key.removesuffix(":")
            if not separator or not name:
                raise ArgumentsUnreadable(f"expected key=value or key:=json, got {pair!r}")
            if name in self.texts or name in self.values:
                raise ArgumentsUnreadable(f"{name} is given twice")
            if key.endswith(":"):
                self.values[name] = _read_json(text, name)
            else:
                self.texts[name] = text

    def read_by(self, schema: Schema) -> dict[str, Any]:
        """Return the arguments, each text read as its property in `schema` asks."""
        read = {
            name: _read_by(text, _resolve(["properties", name], schema), schema)
            for name, text in self.texts.items()
        }
        return {**self.values, **read}


def read_object(text: str) -> dict[str, Any]:
    """Return the JSON object in `text`. Raises `ArgumentsUnreadable`."""
    value = _read_json(text, "--json")
    if not isinstance(value, dict):
        raise ArgumentsUnreadable('--json: expected an object: {"key": "value"}')
    return value


def _read_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ArgumentsUnreadable(
            f"{where}: no JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except RecursionError:
        raise ArgumentsUnreadable(f"{where}: nested too deeply") from None


def _read_by(text: str, schema: Any, root: Schema) -> Any:
    """A text that is no JSON stays a text: the daemon says what it should have been."""
    types = _types(schema, root, depth=0)
    if not types or "string" in types:
        return text
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return text


def _types(schema: Any, root: Schema, depth: int) -> set[str]:
    """Collect what a value may be; an empty set where the schema does not say."""
    if not isinstance(schema, dict) or depth > 8:
        return set()
    match schema.get("type"):
        case str(kind):
            return {kind}
        case list(kinds):
            return {kind for kind in kinds if isinstance(kind, str)}
    if isinstance(reference := schema.get("$ref"), str):
        return _types(_resolve(reference.split("/")[1:], root), root, depth + 1)
    constants = _list_in(schema, "enum") or [schema[name] for name in ("const",) if name in schema]
    found = {"string" if isinstance(constant, str) else "json" for constant in constants}
    for choice in _list_in(schema, "anyOf") or _list_in(schema, "oneOf"):
        found |= _types(choice, root, depth + 1)
    return found


def _list_in(schema: Schema, name: str) -> list[Any]:
    value = schema.get(name)
    return value if isinstance(value, list) else []


def _resolve(steps: list[str], root: Schema) -> Any:
    """Follow a path of names into a schema that may be anything."""
    target: Any = root
    for step in steps:
        target = target.get(step) if isinstance(target, dict) else None
    return target
