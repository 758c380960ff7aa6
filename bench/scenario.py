"""What a scenario is: which loads on which servers, and how to read what came of them."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from bench.figures import median
from bench.runs import GroupFigures, Load, LoadFigures, Run
from bench.server_process import Server

MIB = 2**20


class Scale(NamedTuple):
    """How much is measured."""

    duration_s: float
    warm_up_s: float
    callers: tuple[int, ...]
    idle_sessions: int
    waiting: int
    has_peers: bool
    """Whether servers of others are measured too."""


FULL = Scale(1.5, 0.5, (1, 32, 64), idle_sessions=5000, waiting=1000, has_peers=True)
SMOKE = Scale(0.2, 0.1, (1,), idle_sessions=20, waiting=3, has_peers=False)


class Cell(NamedTuple):
    """One load on one server: one row of a table."""

    name: str
    server: Server
    load: Load


class Results:
    """The runs of one scenario; each figure is the median of the rounds."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self._runs: dict[str, list[Run]] = {}
        for run in runs:
            self._runs.setdefault(run.cell, []).append(run)

    def has(self, *cells: str) -> bool:
        """Tell whether all of these were measured."""
        return all(cell in self._runs for cell in cells)

    def of(self, cell: str, figure: Callable[[LoadFigures], float]) -> float:
        """Return the median of a figure."""
        return median(figure(run.figures) for run in self._runs[cell])

    def load_of(self, cell: str) -> Load:
        """Return what was brought."""
        return self._runs[cell][0].load

    def of_group(
        self, cell: str, figure: Callable[[GroupFigures], float], group: str = "callers"
    ) -> float:
        """Return the median of a figure of one group."""
        return median(figure(run.figures.groups[group]) for run in self._runs[cell])

    def paired(
        self, cell: str, other: str, compare: Callable[[LoadFigures, LoadFigures], float]
    ) -> float:
        """Return the median of what two cells are to each other, round by round.

        What else the machine does changes slowly: of two neighbours in a round both have it.
        """
        pairs = zip(self._runs[cell], self._runs[other], strict=False)
        return median(compare(one.figures, two.figures) for one, two in pairs)

    def cpu_ratio(self, cell: str, other: str) -> float:
        """Return how many times the processor time of another cell's call a call takes."""
        return self.paired(cell, other, lambda a, b: a.cpu_us_per_call() / b.cpu_us_per_call())

    def shown_cpu_us(self, cell: str) -> str:
        """Return the processor time of a call, with the least and the most of the rounds."""
        all_us = [run.figures.cpu_us_per_call() for run in self._runs[cell]]
        return f"**{median(all_us):.1f}** ({min(all_us):.0f} to {max(all_us):.0f})"

    def cpu_us(self, cell: str, *, with_children: bool = False) -> float:
        """Return the server's processor time for each answer."""
        return self.of(cell, lambda f: f.cpu_us_per_call(with_children=with_children))

    def per_s(self, cell: str) -> float:
        """Return successful calls a second."""
        return self.of_group(cell, lambda group: group.answered_per_s)


class Target(NamedTuple):
    """Something that was promised, and what came of it."""

    promise: str
    goal: str
    accepted: str
    reached: str
    verdict: str


def at_least(
    promise: str, reached: float, goal: float, accepted: float | None = None, unit: str = ""
) -> Target:
    """Return a target for something that is better the more there is of it."""
    return _target(promise, reached, (goal, goal if accepted is None else accepted), unit, "≥")


def at_most(
    promise: str, reached: float, goal: float, accepted: float | None = None, unit: str = ""
) -> Target:
    """Return a target for something that is better the less there is of it."""
    return _target(promise, reached, (goal, goal if accepted is None else accepted), unit, "≤")


def _target(
    promise: str, reached: float, bounds: tuple[float, float], unit: str, sign: str
) -> Target:
    side = 1 if sign == "≥" else -1
    is_met, is_accepted = (side * reached >= side * bound for bound in bounds)
    verdict = "met" if is_met else "accepted" if is_accepted else "**missed**"
    goal, accepted = (f"{sign} {bound:,g}{unit}" for bound in bounds)
    shown = f"{reached:,.0f}" if reached >= 100 else f"{reached:.3g}"
    return Target(promise, goal, accepted, f"{shown}{unit}", verdict)


class Scenario(NamedTuple):
    """A question, the loads that answer it, and the pages of the answer."""

    name: str
    question: str
    cells: Callable[[Scale], list[Cell]]
    tables: Callable[[Results], list[str]]
    targets: Callable[[Results], list[Target]]


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Return the lines of a table; all columns but the first hold numbers."""
    head = list(columns)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *map(list, rows)]
    return [f"| {' | '.join(line)} |" for line in lines]
