"""One entry of an `mcpServers` file: what it says of a server, and what is wrong with it.

Knows the keys of an entry, those of EXAI under `exai` included; does not know the file.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from exai.cli.config_keys import (
    UPSTREAM_KEYS,
    Key,
    Misfit,
    closest,
    convert,
    did_you_mean,
    keys_of,
)
from exai.cli.masking import SECRET_NAME
from exai.cli.mcp_foreign_settings import (
    APPROVAL_KEYS,
    HEEDED,
    KIND_KEYS,
    KINDS,
    OLD_KIND,
    URL_KEYS,
    Misread,
    filters_of,
    how_timeout_was_read,
    timeout_s_of,
)
from exai.cli.mcp_references import ReferenceFault, expand, is_literal
from exai.core.config import Seconds, Section, UpstreamConfig
from exai.core.http_syntax import is_header_name, is_header_value, is_http_url
from exai.core.tool import Share
from exai.upstream.names import NAMES, is_offerable

_STDIO_KEYS, _HTTP_KEYS = ("command", "args", "env", "cwd"), ("url", "headers")
_WITH_REFERENCES = (*_STDIO_KEYS, *_HTTP_KEYS)
_COMMON_KEYS = (*_WITH_REFERENCES, "disabled")
_OWN_KEYS = tuple(name for name in UPSTREAM_KEYS if name not in _COMMON_KEYS)
_KNOWN = {*_COMMON_KEYS, *HEEDED, "exai"}

_PREFIX = re.compile(r"[A-Za-z0-9_-]{0,40}\Z")


class ToolPolicy(Section, frozen=True, kw_only=True):
    """What may be said of one tool of a server, over what its annotations say; and its name."""

    share: Share = "none"
    cache_ttl_s: Seconds = 0.0
    idempotent: bool = False
    read_only: bool = False
    name: str = ""


_POLICY_KEYS = {key.path[0]: key for key in keys_of(ToolPolicy)}


class ServerEntry:
    """One entry, read once: `config`, if nothing is wrong with it."""

    def __init__(
        self,
        name: str,
        entry: dict[str, Any],
        path: Path,
        environ: Mapping[str, str],
        *,
        is_open_to_others: bool,
    ) -> None:
        self.config: UpstreamConfig | None = None
        self.written: dict[str, Any] = {}
        """What the entry sets, as it stands there: with `${VAR}` unread."""
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self._name = name
        self._entry = _without_nulls(entry)
        self._path = path
        self._is_open_to_others = is_open_to_others
        self._environ = None if entry.get("disabled") is True else environ
        own = self._entry.get("exai", {})
        if isinstance(own, dict):
            self._read(_without_nulls(own))
        else:
            self._problem("exai: expected an object")

    def _problem(self, text: str) -> None:
        self.problems.append(f"{self._name}.{text}")

    def _warn(self, text: str) -> None:
        self.warnings.append(f"{self._name}.{text}")

    def _read(self, own: dict[str, Any]) -> None:
        self._check_names("exai.", own, _OWN_KEYS)
        usual = self._usual()
        foreign, ours = self._foreign(own), self._own(own)
        values = {**self._typed("", usual, _COMMON_KEYS), **foreign, **ours}
        if denied := (*foreign.get("deny", ()), *ours.get("deny", ())):
            values["deny"] = denied
        for check in (self._address_faults, self._header_faults, self._variable_faults):
            for fault in check(usual, values):
                self._problem(fault)
        if not self.problems:
            self.config = UpstreamConfig(**values)
            read = {key: usual.get(key, own.get(key)) for key in values}
            self.written = {key: values[key] if v is None else v for key, v in read.items()}

    def _usual(self) -> dict[str, Any]:
        """Return what the entry says in the words of all programs, of what holds for its kind."""
        entry = self._entry
        urls = [key for key in URL_KEYS if key in entry]
        for other in urls[1:]:
            if entry[other] != entry[urls[0]]:
                self._problem(f"{other} is another address than {urls[0]}: give one of them")
        if urls and "command" in entry:
            self._problem(f"command and {urls[0]} are both there: a server is reached in one way")
        kind = self._kind(is_url_given=bool(urls))
        without_effect = _STDIO_KEYS if kind == "http" else (*_HTTP_KEYS, *URL_KEYS)
        if not self.problems:
            self._check_kind(kind, urls)
        for key in entry:
            if key in without_effect and key not in ("command", *urls):
                how = "that is reached by HTTP" if kind == "http" else "that a command starts"
                self._warn(f"{key} has no effect for a server {how}")
        self._warn_of_others()
        usual = {key: entry[key] for key in _COMMON_KEYS if key in entry}
        if urls:
            usual["url"] = entry[urls[0]]
        return {key: value for key, value in usual.items() if key not in without_effect}

    def _kind(self, *, is_url_given: bool) -> str:
        for key in KIND_KEYS:
            said = self._entry.get(key)
            kind = said.lower().replace("_", "-") if isinstance(said, str) else said
            if kind == OLD_KIND and self._environ is not None:
                self._problem(
                    f"{key}: the old HTTP+SSE transport (sse) is not spoken here; give the address "
                    'of its streamable HTTP, often ending in /mcp, with "type": "http"'
                )
            elif isinstance(kind, str) and kind in KINDS:
                return KINDS[kind]
            elif said is not None and kind != OLD_KIND:
                self._problem(f"{key}: expected one of stdio, http, streamable-http, got {said!r}")
        return "http" if is_url_given else "stdio"

    def _check_kind(self, kind: str, urls: list[str]) -> None:
        has_command = "command" in self._entry
        if not urls and not has_command:
            wanted = {"http": "url"} if kind == "http" else {"stdio": "command"}
            said = any(key in self._entry for key in KIND_KEYS)
            missing = next(iter(wanted.values())) if said else "command (or url)"
            self._problem(f"{missing} is missing")
        elif kind == "http" and not urls:
            self._problem("url is missing: with its type it is reached by HTTP, not by a command")
        elif kind == "stdio" and not has_command:
            self._problem(f"command is missing: with type stdio its {urls[0]} has no effect")

    def _warn_of_others(self) -> None:
        """Other programs keep settings of their own here; a misspelt one of ours looks alike."""
        for unknown in sorted(self._entry.keys() - _KNOWN):
            meant = closest(unknown, [*_COMMON_KEYS, *(HEEDED - set(APPROVAL_KEYS))])
            if unknown in _OWN_KEYS or meant is None:
                own = closest(unknown, _OWN_KEYS)
                meant = f"exai.{own}" if own else None
            self._warn(f"{unknown} has no effect here{did_you_mean(meant)}")

    def _foreign(self, own: dict[str, Any]) -> dict[str, Any]:
        """Return what the settings of other programs come to; those under `exai` go before."""
        values: dict[str, Any] = {}
        try:
            timeout_s = timeout_s_of(self._entry)
            allow, deny = filters_of(self._entry)
        except Misread as fault:
            self._problem(str(fault))
            return {}
        if timeout_s is not None and "timeout_s" not in own:
            values["timeout_s"] = timeout_s
            self._warn(how_timeout_was_read(self._entry, timeout_s))
        if "allow" not in own and allow is not None:
            values["allow"] = tuple(allow)
            if "allowedTools" in self._entry:
                self._warn(
                    "allowedTools was read as all the tools that are offered; "
                    "exai.allow says it without doubt"
                )
        if deny:
            values["deny"] = tuple(deny)
        return values

    def _own(self, own: dict[str, Any]) -> dict[str, Any]:
        filled = {key: value for key, value in own.items() if (key, value) != ("prefix", "")}
        values = self._typed("exai.", filled, _OWN_KEYS)
        if "tools" in values:
            values["tools"] = self._policies(values["tools"])
        if filled.keys() < own.keys():
            values["prefix"] = ""  # nothing is something here
        if not _PREFIX.match(values.get("prefix", "")):
            self._problem("exai.prefix: expected at most 40 of a-z, A-Z, 0-9, _ and -")
        return values

    def _check_names(self, where: str, entry: dict[str, Any], known: Iterable[str]) -> None:
        for unknown in entry.keys() - set(known):
            meant = did_you_mean(closest(unknown, list(known)))
            self._problem(f"{where}{unknown} is not a setting{meant}")

    def _typed(
        self,
        where: str,
        entry: dict[str, Any],
        names: Iterable[str],
        keys: Mapping[str, Key] = UPSTREAM_KEYS,
    ) -> dict[str, Any]:
        """Return the typed values of those of `names` that stand in `entry`."""
        values: dict[str, Any] = {}
        for name in names:
            if name not in entry:
                continue
            try:
                raw = entry[name]
                if name in _WITH_REFERENCES:
                    raw = expand(raw, self._environ)
                values[name] = convert(
                    raw, keys[name], is_text=False, directory=self._path.parent, reveal=str
                )
            except (Misfit, ReferenceFault) as fault:
                self._problem(f"{where}{name}: {fault}")
        return values

    def _policies(self, tools: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        policies = {}
        for tool, policy in tools.items():
            where = f"exai.tools.{tool}."
            self._check_names(where, policy, _POLICY_KEYS)
            policies[tool] = self._typed(where, policy, _POLICY_KEYS, _POLICY_KEYS)
        self._check_new_names(policies)
        return policies

    def _check_new_names(self, policies: dict[str, dict[str, Any]]) -> None:
        owners: dict[str, str] = {}
        for tool, policy in policies.items():
            if (name := policy.get("name")) is None:
                continue
            if not is_offerable(name):
                self._problem(f"exai.tools.{tool}.name: expected {NAMES}, got {name!r}")
            if (owner := owners.setdefault(name, tool)) != tool:
                self._problem(f"exai.tools.{tool}.name: {name!r} is the name of {owner} already")

    def _address_faults(self, usual: dict[str, Any], values: dict[str, Any]) -> Iterator[str]:
        if "url" not in values or self._environ is None:
            return
        if not is_http_url(values["url"]):
            yield "url: expected an http:// or https:// address"
        elif self._is_open_to_others and _holds_secret(usual["url"]):
            yield f"url: {self._open_secret()}"

    def _header_faults(self, usual: dict[str, Any], values: dict[str, Any]) -> Iterator[str]:
        for name, value in values.get("headers", {}).items():
            if not is_header_name(name):
                yield f"headers: {name!r} is no name of a header"
            # What is empty for now, as after `Bearer `, is its server's concern alone.
            if not is_header_value(value.strip("\t ")):
                yield f"headers: {name}: a header holds no line ends or other control characters"
            is_secret = SECRET_NAME.search(name) and value and is_literal(usual["headers"][name])
            if self._is_open_to_others and is_secret:
                yield f"headers: {name}: {self._open_secret()}"

    def _variable_faults(self, usual: dict[str, Any], values: dict[str, Any]) -> Iterator[str]:
        if not all(name and "=" not in name for name in values.get("env", ())):
            yield "env: the name of a variable is not empty and holds no `=`"

    def _open_secret(self) -> str:
        return (
            f"others can read the secret in this file: chmod 600 {self._path}, "
            "or refer to it by ${NAME}"
        )


def _without_nulls(table: dict[str, Any]) -> dict[str, Any]:
    """Return a table without what some programs write for what is not set."""
    return {key: value for key, value in table.items() if value is not None}


def _holds_secret(url: str) -> bool:
    """Tell whether a part of an address that looks like a secret stands there as it is."""
    try:
        parts = urlsplit(url)
        password, query = parts.password, parse_qsl(parts.query)
    except ValueError:
        return False
    secrets = [value for name, value in query if SECRET_NAME.search(name)]
    return any(secret and is_literal(secret) for secret in [password or "", *secrets])
