"""How many may run at once. Who does is `permits`' concern."""

from typing import Protocol


class Limit(Protocol):
    """A number of permits, which may change over time."""

    @property
    def permit_count(self) -> int:
        """Return how many permits exist now."""


class FixedLimit(Limit):
    """A number from the configuration."""

    def __init__(self, permit_count: int) -> None:
        if permit_count < 1:
            raise ValueError(f"a limit needs at least one permit, not {permit_count}")
        self._permit_count = permit_count

    @property
    def permit_count(self) -> int:
        """Return the configured number."""
        return self._permit_count
