"""Rotations are there after a restart, or it is said that they cannot be read."""

import os
from pathlib import Path

import pytest

from exai.core.token_store import Rotation, RotationsUnreadable
from exai.stores.rotated_tokens import RotatedTokensFile

ROTATIONS = [Rotation("ann", b"\x00\xff", b"current", b"previous", 1000.5)]


async def test_what_was_saved_last_is_loaded(tmp_path: Path) -> None:
    assert RotatedTokensFile(tmp_path).load() == []
    for saved in ([], ROTATIONS):
        await RotatedTokensFile(tmp_path).save(saved)
        assert RotatedTokensFile(tmp_path).load() == saved
    assert len(os.listdir(tmp_path)) == 1


@pytest.mark.parametrize("content", [b"", b"[", b'[{"principal": 1}]', b"\xff\xff"])
async def test_what_cannot_be_read_is_told_of(tmp_path: Path, content: bytes) -> None:
    await RotatedTokensFile(tmp_path).save(ROTATIONS)
    path = tmp_path / "rotated_tokens.json"
    path.write_bytes(content)
    with pytest.raises(RotationsUnreadable, match="the configured tokens hold") as refused:
        RotatedTokensFile(tmp_path).load()
    assert str(path) in str(refused.value)


def test_a_file_that_cannot_be_opened_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "rotated_tokens.json").mkdir()
    with pytest.raises(RotationsUnreadable, match="Is a directory"):
        RotatedTokensFile(tmp_path).load()
