"""What an installation stands on: lock files, the version, a setup that knows when it is done."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LOCK = (ROOT / "requirements.lock").read_text("utf-8")
RUNTIME_LOCK = (ROOT / "requirements-runtime.lock").read_text("utf-8")
HASH = re.compile(r"--hash=sha256:(\w+)")
PIN = re.compile(r"^(?P<name>[a-z0-9-]+)==(?P<version>[^\s;]+)", re.MULTILINE)


def needed_to_run() -> list[Requirement]:
    return [Requirement(line) for line in PYPROJECT["project"]["dependencies"]]


def needed_besides() -> list[Requirement]:
    extras = PYPROJECT["project"]["optional-dependencies"].values()
    groups = PYPROJECT["dependency-groups"].values()
    lines = [line for group in (*extras, *groups) for line in group]
    return [Requirement(line) for line in lines if isinstance(line, str)]


def imported_names(node: ast.AST) -> list[str]:
    match node:
        case ast.Import():
            return [alias.name for alias in node.names]
        case ast.ImportFrom():
            return [node.module or ""]
        case _:
            return []


@pytest.mark.parametrize("requirement", [*needed_to_run(), *needed_besides()], ids=str)
def test_the_lock_pins_what_the_project_asks_for(requirement: Requirement) -> None:
    pinned = {found["name"]: found["version"] for found in PIN.finditer(LOCK)}

    assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)])


def hashes(lock: str) -> dict[str, list[str]]:
    """Return the hashes of each pin."""
    entries = re.split(r"^(?=\S)", lock, flags=re.MULTILINE)
    return {entry.split()[0]: HASH.findall(entry) for entry in entries if PIN.match(entry)}


def test_every_pin_has_hashes() -> None:
    assert hashes(LOCK)
    assert [pin for pin, found in hashes(LOCK).items() if not found] == []


def test_the_image_is_made_of_the_same_pins_as_the_environment_and_of_no_tool() -> None:
    runtime, all_pins = hashes(RUNTIME_LOCK), hashes(LOCK)
    named = {pin.partition("==")[0] for pin in runtime}

    assert {pin: all_pins.get(pin) for pin in runtime} == runtime
    assert named >= {canonicalize_name(requirement.name) for requirement in needed_to_run()}
    assert not named & {canonicalize_name(requirement.name) for requirement in needed_besides()}


def test_no_lock_names_a_registry() -> None:
    packages = json.loads((ROOT / "tests" / "package-lock.json").read_text("utf-8"))["packages"]

    assert "://" not in LOCK + RUNTIME_LOCK
    assert [name for name, package in packages.items() if "resolved" in package] == []


def test_the_installed_version_is_the_one_of_the_project() -> None:
    assert version("exai") == PYPROJECT["project"]["version"]


def test_the_changelog_knows_the_version() -> None:
    assert f"## [{version('exai')}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_project_asks_for_what_it_imports_and_nothing_else() -> None:
    modules = {
        name.partition(".")[0]
        for path in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        for name in imported_names(node)
    }
    foreign = modules - set(sys.stdlib_module_names) - {"exai"}
    providers = packages_distributions()
    imported = {canonicalize_name(providers[module][0]) for module in foreign}

    assert imported == {canonicalize_name(requirement.name) for requirement in needed_to_run()}


def test_setup_has_nothing_to_do_when_it_is_done() -> None:
    assert Path(sys.prefix, ".stamp").exists(), "this environment was not made by `make setup`"
    setup = subprocess.run(
        [ROOT / "scripts" / "setup"],
        env={"PATH": "/usr/bin:/bin", "VENV": sys.prefix},
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )

    assert setup.stdout + setup.stderr == ""
