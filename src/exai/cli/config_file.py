"""Reading the configuration, once, from everywhere it may stand.

Command line > environment > `exai.toml` > defaults. The only reader of the process
environment. Finds every fault before it complains; what the values mean to each other
is `config_checks`' business.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import platformdirs

from exai.cli import environment
from exai.cli.config_checks import problems_of, warnings_of
from exai.cli.config_keys import (
    KEYS,
    KeyPath,
    Misfit,
    closest_key,
    convert,
    did_you_mean,
    dotted,
    is_secret,
    is_table,
    path_from,
    pattern_of,
)
from exai.cli.mcp_config import McpConfigFile
from exai.cli.secret_references import SecretUnreadable, is_open_to_others, is_reference, reveal
from exai.core.config import (
    KNOWN_PROVIDERS,
    Config,
    PrincipalConfig,
    ProviderConfig,
    Section,
    UpstreamConfig,
)

DEFAULT = "default"
"""The source of a value that nobody set."""


class CommandLine(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line may set; None leaves it to the other sources."""

    config: Path | None = None
    mcp_config: Path | None = None
    state_dir: str | None = None
    host: str | None = None
    port: int | None = None
    http_port: int | None = None
    store: str | None = None


_FLAGS: dict[str, tuple[str, KeyPath]] = {
    "state_dir": ("--state-dir", ("state_dir",)),
    "host": ("--host", ("server", "host")),
    "port": ("--port", ("server", "port")),
    "http_port": ("--http-port", ("server", "http_port")),
    "store": ("--store", ("store", "kind")),
}


class LoadedConfig(msgspec.Struct, frozen=True):
    """The tree, and where each value came from.

    `sources` has an entry for each dotted key that somebody set. `written_servers` holds
    the settings of MCP servers as they stand in their file.
    """

    config: Config
    sources: dict[str, str]
    warnings: list[str]
    written_servers: dict[str, dict[str, Any]]

    def source_of(self, key: str) -> str:
        """Return where the value of a dotted key came from."""
        return self.sources.get(key, DEFAULT)


class ConfigProblems(Exception):
    """The configuration cannot be used; `problems` has one sentence for each reason."""

    def __init__(self, problems: list[str], warnings: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
        self.warnings = warnings


def process_environment() -> dict[str, str]:
    """Return the variables of this process."""
    return dict(os.environ)


def take_variables(*names: str) -> dict[str, str]:
    """Take variables out of the environment that are for this process and none of its children."""
    return {name: os.environ.pop(name) for name in names if name in os.environ}


def load_config(
    command_line: CommandLine,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    *,
    for_client: bool = False,
) -> LoadedConfig:
    """Return the effective configuration. Raises `ConfigProblems` with everything that is wrong.

    `environ` and `cwd` default to those of this process. A client need not have the
    daemon's secrets: for it MCP servers are not read, nor secrets that are out of reach.
    """
    environ = process_environment() if environ is None else environ
    cwd = Path.cwd() if cwd is None else cwd
    draft = _Draft(environ, for_client=for_client)
    draft.warnings += environment.warnings_about(environ)
    config = command_line.config or environ.get(environment.CONFIG_VARIABLE)
    if config_path := _find_file(config, "exai.toml", cwd):
        draft.read_toml(config_path)
    for name, path, text in environment.settings_in(environ):
        draft.set(path, text, _Origin(name, cwd, is_text=True))
    for field, (flag, path) in _FLAGS.items():
        value = getattr(command_line, field)
        if value is not None:
            draft.set(path, str(value), _Origin(flag, cwd, is_text=True))
    servers = command_line.mcp_config or environ.get(environment.MCP_CONFIG_VARIABLE)
    if not for_client and (servers_path := _find_file(servers, "mcp.json", cwd)):
        draft.read_mcp_servers(servers_path)
    return draft.finish()


def _find_file(given: Path | str | None, name: str, cwd: Path) -> Path | None:
    """Return the file that was given, or else the user's, if there is one."""
    if given:
        return path_from(str(given), cwd)
    path = platformdirs.user_config_path("exai", appauthor=False) / name
    return path if os.path.exists(path) else None  # None, too, if its directory is closed to us


class _Origin(msgspec.Struct, frozen=True):
    """Where a value was found. Relative paths in it start at `directory`."""

    place: str
    directory: Path
    is_text: bool = False
    is_open_to_others: bool = False


class _Draft:
    """The tree while it is put together: typed values by key, the later over the earlier."""

    def __init__(self, environ: Mapping[str, str], *, for_client: bool) -> None:
        self._environ = environ
        self._for_client = for_client
        self._values: dict[str, Any] = {}
        self._sources: dict[str, str] = {}
        self._upstreams: dict[str, UpstreamConfig] = {}
        self._written_servers: dict[str, dict[str, Any]] = {}
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def read_toml(self, path: Path) -> None:
        """Take what `exai.toml` sets."""
        try:
            with path.open("rb") as file:
                origin = _Origin(
                    str(path), path.parent, is_open_to_others=is_open_to_others(file.fileno())
                )
                table = tomllib.load(file)
        except OSError as error:
            self.problems.append(f"{path}: cannot be read: {error.strerror}")
        except UnicodeDecodeError:
            self.problems.append(f"{path}: is not UTF-8 text")
        except tomllib.TOMLDecodeError as error:
            self.problems.append(f"{path}: {error}")
        else:
            self._set_table((), table, origin)

    def _set_table(self, path: KeyPath, table: dict[str, Any], origin: _Origin) -> None:
        for name, value in table.items():
            below = (*path, name)
            if not is_table(below):
                self.set(below, value, origin)
            elif isinstance(value, dict):
                self._table_at(below)
                self._set_table(below, value, origin)
            else:
                self.problems.append(f"{origin.place}: {dotted(below)}: expected a table")

    def set(self, path: KeyPath, raw: Any, origin: _Origin) -> None:
        """Set one key; what is wrong with it becomes a problem."""
        key = KEYS.get(pattern_of(path))
        if key is None:
            self.problems.append(f"{origin.place}: {_unknown(path)}")
            return
        try:
            if is_secret(key.type):
                _check_is_kept_private(raw, origin)
            value = convert(
                raw,
                key,
                is_text=origin.is_text,
                directory=origin.directory,
                reveal=lambda text: reveal(text, self._environ, origin.directory),
            )
        except (Misfit, SecretUnreadable) as fault:
            if not (self._for_client and isinstance(fault, SecretUnreadable)):
                self.problems.append(f"{origin.place}: {dotted(path)}: {fault}")
            return
        self._table_at(path[:-1])[path[-1]] = value
        self._sources[dotted(path)] = origin.place

    def _table_at(self, path: KeyPath) -> dict[str, Any]:
        table = self._values
        for name in path:
            table = table.setdefault(name, {})
        return table

    def read_mcp_servers(self, path: Path) -> None:
        """Take the servers of an MCP file."""
        file = McpConfigFile(path, self._environ)
        self._upstreams, self._written_servers = file.servers, file.written
        self.problems += file.problems
        self.warnings += file.warnings
        for server, written in file.written.items():
            for key in written:
                self._sources[f"upstreams.{server}.{key}"] = str(path)

    def finish(self) -> LoadedConfig:
        """Return the tree, if nothing is wrong with it. Raises `ConfigProblems`."""
        sections: dict[str, Any] = {
            field.name: field.type(**self._values.get(field.name, {}))
            for field in msgspec.structs.fields(Config)
            if isinstance(field.type, type) and issubclass(field.type, Section)
        }
        config = Config(
            state_dir=self._values.get("state_dir") or default_state_dir(),
            principals=self._principals(),
            providers=self._providers(),
            upstreams=self._upstreams,
            **sections,
        )
        if not config.state_dir.is_absolute():
            self.problems.append("no home directory is known here: set --state-dir")
        self.problems += problems_of(config, self._sources)
        if self.problems:
            raise ConfigProblems(self.problems, self.warnings)
        self.warnings += warnings_of(config)
        return LoadedConfig(config, self._sources, self.warnings, self._written_servers)

    def _principals(self) -> dict[str, PrincipalConfig]:
        principals = {}
        for name, values in self._values.get("principals", {}).items():
            if "token" in values:
                may_rotate = values.pop("may_rotate", name == "default")
                admin = values.pop("admin", name == "default")
                principals[name] = PrincipalConfig(may_rotate=may_rotate, admin=admin, **values)
            else:
                self._missing(f"principals.{name}.token")
        return principals

    def _providers(self) -> dict[str, ProviderConfig]:
        providers = KNOWN_PROVIDERS.copy()
        for name, values in self._values.get("providers", {}).items():
            if name in KNOWN_PROVIDERS:
                providers[name] = msgspec.structs.replace(KNOWN_PROVIDERS[name], **values)
            elif "base_url" in values:
                providers[name] = ProviderConfig(**values)
            else:
                self._missing(f"providers.{name}.base_url")
        return providers

    def _missing(self, key: str) -> None:
        if not self._for_client and not any(key in problem for problem in self.problems):
            self.problems.append(f"{key} is missing")


def default_state_dir() -> Path:
    """Return the platform's place for what a program of this user keeps."""
    return platformdirs.user_state_path("exai", appauthor=False)


def _unknown(path: KeyPath) -> str:
    if path[0] == "upstreams":
        return "MCP servers stand in a file of their own: see --mcp-config"
    return f"{dotted(path)} is not a setting{did_you_mean(closest_key(path))}"


def _check_is_kept_private(raw: Any, origin: _Origin) -> None:
    if origin.is_open_to_others and isinstance(raw, str) and not is_reference(raw):
        raise SecretUnreadable(
            f"others can read the secret in this file: chmod 600 {origin.place}, "
            "or refer to it by env:NAME or file:PATH"
        )
