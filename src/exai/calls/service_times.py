"""How long work takes, as measured, and what that says about a wait."""

import random
from collections import deque

_WINDOW_COUNT = 64
_FEWEST_SAMPLES = 5
_UNKNOWN_RETRY_S = 1.0
_SOONEST_RETRY_S = 0.1
_JITTER = 0.2
_MAX_TOOLS = 2000


class ServiceTimes:
    """The latest service times of one scope. Fewer than five samples say nothing."""

    def __init__(self) -> None:
        self._samples_s: deque[float] = deque(maxlen=_WINDOW_COUNT)
        self._sum_s = 0.0

    @property
    def mean_s(self) -> float | None:
        """Return the mean of the latest 64, None where too few are known."""
        count = len(self._samples_s)
        return self._sum_s / count if count >= _FEWEST_SAMPLES else None

    def add(self, service_s: float) -> None:
        """Take a sample in."""
        if len(self._samples_s) == _WINDOW_COUNT:
            self._sum_s -= self._samples_s[0]
        self._samples_s.append(service_s)
        self._sum_s += service_s


class WorkTimes:
    """How long the work of each tool takes that brings an outcome, as lately measured."""

    def __init__(self) -> None:
        self._of_tool: dict[str, ServiceTimes] = {}

    def expected_s(self, tool_name: str) -> float:
        """Return the mean; 0 where too little is known."""
        times = self._of_tool.get(tool_name)
        return 0.0 if times is None else times.mean_s or 0.0

    def add(self, tool_name: str, work_s: float) -> None:
        """Take a sample in."""
        times = self._of_tool.get(tool_name)
        if times is None:
            if len(self._of_tool) >= _MAX_TOOLS:
                del self._of_tool[next(iter(self._of_tool))]
            times = self._of_tool[tool_name] = ServiceTimes()
        times.add(work_s)


def retry_after_s(expected_s: float | None) -> float:
    """Return when to try again: about then, but not everybody at the same moment.

    Where nothing is expected, because too little was measured, that is about a second.
    """
    base_s = _UNKNOWN_RETRY_S if expected_s is None else max(expected_s, _SOONEST_RETRY_S)
    return round(base_s * random.uniform(1 - _JITTER, 1 + _JITTER), 3)
