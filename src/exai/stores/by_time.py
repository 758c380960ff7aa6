"""Ids by a time that each has, for whoever asks which are old enough."""

from collections.abc import Iterator
from itertools import takewhile

_NEVER = float("-inf")


class ByTime:
    """Ids, nearly always added in the order of their times, so that only the old are looked at.

    Those that are added late, with a time before the last one (a clock was set back, or an
    outcome could not be stored when it was reached), are few, and all looked at.
    """

    def __init__(self) -> None:
        self._in_order: dict[str, float] = {}
        self._late: dict[str, float] = {}
        self._newest = _NEVER

    def __contains__(self, name: object) -> bool:
        """Tell whether an id is there."""
        return name in self._in_order or name in self._late

    def add(self, name: str, at: float) -> None:
        """Add an id that is not there."""
        if at >= self._newest:
            self._newest = at
            self._in_order[name] = at
        else:
            self._late[name] = at

    def discard(self, name: str) -> None:
        """Remove an id, if it is there."""
        if self._in_order.pop(name, None) is None:
            self._late.pop(name, None)
        if not self._in_order and not self._late:
            self._newest = _NEVER

    def until(self, horizon: float) -> list[str]:
        """Return those that are not later than `horizon`, by their times, then as added."""
        old = list(_until(self._in_order, horizon))
        late = [entry for entry in self._late.items() if entry[1] <= horizon]
        if late:
            old = sorted(old + late, key=lambda entry: entry[1])
        return [name for name, _ in old]


def _until(times: dict[str, float], horizon: float) -> Iterator[tuple[str, float]]:
    return takewhile(lambda entry: entry[1] <= horizon, times.items())
