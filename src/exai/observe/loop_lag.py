"""How late the event loop is: whoever holds it up makes everybody wait."""

from collections import deque

import msgspec

_WINDOW_S = 60.0


class LoopLagStatistics(msgspec.Struct, frozen=True):
    """The latest lag, and the longest of the last minute, in seconds."""

    latest_s: float
    longest_s: float


class LoopLag:
    """Keeps the lags of the last minute; only those that no later one was longer than."""

    def __init__(self) -> None:
        self._latest_s = 0.0
        self._longest: deque[tuple[float, float]] = deque()

    def add(self, now: float, lag_s: float) -> None:
        """Take note of one lag."""
        self._latest_s = lag_s
        while self._longest and self._longest[-1][1] <= lag_s:
            self._longest.pop()
        self._longest.append((now, lag_s))
        while self._longest[0][0] < now - _WINDOW_S:
            self._longest.popleft()

    def statistics(self) -> LoopLagStatistics:
        """Return the numbers now."""
        longest_s = self._longest[0][1] if self._longest else 0.0
        return LoopLagStatistics(round(self._latest_s, 6), round(longest_s, 6))
