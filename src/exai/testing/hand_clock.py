"""A clock that a test moves."""

from exai.core.clock import Clock


class HandClock(Clock):
    """Shows `now` on both its faces, and `now` only changes by hand."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def wall_s(self) -> float:
        """Return what the test has set."""
        return self.now

    def monotonic_s(self) -> float:
        """Return what the test has set."""
        return self.now
