"""Reading the configuration again, for a daemon that runs with an earlier one.

Knows which values differ, and shows none of them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from exai.cli.config_file import CommandLine, ConfigProblems, load_config
from exai.core.config import Config, Secret
from exai.core.upstream_reports import ConfigRead

_READ_AGAIN = "upstreams"


def read_again(command_line: CommandLine, before: Config) -> ConfigRead:
    """Return what the configuration says now, beside what it said `before`."""
    try:
        loaded = load_config(command_line)
    except ConfigProblems as wrong:
        return ConfigRead(
            upstreams={}, problems=wrong.problems, warnings=wrong.warnings, for_a_restart=[]
        )
    return ConfigRead(
        upstreams=loaded.config.upstreams,
        problems=[],
        warnings=loaded.warnings,
        for_a_restart=sorted(differences(before, loaded.config)),
    )


def differences(before: Config, now: Config) -> set[str]:
    """Return the dotted keys, save those of MCP servers, whose values are others."""
    one, other = dict(_leaves(before)), dict(_leaves(now))
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


def _leaves(config: Config) -> Iterator[tuple[str, Any]]:
    tree = msgspec.to_builtins(config, enc_hook=_plain, builtin_types=(tuple,))
    del tree[_READ_AGAIN]
    yield from _below("", tree)


def _below(prefix: str, tree: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _below(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value


def _plain(value: Any) -> str:
    match value:
        case Secret():
            return value.reveal()
        case Path():
            return str(value)
    raise NotImplementedError
