"""`exai config`: the effective tree, and where each value came from, secrets masked."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from exai.cli.config_faults import refuse_config, show_warnings
from exai.cli.config_file import CommandLine, ConfigProblems, LoadedConfig, load_config
from exai.cli.exit_codes import ExitCode
from exai.cli.state_token import token_path
from exai.cli.terminal import write, write_json
from exai.core.addresses import shown_url, without_password
from exai.core.config import Secret, Section, UpstreamConfig

_MASK = "***"
_SECRET_FLAG = re.compile(r"-.*(key|token|secret|password)", re.IGNORECASE)


def run_config(command_line: CommandLine, *, as_json: bool) -> ExitCode:
    """Print the configuration that `exai serve` would use."""
    try:
        loaded = load_config(command_line)
    except ConfigProblems as wrong:
        return refuse_config(wrong)
    show_warnings(loaded.warnings)
    shown = dict(_shown_values(loaded))
    if as_json:
        write_json({key: {"value": v, "source": loaded.source_of(key)} for key, v in shown.items()})
    else:
        write("".join(_lines(loaded, shown)))
    return ExitCode.OK


def _lines(loaded: LoadedConfig, shown: dict[str, Any]) -> Iterator[str]:
    for key, value in shown.items():
        text = json.dumps(value, ensure_ascii=False)
        yield f"{key} = {text}  # {loaded.source_of(key)}\n"
    if loaded.config.auth.mode == "token" and not loaded.config.principals:
        yield f"# the first start makes a token in {token_path(loaded.config.state_dir)}\n"


def _shown_values(loaded: LoadedConfig) -> Iterator[tuple[str, Any]]:
    yield from _leaves(loaded.config, "")
    for name, server in loaded.config.upstreams.items():
        yield from _server_values(name, server, loaded.written_servers[name])


def _leaves(section: Section, prefix: str) -> Iterator[tuple[str, Any]]:
    for name in section.__struct_fields__:
        value, key = getattr(section, name), f"{prefix}{name}"
        if isinstance(value, Section):
            yield from _leaves(value, f"{key}.")
        elif isinstance(value, dict):
            for chosen, below in value.items():
                if not isinstance(below, UpstreamConfig):
                    yield from _leaves(below, f"{key}.{chosen}.")
        else:
            yield key, _masked(value)


def _server_values(
    name: str, server: UpstreamConfig, written: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    """A server's settings as they stand in the file, so that `${VAR}` shows no secret."""
    for key in server.__struct_fields__:
        value = written.get(key, getattr(server, key))
        if key in ("env", "headers"):
            value = dict.fromkeys(value, _MASK)
        elif key == "url" and value is not None:
            value = shown_url(value)
        elif key == "args":
            value = list(_masked_arguments(value))
        yield f"upstreams.{name}.{key}", _masked(value)


def _masked_arguments(arguments: Iterable[str]) -> Iterator[str]:
    """Mask what follows a flag that is named like a secret: `--api-key=…` or `--token …`."""
    hide_next = False
    for argument in arguments:
        flag, separator, _ = argument.partition("=")
        is_secret = bool(_SECRET_FLAG.match(flag))
        yield _MASK if hide_next else f"{flag}={_MASK}" if is_secret and separator else argument
        hide_next = is_secret and not separator


def _masked(value: Any) -> Any:
    match value:
        case Secret():
            return _MASK
        case str():
            return without_password(value)
        case None | bool() | int() | float() | dict() | tuple() | list():
            return value
        case _:
            return str(value)
