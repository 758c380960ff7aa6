"""What settings of other programs mean, where they stand in an entry of `mcpServers`.

Pure: knows the words of those programs, and which of them EXAI heeds; reads no file.
"""

from collections.abc import Iterator
from glob import escape
from typing import Any

KINDS = {
    "stdio": "stdio",
    "http": "http",
    "streamable-http": "http",
    "streamablehttp": "http",
}
"""How a server is reached, by what programs call it."""
OLD_KIND = "sse"

KIND_KEYS = ("type", "transport")
URL_KEYS = ("url", "serverUrl", "httpUrl")
ALLOW_KEYS = ("includeTools", "allowedTools")
DENY_KEYS = ("excludeTools", "disabledTools")
APPROVAL_KEYS = ("alwaysAllow", "autoApprove", "trust")
"""Whose calls a program makes without asking its user: no matter of the daemon's."""
HEEDED = {*KIND_KEYS, *URL_KEYS, *ALLOW_KEYS, *DENY_KEYS, *APPROVAL_KEYS, "timeout"}

_MILLISECONDS_FROM = 1000


class Misread(Exception):
    """A setting cannot be read; the message says its key and what is expected."""


def timeout_s_of(entry: dict[str, Any]) -> float | None:
    """Return what `timeout` means in seconds: programs disagree, so large ones are milliseconds.

    Raises `Misread`.
    """
    timeout = entry.get("timeout")
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
        raise Misread("timeout: expected a number, more than 0")
    return float(timeout if timeout < _MILLISECONDS_FROM else timeout / 1000)


def how_timeout_was_read(entry: dict[str, Any], timeout_s: float) -> str:
    """Say what was made of `timeout`."""
    unit = "seconds" if entry["timeout"] < _MILLISECONDS_FROM else "milliseconds"
    return (
        f"timeout = {entry['timeout']:g} was read as {unit}; "
        f"exai.timeout_s = {timeout_s:g} says it without doubt"
    )


def filters_of(entry: dict[str, Any]) -> tuple[list[str] | None, list[str]]:
    """Return which tools are to be offered (None: all), and which not: as globs of their names.

    Raises `Misread`.
    """
    allowed: list[str] | None = None
    for names in _names_under(ALLOW_KEYS, entry):
        allowed = names if allowed is None else [name for name in allowed if name in names]
    denied = [name for names in _names_under(DENY_KEYS, entry) for name in names]
    return allowed, denied


def _names_under(keys: tuple[str, ...], entry: dict[str, Any]) -> Iterator[list[str]]:
    for key in keys:
        names = entry.get(key)
        if names is None:
            continue
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise Misread(f"{key}: expected a list of names of tools")
        if "*" not in names:
            yield [escape(name) for name in names]
