"""The token that nobody had to choose."""

import subprocess
import sys
from pathlib import Path

import pytest

from exai.cli.secret_references import SecretUnreadable
from exai.cli.state_token import find_state_token, make_state_token, token_path

MAKE = """
import pathlib, sys
from exai.cli.state_token import make_state_token
print(make_state_token(pathlib.Path(sys.argv[1])))
"""


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_first_start_makes_a_token_that_only_its_owner_can_read(tmp_path: Path) -> None:
    state_dir = tmp_path / "deep" / "state"
    token = make_state_token(state_dir)
    assert len(token) >= 32
    assert (mode_of(state_dir), mode_of(token_path(state_dir))) == (0o700, 0o600)
    assert [path.name for path in state_dir.iterdir()] == ["token"]


def test_later_starts_find_the_same_token(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert find_state_token(tmp_path) is None
    assert make_state_token(tmp_path) == make_state_token(tmp_path) == find_state_token(tmp_path)


def test_two_state_directories_have_different_tokens(tmp_path: Path) -> None:
    assert make_state_token(tmp_path / "a") != make_state_token(tmp_path / "b")


def test_starts_at_the_same_time_agree(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", MAKE, str(state_dir)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(6)
    ]
    tokens = {start.communicate(timeout=30)[0] for start in starts}
    assert len(tokens) == 1
    assert tokens == {token_path(state_dir).read_text()}


def test_a_token_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    make_state_token(tmp_path / "s")
    token_path(tmp_path / "s").chmod(0o644)
    with pytest.raises(SecretUnreadable, match="chmod 600"):
        find_state_token(tmp_path / "s")


@pytest.mark.parametrize("content", ["", "short", "ä" * 20])
def test_a_file_that_holds_no_token_is_not_taken_for_one(tmp_path: Path, content: str) -> None:
    token_path(tmp_path).write_text(content)
    token_path(tmp_path).chmod(0o600)
    with pytest.raises(SecretUnreadable, match="token"):
        make_state_token(tmp_path)


def test_a_directory_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    state_dir.chmod(0o777)
    with pytest.raises(SecretUnreadable, match="chmod 700"):
        make_state_token(state_dir)
