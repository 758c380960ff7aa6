"""The contract of what outlives a restart of tokens that were rotated."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import msgspec


class Rotation(msgspec.Struct, frozen=True):
    """One principal's token as it was rotated last; of tokens only digests are kept.

    `configured` is the configured token that it stands for: once the operator changes that,
    the rotation is void. `previous` is valid until `previous_until` (unix seconds).
    """

    principal: str
    configured: bytes
    current: bytes
    previous: bytes
    previous_until: float


class RotationsUnreadable(Exception):
    """What was stored cannot be read; the message says what to do."""


class TokenStore(ABC):
    """Where rotations rest."""

    @abstractmethod
    def load(self) -> list[Rotation]:
        """Return all rotations. Raises `RotationsUnreadable`."""

    @abstractmethod
    async def save(self, rotations: Sequence[Rotation]) -> None:
        """Keep these rotations and no others. Raises `OSError`."""
