"""Rotated tokens in a file of the state directory, as digests, closed to others."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec

from exai.core.token_store import Rotation, RotationsUnreadable, TokenStore
from exai.stores.atomic_file import replace_file


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
        await asyncio.to_thread(replace_file, self._path, msgspec.json.encode(rotations))
