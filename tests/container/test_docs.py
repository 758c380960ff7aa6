"""`docs/container.md`, followed by a reader who does exactly what it says, from the top."""

import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.container.engine import (
    BUILD_ARGUMENTS,
    BUILD_ENVIRON,
    BUILD_S,
    PODMAN,
    ROOT,
    alone,
    free_ports,
    run,
)

PAGE = (ROOT / "docs" / "container.md").read_text("utf-8")
COMPOSE = (ROOT / "compose.yaml").read_text("utf-8")
BLOCK = re.compile(r"^```(?P<kind>\w+)(?: (?P<file>\S+))?\n(?P<text>.*?)^```", re.M | re.S)
CHECKOUT = (
    *("compose.yaml", "Dockerfile", ".dockerignore", "pyproject.toml", "README.md", "LICENSE"),
    *("requirements.lock", "requirements-runtime.lock", "src", "container"),
)
DOCKER = f"""#!/usr/bin/env bash
exec podman-compose --podman-path {PODMAN} --podman-build-args "{BUILD_ARGUMENTS}" "${{@:2}}"
"""
ANSWERS = (
    *("10 of 10 checks hold", "hello", "is ok; up", "10 of 10 checks hold"),
    *("10 of 10 checks hold", '"timezone": "UTC"'),
)
"""What a reader sees, in this order."""


def script() -> Iterator[str]:
    """Yield what the reader types: the commands, and the files where they are shown."""
    for block in BLOCK.finditer(PAGE):
        if file := block["file"]:
            yield f"mkdir -p {Path(file).parent} && cat > {file} <<'END'\n{block['text']}END"
        elif block["kind"] == "sh":
            yield block["text"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a checkout that nobody has touched, and a `docker` on the path beside it."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text(DOCKER)
    (tmp_path / "bin" / "docker").chmod(0o755)
    for name in CHECKOUT:
        source, copy = ROOT / name, tmp_path / "checkout" / name
        copy.parent.mkdir(exist_ok=True)
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy2(source, copy)
    return tmp_path / "checkout"


@pytest.mark.slow
@pytest.mark.usefixtures("image")
@pytest.mark.timeout(BUILD_S)
def test_each_command_does_what_the_page_says(checkout: Path) -> None:
    environ = {
        "HOME": str(checkout),
        "PATH": f"{checkout.parent / 'bin'}:{Path(sys.prefix, 'bin')}:{os.environ['PATH']}",
        "COMPOSE_PROJECT_NAME": f"exai-{uuid.uuid4().hex[:8]}",
        **BUILD_ENVIRON,
        **free_ports(),
    }
    commands = "set -eu\n" + "\n".join(script())
    with alone("service"):
        try:
            read = run(["bash", "-c", commands], environ, BUILD_S, checkout).written()
        finally:
            run(["docker", "compose", "down", "--volumes"], environ, cwd=checkout)

    assert re.search(".*".join(map(re.escape, ANSWERS)), read, re.S), read


def test_the_page_names_each_variable_that_compose_hands_on() -> None:
    rows = "".join(line for line in PAGE.splitlines() if line.startswith("| `"))
    for name in re.findall(r"\$\{(\w+)", COMPOSE):
        assert f"`{name}`" in rows
