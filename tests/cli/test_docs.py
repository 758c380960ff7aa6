"""The documents and the code say the same; where they differ, a reader is misled."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer.main

from exai.cli.app import app
from exai.cli.config_keys import KEYS, NAME, UPSTREAM_KEYS, Key, dotted, type_in_words
from exai.cli.environment import NO_EFFECT, VARIABLES
from exai.cli.exit_codes import MEANINGS, ExitCode
from exai.cli.mcp_server_entry import ToolPolicy

DOCS = Path(__file__).parents[2] / "docs"
CONFIGURATION = (DOCS / "configuration.md").read_text("utf-8")
CLI = (DOCS / "cli.md").read_text("utf-8")


def rows(text: str) -> list[list[str]]:
    """Return the cells of every row of every table."""
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in text.splitlines()
        if line.startswith("| `")
    ]


def row_of(name: str, text: str = CONFIGURATION) -> list[str]:
    found = [row for row in rows(text) if row[0] == f"`{name}`"]
    assert len(found) == 1, f"{name} has {len(found)} rows"
    return found[0]


def default_in_words(key: Key) -> str:
    if key.default is msgspec.NODEFAULT or key.default is None:
        return ""
    return f"`{msgspec.json.encode(key.default).decode()}`"


@pytest.mark.parametrize("key", KEYS.values(), ids=lambda key: dotted(key.path))
def test_every_key_has_a_row_with_its_type_and_default(key: Key) -> None:
    row = row_of(dotted(key.path))
    assert row[1:3] == [type_in_words(key.type), default_in_words(key)]


@pytest.mark.parametrize("name", UPSTREAM_KEYS)
def test_every_key_of_an_mcp_server_has_a_row(name: str) -> None:
    key = UPSTREAM_KEYS[name]
    assert row_of(name)[1:3] == [type_in_words(key.type), default_in_words(key)]


def test_every_key_of_a_tools_policy_has_a_row() -> None:
    for name in ToolPolicy.__struct_fields__:
        assert row_of(name)


def test_no_row_names_a_key_that_is_not_there() -> None:
    known = {dotted(path) for path in KEYS} | {*UPSTREAM_KEYS, *ToolPolicy.__struct_fields__}
    named = {row[0].strip("`") for row in rows(CONFIGURATION) if len(row) >= 4}
    assert named == known


@pytest.mark.parametrize(("variable", "path"), VARIABLES.items())
def test_every_variable_stands_beside_its_key(variable: str, path: tuple[str, ...]) -> None:
    if dotted(path) in {dotted(key) for key in KEYS if NAME not in key}:
        assert row_of(dotted(path))[3] == f"`{variable}`"
    elif path[0] == "providers":
        row = next(row for row in rows(CONFIGURATION) if f"`{variable}`" in row[0])
        assert row[1] == f"`{dotted(path)}`"
    else:
        assert f"`{variable}` is the token of the principal `default`" in CONFIGURATION


def test_no_variable_is_named_that_is_not_there() -> None:
    known = {*VARIABLES, *NO_EFFECT, "EXAI_CONFIG", "EXAI_MCP_CONFIG", "EXAI_"}
    assert set(re.findall(r"`(EXAI_[A-Z_]*)`", CONFIGURATION + CLI)) <= known


@pytest.mark.parametrize(("variable", "reason"), NO_EFFECT.items())
def test_every_variable_without_effect_says_why(variable: str, reason: str) -> None:
    assert row_of(variable) == [f"`{variable}`", reason]


def test_the_exit_codes_are_those_of_the_code() -> None:
    documented = re.findall(r"^\| (\d+) \| (.*) \|$", CLI, re.M)
    assert documented == [(str(code.value), MEANINGS[code]) for code in ExitCode]


def options_of(command: Any) -> set[str]:
    return {
        option
        for parameter in command.params
        if parameter.param_type_name == "option"
        for option in parameter.opts
        if option.startswith("--") and option not in {"--help"}
    }


def commands_of(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_of(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def test_every_command_and_its_options_are_documented() -> None:
    group: Any = typer.main.get_command(app)
    commands = dict(commands_of(group))
    sections = dict(re.findall(r"^## `exai ([a-z ]*[a-z])[^`]*`\n(.*?)(?=^## )", CLI, re.M | re.S))
    assert sections.keys() == commands.keys()
    for name, command in commands.items():
        assert set(re.findall(r"`(--[a-z-]+)", sections[name])) == options_of(command), name
