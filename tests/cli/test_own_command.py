"""How a process was started, so that it can be started so again."""

import subprocess
import sys
from pathlib import Path

import pytest

from exai.cli.own_command import own_command

TELL = "import sys; from exai.cli.own_command import own_command; print(*own_command('--check'))"


def told(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_a_module_is_run_by_the_same_interpreter_and_its_flags(tmp_path: Path) -> None:
    (tmp_path / "told.py").write_text(TELL)
    path = str(tmp_path / "told.py")
    assert told(sys.executable, "-X", "dev", path, "serve") == [
        *(sys.executable, "-X", "dev", path, "serve", "--check")
    ]


def test_a_script_is_run_by_itself(tmp_path: Path) -> None:
    script = tmp_path / "exai"
    script.write_text(f"#!{sys.executable}\n{TELL}\n")
    script.chmod(0o755)
    link = tmp_path / "current"
    link.symlink_to(script)
    assert told(str(link), "serve") == [str(link), "serve", "--check"]


def test_without_the_interpreters_path_its_name_must_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python3", "-m", "exai", "serve"])
    assert own_command() == ["/usr/bin/python3", "-m", "exai", "serve"]
