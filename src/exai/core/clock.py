"""Time as something that is handed in: the one module that reads the machine's clocks."""

import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks: one for people and stores, one for every deadline and TTL."""

    def wall_s(self) -> float:
        """Return unix seconds."""

    def monotonic_s(self) -> float:
        """Return seconds that never jump; the event loop's own time."""


class SystemClock(Clock):
    """The machine's clocks; `monotonic_s` agrees with `loop.time()`.

    The wall clock is read once and moved on by the monotonic one, so that setting the
    machine's time neither expires nor prolongs anything in a running process.
    """

    def __init__(self) -> None:
        self._offset_s = time.time() - time.monotonic()

    monotonic_s = staticmethod(time.monotonic)

    def wall_s(self) -> float:
        """Return unix seconds."""
        return self._offset_s + time.monotonic()
