"""Rotated tokens in a file of the state directory, as digests, closed to others."""

import asyncio
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from exai.core.token_store import Rotation, RotationsUnreadable, TokenStore


class RotatedTokensFile(TokenStore):
    """One JSON file, replaced as a whole; a crash leaves the one before."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "rotated_tokens.json"

    def load(self) -> list[Rotation]:
        """Return all rotations; none where there is no file."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=list[Rotation])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RotationsUnreadable(
                f"{self._path} cannot be read ({error}); without it the configured tokens hold"
            ) from error

    async def save(self, rotations: Sequence[Rotation]) -> None:
        """Write in a thread."""
        await asyncio.to_thread(self._write, msgspec.json.encode(rotations))

    def _write(self, content: bytes) -> None:
        descriptor, draft = tempfile.mkstemp(dir=self._path.parent, prefix=".rotated_tokens.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, self._path)
        except BaseException:
            os.unlink(draft)
            raise
