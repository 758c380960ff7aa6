"""How much a server may say in a while: a burst, and so many lines a second.

Knows time and a count; knows nothing of what is said.
"""

from exai.core.clock import Clock

_BURST = 100
_PER_S = 10.0


class Allowance:
    """Says yes so often, and counts what was left out meanwhile."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tokens = float(_BURST)
        self._filled_at = clock.monotonic_s()
        self._left_out = 0

    def has_some(self) -> bool:
        """Tell whether `take` would say yes."""
        now = self._clock.monotonic_s()
        self._tokens = min(_BURST, self._tokens + (now - self._filled_at) * _PER_S)
        self._filled_at = now
        return self._tokens >= 1

    def take(self) -> bool:
        """Take one, or count one that is left out."""
        if not self.has_some():
            self._left_out += 1
            return False
        self._tokens -= 1
        return True

    def leave_out(self, count: int) -> None:
        """Count what nobody will hear."""
        self._left_out += count

    def take_left_out(self) -> int:
        """Return how much was left out since this was asked last."""
        left_out, self._left_out = self._left_out, 0
        return left_out
