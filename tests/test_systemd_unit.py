"""The unit file, judged by systemd's own tools; the daemon need not run for it."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from exai.cli.time_to_end import time_to_end_s
from exai.core.config import ServerConfig

ROOT = Path(__file__).parent.parent
UNIT = (ROOT / "systemd/exai.service").read_text("utf-8")
INSTALLED = "/opt/exai/bin/exai"
WORST_EXPOSURE = 20
"""In tenths, as `systemd-analyze` counts: what is open to MCP servers, which need it."""


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """Return the unit as a file whose program is there."""
    path = tmp_path / "exai.service"
    path.write_text(UNIT.replace(INSTALLED, str(Path(sys.executable).with_name("exai"))))
    return path


def setting(name: str) -> str:
    found = re.findall(rf"^{name}=(.*)$", UNIT, re.M)
    assert len(found) == 1, found
    return str(found[0])


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, check=False
    )


def test_systemd_finds_no_fault_in_the_unit(unit: Path) -> None:
    judged = analyze("verify", "--recursive-errors=no", str(unit))
    assert (judged.returncode, judged.stdout + judged.stderr) == (0, "")


def test_the_service_is_exposed_no_more_than_it_must_be(unit: Path) -> None:
    judged = analyze("security", "--offline=true", f"--threshold={WORST_EXPOSURE}", str(unit))
    assert judged.returncode == 0, judged.stdout


def test_systemd_is_more_patient_than_the_daemon() -> None:
    assert float(setting("TimeoutStopSec")) > time_to_end_s(ServerConfig())
    assert float(setting("TimeoutStartSec")) > time_to_end_s(ServerConfig()) + 60


@pytest.mark.parametrize("name", ["ExecStart", "ExecReload"])
def test_the_commands_of_the_unit_are_there(name: str) -> None:
    program, *arguments = shlex.split(setting(name).replace("%S", "/var/lib"))
    assert program == INSTALLED
    asked = subprocess.run(
        [sys.executable, "-m", "exai", *arguments, "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr
