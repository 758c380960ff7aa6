"""The MCP servers of an `mcpServers` JSON file, as many programs read it.

Knows that file's shape and how servers are named; what is said of one server is
`mcp_server_entry`'s business.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exai.cli.mcp_server_entry import ServerEntry
from exai.cli.secret_references import is_open_to_others
from exai.core.config import UpstreamConfig

NAME_PATTERN = re.compile(r"(?!.*__)[A-Za-z0-9._-]{1,32}\Z")
_LAST_COMMA = re.compile(r".?,\s*[}\]]")
_SERVERS_KEYS = ("mcpServers", "servers")


class _Fault(Exception):
    """The file is wrong here; the message says where and how."""


class McpConfigFile:
    """One file, read once: `servers`, and what is wrong or worth a warning."""

    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        self._path = path
        self._environ = environ
        self._is_open_to_others = False
        self.servers: dict[str, UpstreamConfig] = {}
        self.written: dict[str, dict[str, Any]] = {}
        """Per server, what the file sets, as it stands there: with `${VAR}` unread."""
        self.problems: list[str] = []
        self.warnings: list[str] = []
        try:
            servers = self._servers()
        except _Fault as fault:
            self._problem(str(fault))
            return
        for name, entry in servers.items():
            self._read_server(name, entry)

    def _problem(self, text: str) -> None:
        self.problems.append(f"{self._path}: {text}")

    def _servers(self) -> dict[str, Any]:
        content = self._content()
        found = [content[key] for key in _SERVERS_KEYS if key in content]
        if not found or not isinstance(found[0], dict):
            raise _Fault('expected {"mcpServers": {NAME: {"command": ...}}}')
        if any(other != found[0] for other in found[1:]):
            raise _Fault("mcpServers and servers are both there, and differ: keep one of them")
        return found[0]

    def _content(self) -> dict[str, Any]:
        try:
            with self._path.open("rb") as file:
                self._is_open_to_others = is_open_to_others(file.fileno())
                content = json.loads(file.read(), object_pairs_hook=_object_without_twins)
        except OSError as error:
            raise _Fault(f"cannot be read: {error.strerror}") from None
        except json.JSONDecodeError as error:
            place = f"line {error.lineno}, column {error.colno}"
            raise _Fault(f"{place}: {_what_is_no_json(error)}") from None
        except (UnicodeDecodeError, RecursionError):
            raise _Fault("is not JSON in UTF-8") from None
        return content if isinstance(content, dict) else {}

    def _read_server(self, name: str, entry: Any) -> None:
        if not NAME_PATTERN.match(name):
            self._problem(
                f"the server name {name!r} is not 1 to 32 of a-z, A-Z, 0-9, ., _ and -, "
                "without __; a tool is called SERVER__TOOL"
            )
            return
        if not isinstance(entry, dict):
            self._problem(f"{name}: expected an object with `command` or `url`")
            return
        read = ServerEntry(
            name,
            entry,
            self._path,
            self._environ,
            is_open_to_others=self._is_open_to_others,
        )
        self.problems += [f"{self._path}: {problem}" for problem in read.problems]
        self.warnings += [f"{self._path}: {warning}" for warning in read.warnings]
        if read.config is not None:
            self.servers[name], self.written[name] = read.config, read.written


def _what_is_no_json(error: json.JSONDecodeError) -> str:
    """Say what is wrong; editors that allow comments and last commas let them be written."""
    before, here = error.doc[: error.pos].rstrip(), error.doc[error.pos :].lstrip()
    if here.startswith(("//", "/*")):
        return "comments are not supported in this file: remove them"
    if _LAST_COMMA.match(before[-1:] + here):  # Python's place is the comma, or what follows
        return "a comma after the last entry is not supported in this file: remove it"
    return error.msg


def _object_without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON lets the last of two equal names win; here that would hide a server."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Fault(f"two entries are named {next(n for n in names if names.count(n) > 1)!r}")
    return found
