"""Permits and their owners. A permit is held by somebody with a name, or is free.

Nothing is ever recovered by taking a permit from its owner: a leak is a permit whose
owner has ended, and is reported, not repaired.
"""

import msgspec

from exai.calls.limit import Limit, ServiceSample


class PermitStatistics(msgspec.Struct, frozen=True):
    """One pool now."""

    scope: str
    limit: int
    in_use: int


class PermitPool:
    """The permits of one scope (the daemon, a provider, a session)."""

    def __init__(self, scope: str, limit: Limit) -> None:
        self.scope = scope
        self._limit = limit
        self._owners: set[str] = set()

    @property
    def permit_count(self) -> int:
        """Return how many permits exist now."""
        return self._limit.permit_count

    def relimit(self, limit: Limit) -> None:
        """Let another limit say how many permits exist; those that are held stay held."""
        self._limit = limit

    @property
    def in_use(self) -> int:
        """Return how many permits are held."""
        return len(self._owners)

    @property
    def free_count(self) -> int:
        """Return how many more may run."""
        return max(0, self._limit.permit_count - len(self._owners))

    @property
    def has_free(self) -> bool:
        """Tell whether one more may run."""
        return len(self._owners) < self._limit.permit_count

    @property
    def owners(self) -> frozenset[str]:
        """Return who holds a permit, by call id."""
        return frozenset(self._owners)

    @property
    def is_idle(self) -> bool:
        """Tell whether nobody holds a permit."""
        return not self._owners

    def acquire_nowait(self, owner: str) -> None:
        """Give a free permit to `owner`. Asking twice, or for what is not free, is a defect."""
        if owner in self._owners:
            raise RuntimeError(f"{owner} holds a permit of {self.scope} already")
        if len(self._owners) >= self._limit.permit_count:
            raise RuntimeError(f"{self.scope} has no free permit")
        self._owners.add(owner)

    def release(self, owner: str, sample: ServiceSample | None = None) -> None:
        """Take back `owner`'s permit; the limit may learn from how it was used.

        Releasing twice is a defect.
        """
        if owner not in self._owners:
            raise RuntimeError(f"{owner} holds no permit of {self.scope}")
        self._owners.remove(owner)
        if sample is not None:
            self._limit.observe(sample)

    def statistics(self) -> PermitStatistics:
        """Return the numbers now."""
        return PermitStatistics(self.scope, self._limit.permit_count, len(self._owners))
