"""What admission costs with few and with many waiting: the same.

    .venv/bin/python -m bench.admission

Reserves, joins, leaves, starts and releases, in process, beside 10 and beside 10,000 waiting
calls; once with all of them in one session, once in 100 sessions of 10 principals. The two
sizes take turns; each figure is the median of the rounds. Prints a table of µs per step.
"""

import statistics
import time
from collections.abc import Callable

from exai.calls.admission import AdmissionController
from exai.calls.limit import FixedLimit
from exai.calls.places import Place
from exai.core.clock import SystemClock
from exai.core.config import LimitsConfig
from exai.core.tool import Demand

MANY = 10_000
ROUNDS = 30
STEPS = 100
SCOPES = [f"provider:{n}" for n in range(10)]
DEMAND = Demand(SCOPES[0])
LIMITS = LimitsConfig(
    global_max_inflight=1000,
    session_max_inflight=500,
    session_max_waiting=10 * MANY,
    principal_max_waiting=10 * MANY,
    global_max_waiting=20 * MANY,
)


class Crowd:
    """A full provider, and so many calls that wait for it."""

    def __init__(self, waiting_count: int, session_count: int) -> None:
        scopes = {scope: FixedLimit(1) for scope in SCOPES}
        self.admission = AdmissionController(LIMITS, scopes, SystemClock())
        self._session_count = session_count
        self._owner_count = 0
        self._running, self._waiting = (
            self.reserve(),
            [self.reserve() for _ in range(waiting_count)],
        )

    def reserve(self) -> Place:
        self._owner_count += 1
        n = self._owner_count % self._session_count
        place, _ = self.admission.reserve(
            f"c{self._owner_count}", principal=f"p{n % 10}", session_id=f"s{n}", demand=DEMAND
        )
        return place

    def reserve_and_leave(self) -> None:
        """Stand at the end of a line, and go."""
        self.admission.give_up(self.reserve())

    def join_and_leave(self) -> None:
        """Join a waiting call, and leave it."""
        stand = self.admission.join(self._waiting[-1], principal="p0", session_id="s0")
        self.admission.leave(stand)

    def release_and_start(self) -> None:
        """End the running call, so that the next starts; somebody new comes."""
        self.admission.give_up(self._running)
        self._running = next(place for place in self._waiting if place.is_granted)
        self._waiting.remove(self._running)
        self._waiting.append(self.reserve())


def us_per_step(step: Callable[[], None]) -> float:
    """Return the mean of `STEPS` steps."""
    begun_s = time.perf_counter()
    for _ in range(STEPS):
        step()
    return (time.perf_counter() - begun_s) / STEPS * 1e6


def main() -> None:
    """Measure and print."""
    print(f"{'step':<20}{'sessions':>9}{'10 wait':>10}{f'{MANY:,} wait':>14}{'ratio':>8}")
    for session_count in (1, 100):
        few, many = Crowd(10, session_count), Crowd(MANY, session_count)
        for name in ("reserve_and_leave", "join_and_leave", "release_and_start"):
            pairs = [
                (us_per_step(getattr(few, name)), us_per_step(getattr(many, name)))
                for _ in range(ROUNDS)
            ]
            few_us, many_us = (statistics.median(side) for side in zip(*pairs, strict=True))
            print(
                f"{name:<20}{session_count:>9}{few_us:>8.1f}µs{many_us:>12.1f}µs"
                f"{many_us / few_us:>8.2f}"
            )


if __name__ == "__main__":
    main()
