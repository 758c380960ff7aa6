"""When to try again: soon at first, then ever later, and not all clients at once."""

import random

import msgspec


class Backoff(msgspec.Struct, frozen=True):
    """Pauses that double up to a bound; each is a random part of its span (full jitter)."""

    first_s: float = 0.1
    longest_s: float = 5.0

    def pause_s(self, tries: int) -> float:
        """Return how long to wait after so many tries that failed, the first at once."""
        if not tries:
            return 0.0
        return random.uniform(0, min(self.first_s * 2 ** min(tries, 30), self.longest_s))
