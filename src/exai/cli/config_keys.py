"""The keys of the configuration tree, one by one: path, type in words, raw value to typed value.

Knows the tree of `core.config` and how a value is written in TOML, JSON or a variable;
does not know where values come from or which of two wins.
"""

import difflib
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
from msgspec import inspect

from exai.core.config import Config, Secret, Section, UpstreamConfig

KeyPath = tuple[str, ...]

NAME = "NAME"
"""Stands in a key's path where the user chooses a name."""


class Key(msgspec.Struct, frozen=True):
    """One leaf of the tree. `default` is `msgspec.NODEFAULT` where a value is required."""

    path: KeyPath
    type: Any
    default: Any


class Misfit(Exception):
    """A value cannot stand where it was written; the message says what is expected."""


def dotted(path: KeyPath) -> str:
    """Return the path as people write it: `server.port`."""
    return ".".join(path)


def keys_of(section: type[Section], prefix: KeyPath = ()) -> Iterator[Key]:
    """List the leaves of a section, those of its sections included."""
    for field in msgspec.structs.fields(section):
        path = (*prefix, field.name)
        if _is_section(field.type):
            yield from keys_of(field.type, path)
        elif named := _named_section(field.type):
            yield from keys_of(named, (*path, NAME))
        else:
            default = field.default
            if field.default_factory is not msgspec.NODEFAULT:
                default = field.default_factory()
            yield Key(path, field.type, default)


def _is_section(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, Section)


def _named_section(candidate: Any) -> type[Section] | None:
    if get_origin(candidate) is dict and _is_section(get_args(candidate)[1]):
        section: type[Section] = get_args(candidate)[1]
        return section
    return None


UPSTREAM_KEYS = {key.path[0]: key for key in keys_of(UpstreamConfig)}
KEYS = {key.path: key for key in keys_of(Config) if key.path[0] != "upstreams"}
"""Every key that `exai.toml` may hold. MCP servers stand in a file of their own."""

_NAMED = {path[0] for path in KEYS if NAME in path}


def pattern_of(path: KeyPath) -> KeyPath:
    """Return the path with a chosen name replaced by `NAME`."""
    if len(path) > 1 and path[0] in _NAMED:
        return (path[0], NAME, *path[2:])
    return path


def is_table(path: KeyPath) -> bool:
    """Tell whether keys stand below this path."""
    pattern = pattern_of(path)
    return any(key[: len(pattern)] == pattern and key != pattern for key in KEYS)


def closest_key(path: KeyPath) -> str | None:
    """Return the known key that was probably meant."""
    known = [
        dotted(key).replace(NAME, path[1] if pattern_of(path) != path else NAME) for key in KEYS
    ]
    same_name = (key for key in known if key.rpartition(".")[2] == path[-1])
    return next(same_name, None) or closest(dotted(path), known)


def closest(written: str, known: Collection[str]) -> str | None:
    """Return the known word that was probably meant."""
    matches = difflib.get_close_matches(written, known, n=1, cutoff=0.6)
    return matches[0] if matches else None


def did_you_mean(suggestion: str | None) -> str:
    """Return the suggestion as the end of a sentence, or nothing."""
    return f"; did you mean {suggestion}?" if suggestion else ""


_MAY_BE_EMPTY = {"prefix"}


def convert(
    raw: Any, key: Key, *, is_text: bool, directory: Path, reveal: Callable[[str], str]
) -> Any:
    """Return the typed value of `raw`.

    Text is what variables and the command line hold: numbers as digits, lists with
    commas. Relative paths start at `directory`; `reveal` follows a secret's reference.
    Raises `Misfit`.
    """

    def convert_own_types(kind: type, value: Any) -> Any:
        if not isinstance(value, str):
            raise TypeError
        return path_from(value, directory) if kind is Path else Secret(reveal(value))

    if is_text and isinstance(inspect.type_info(key.type), inspect.VarTupleType):
        raw = [part.strip() for part in raw.split(",") if part.strip()]
    try:
        is_missing = raw == "" and key.path[-1] not in _MAY_BE_EMPTY
        if not is_missing and not (isinstance(raw, str) and "\0" in raw):
            return msgspec.convert(raw, key.type, strict=not is_text, dec_hook=convert_own_types)
    except msgspec.ValidationError:
        pass
    raise Misfit(f"expected {type_in_words(key.type)}, got {_value_in_words(raw, key)}")


def path_from(text: str, directory: Path) -> Path:
    """Return the path that `text` names from `directory`; `~` is a home, where there is one."""
    return directory / os.path.expanduser(text)


def type_in_words(kind: Any) -> str:
    """Say what a value must be: `a whole number, at least 1`."""
    return _in_words(inspect.type_info(kind))


def _in_words(kind: inspect.Type) -> str:
    match kind:
        case inspect.UnionType(types=types):
            return " or ".join(_in_words(t) for t in types if not isinstance(t, inspect.NoneType))
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(str(value) for value in sorted(values, key=str))
        case inspect.IntType():
            return "a whole number" + _bounds_in_words(kind)
        case inspect.FloatType():
            return "a number of seconds" + _bounds_in_words(kind)
        case inspect.CustomType(cls=cls):
            return "a path" if cls is Path else "a secret"
        case inspect.DictType(value_type=inspect.StrType()):
            return "a table of texts"
        case inspect.DictType():
            return "a table of tables"
        case _:
            return _PLAIN_TYPES[type(kind)]


_PLAIN_TYPES: dict[type[inspect.Type], str] = {
    inspect.BoolType: "true or false",
    inspect.StrType: "a text",
    inspect.VarTupleType: "a list of texts",
}


def _bounds_in_words(kind: inspect.IntType | inspect.FloatType) -> str:
    if kind.gt is not None:
        return f", more than {kind.gt:g}"
    if kind.ge is not None and isinstance(kind, inspect.IntType) and kind.le is not None:
        return f" from {kind.ge} to {kind.le}"
    return f", at least {kind.ge:g}" if kind.ge is not None else ""


def _value_in_words(raw: Any, key: Key) -> str:
    """Say what was got: the value itself, save where it may be a secret."""
    if raw == "":
        return "nothing"
    if is_secret(key.type) or key.path[-1] in _MAY_HOLD_SECRETS:
        return _TYPES_IN_WORDS.get(type(raw), "something else")
    shown = repr(raw).lower() if isinstance(raw, bool) else repr(raw)
    return shown if len(shown) <= 60 else shown[:57] + "..."


_MAY_HOLD_SECRETS = {"command", "args", "env", "url", "headers"}
_TYPES_IN_WORDS = {
    str: "a text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list with other values",
    dict: "a table with other values",
    type(None): "null",
}


def is_secret(kind: Any) -> bool:
    """Tell whether values of this type must never be shown."""
    return kind is Secret or Secret in get_args(kind)
