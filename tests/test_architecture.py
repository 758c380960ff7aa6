"""The documents name real things."""

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMES = re.findall(r"`(exai(?:\.\w+)+)`", (ROOT / "ARCHITECTURE.md").read_text())
ROOMS = re.findall(r"^([a-z_]+(?: \| [a-z_]+)?) ", (ROOT / "ARCHITECTURE.md").read_text(), re.M)


def resolve(name: str) -> object:
    """Return the symbol of a dotted name, taking the longest module that imports."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            found = getattr(found, attribute)
        return found
    raise AssertionError(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_symbol_in_the_architecture_exists(name: str) -> None:
    assert resolve(name) is not None


def test_every_room_of_the_house_is_a_folder_or_the_root() -> None:
    package = ROOT / "src" / "exai"
    rooms = {path.name for path in package.iterdir() if (path / "__init__.py").exists()}
    named = {room for line in ROOMS for room in line.split(" | ")}
    assert rooms | {"ws_server"} <= named
