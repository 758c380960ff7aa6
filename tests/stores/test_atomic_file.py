"""A file is replaced as a whole, or stays as it was, and nothing is left beside it."""

import os
import stat
from pathlib import Path

import pytest

from exai.stores.atomic_file import draft, replace_file


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_replaced_as_a_whole_and_closed_to_others(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "state"
    for content in (b"first", b"second"):
        replace_file(path, content, durable=durable)
        assert path.read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["state"]


def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "state"
    (path / "within").mkdir(parents=True)
    with pytest.raises(OSError, match="Is a directory"):
        replace_file(path, b"anew")
    assert os.listdir(tmp_path) == ["state"]


def test_a_draft_is_gone_afterwards(tmp_path: Path) -> None:
    with draft(tmp_path / "state", b"anew") as written:
        assert written.read_bytes() == b"anew"
        assert written.parent == tmp_path
    assert os.listdir(tmp_path) == []
