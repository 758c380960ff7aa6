"""The MCP servers of an `mcpServers` JSON file, as many programs read it.

Knows that file's shape, what EXAI adds to it under the key `exai`, and `${VAR}`; does
not know how a server is started.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from exai.cli.config_keys import (
    UPSTREAM_KEYS,
    Key,
    Misfit,
    closest,
    convert,
    did_you_mean,
    keys_of,
)
from exai.core.config import Seconds, Section, UpstreamConfig
from exai.core.tool import Share

NAME_PATTERN = re.compile(r"(?!.*__)[a-z0-9-]{1,32}\Z")
_COMMON_KEYS = ("command", "args", "env", "cwd", "disabled")
_OWN_KEYS = tuple(name for name in UPSTREAM_KEYS if name not in _COMMON_KEYS)
_HTTP_KEYS = {"url", "serverUrl", "httpUrl"}
_REFERENCE = re.compile(
    r"\$\$\{"  # an escaped `${`
    r"|\$\{(?:env:)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-[^}]*)?\}"
    r"|\$\{"  # anything else that looks like a reference
)


class ToolPolicy(Section, frozen=True, kw_only=True):
    """What may be said of one tool of a server, over what its annotations say."""

    share: Share = "none"
    cache_ttl_s: Seconds = 0.0
    idempotent: bool = False
    read_only: bool = False
    name: str = ""


_POLICY_KEYS = {key.path[0]: key for key in keys_of(ToolPolicy)}


class _Fault(Exception):
    """The file is wrong here; the message says where and how."""


class McpConfigFile:
    """One file, read once: `servers`, and what is wrong or worth a warning."""

    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        self._path = path
        self._environ = environ
        self.servers: dict[str, UpstreamConfig] = {}
        self.written: dict[str, dict[str, Any]] = {}
        """Per server, what the file sets, as it stands there: with `${VAR}` unread."""
        self.problems: list[str] = []
        self.warnings: list[str] = []
        try:
            servers = _servers_in(path)
        except _Fault as fault:
            self._problem(str(fault))
            return
        for name, entry in servers.items():
            self._read_server(name, entry)

    def _problem(self, text: str) -> None:
        self.problems.append(f"{self._path}: {text}")

    def _warn(self, text: str) -> None:
        self.warnings.append(f"{self._path}: {text}")

    def _read_server(self, name: str, entry: Any) -> None:
        if not NAME_PATTERN.match(name):
            self._problem(
                f"the server name {name!r} is not 1 to 32 of a-z, 0-9 and -; "
                "a tool is called SERVER__TOOL"
            )
        elif not isinstance(entry, dict):
            self._problem(f"{name}: expected an object with `command`")
        elif _HTTP_KEYS & entry.keys() or entry.get("type", "stdio") != "stdio":
            self._problem(
                f"{name}: only servers with a `command` (stdio) are supported in this version, "
                "none that is reached by HTTP"
            )
        elif "command" not in entry:
            self._problem(f"{name}.command is missing")
        else:
            self._read_stdio_server(name, entry)

    def _read_stdio_server(self, name: str, entry: dict[str, Any]) -> None:
        own = entry.get("exai", {})
        if not isinstance(own, dict):
            self._problem(f"{name}.exai: expected an object, got {own!r}")
            return
        problem_count = len(self.problems)
        self._check_names(f"{name}.exai", own, _OWN_KEYS)
        self._warn_of_others(name, entry)
        expand = (lambda text: text) if entry.get("disabled") is True else self._expand
        values = {
            **self._typed(name, entry, _COMMON_KEYS, expand),
            **self._typed(f"{name}.exai", own, _OWN_KEYS, lambda text: text),
        }
        if "tools" in values:
            values["tools"] = self._policies(f"{name}.exai.tools", values["tools"])
        if not all(name and "=" not in name for name in values.get("env", ())):
            self._problem(f"{name}.env: the name of a variable is not empty and holds no `=`")
        if len(self.problems) == problem_count:
            self.servers[name] = UpstreamConfig(**values)
            self.written[name] = {key: entry.get(key, own.get(key)) for key in values}

    def _check_names(self, where: str, entry: dict[str, Any], known: Iterable[str]) -> None:
        for unknown in entry.keys() - set(known):
            meant = did_you_mean(closest(unknown, list(known)))
            self._problem(f"{where}.{unknown} is not a setting{meant}")

    def _warn_of_others(self, name: str, entry: dict[str, Any]) -> None:
        """Other programs keep settings of their own here; a misspelt one of ours looks alike."""
        for unknown in sorted(entry.keys() - {*_COMMON_KEYS, "exai", "type"}):
            meant = closest(unknown, _COMMON_KEYS)
            if meant is None and unknown in {*_OWN_KEYS, "timeout"}:
                meant = f"exai.{closest(unknown, _OWN_KEYS)}"
            self._warn(f"{name}.{unknown} has no effect here{did_you_mean(meant)}")

    def _typed(
        self,
        where: str,
        entry: dict[str, Any],
        names: Iterable[str],
        expand: Callable[[str], str],
        keys: Mapping[str, Key] = UPSTREAM_KEYS,
    ) -> dict[str, Any]:
        """Return the typed values of those of `names` that stand in `entry`."""
        values: dict[str, Any] = {}
        for name in names:
            if name not in entry:
                continue
            try:
                values[name] = convert(
                    _expand_all(entry[name], expand),
                    keys[name],
                    is_text=False,
                    directory=self._path.parent,
                    reveal=str,
                )
            except (Misfit, _Fault) as fault:
                self._problem(f"{where}.{name}: {fault}")
        return values

    def _policies(self, where: str, tools: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for tool, policy in tools.items():
            self._check_names(f"{where}.{tool}", policy, _POLICY_KEYS)
        return {
            tool: self._typed(f"{where}.{tool}", policy, _POLICY_KEYS, str, _POLICY_KEYS)
            for tool, policy in tools.items()
        }

    def _expand(self, text: str) -> str:
        return _REFERENCE.sub(self._value_of, text)

    def _value_of(self, reference: re.Match[str]) -> str:
        name, default = reference["name"], reference["default"]
        if reference[0] == "$${":
            return "${"
        if name is None:
            raise _Fault("cannot read what follows `${`; known are ${NAME} and ${NAME:-default}")
        value = self._environ.get(name)
        if not value and default is not None:
            return str(default).removeprefix(":-")
        if value is None:
            raise _Fault(f"the variable {name} is not set")
        return value


def _expand_all(value: Any, expand: Callable[[str], str]) -> Any:
    match value:
        case str() if "\0" in value:
            raise _Fault("a process takes no text with a NUL character")
        case str():
            return expand(value)
        case list():
            return [_expand_all(item, expand) for item in value]
        case dict():
            return {name: _expand_all(item, expand) for name, item in value.items()}
        case _:
            return value


def _servers_in(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=_object_without_twins)
    except OSError as error:
        raise _Fault(f"cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise _Fault(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (UnicodeDecodeError, RecursionError):
        raise _Fault("is not JSON in UTF-8") from None
    servers = content.get("mcpServers") if isinstance(content, dict) else None
    if not isinstance(servers, dict):
        raise _Fault('expected {"mcpServers": {NAME: {"command": ...}}}')
    return servers


def _object_without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON lets the last of two equal names win; here that would hide a server."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Fault(f"two entries are named {next(n for n in names if names.count(n) > 1)!r}")
    return found
