"""Variables that the texts of an `mcpServers` file refer to: `${VAR}` and its relatives.

Knows how a reference is written and what it stands for; never puts a value into a message.
"""

import re
from collections.abc import Mapping
from typing import Any

_REFERENCE = re.compile(
    r"\$\$\{"  # an escaped `${`
    r"|\$\{(?:env:)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-[^}]*)?\}"
    r"|\$\{(?P<input>input:[^}]*)\}"
    r"|\$\{"  # anything else that looks like a reference
)


class ReferenceFault(Exception):
    """A reference stands for nothing; the message says why."""


def is_literal(text: str) -> bool:
    """Tell whether a text means itself, and nothing that stands elsewhere."""
    return not any(found["name"] for found in _REFERENCE.finditer(text))


def expand(value: Any, environ: Mapping[str, str] | None) -> Any:
    """Return the value with every reference in its texts replaced, without variables: as it is.

    Raises `ReferenceFault`, which says where in a table it is.
    """
    match value:
        case str() if "\0" in value:
            raise ReferenceFault("no program takes a text with a NUL character")
        case str() if environ is not None:
            return _REFERENCE.sub(lambda reference: _value_of(reference, environ), value)
        case list():
            return [expand(item, environ) for item in value]
        case dict():
            return {name: _expand_named(name, item, environ) for name, item in value.items()}
        case _:
            return value


def _expand_named(name: str, value: Any, environ: Mapping[str, str] | None) -> Any:
    try:
        return expand(value, environ)
    except ReferenceFault as fault:
        raise ReferenceFault(f"{name}: {fault}") from None


def _value_of(reference: re.Match[str], environ: Mapping[str, str]) -> str:
    name, default = reference["name"], reference["default"]
    if reference[0] == "$${":
        return "${"
    if reference["input"]:
        raise ReferenceFault(
            f"${{{reference['input']}}} asks a person, and a daemon has none to ask: "
            "put the value into a variable, and write ${env:NAME}"
        )
    if name is None:
        raise ReferenceFault(
            "cannot read what follows `${`; known are ${NAME}, ${env:NAME} and ${NAME:-default}"
        )
    value = environ.get(name)
    if not value and default is not None:
        return str(default).removeprefix(":-")
    if value is None:
        raise ReferenceFault(f"the variable {name} is not set")
    return value
