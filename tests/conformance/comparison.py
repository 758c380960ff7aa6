"""What a relay loses: which checks pass at a server itself, and not through the daemon before it.

A check is named `scenario:check`, as the suite's own `--expected-failures` names it. Those that
cannot pass stand in `expected_failures.toml` with their reasons, by lane: a version of the
specification for the client and one for the server, or the one that the daemon is a client of.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from tests.conformance.suite_run import Verdict, Verdicts

EXPECTED_FAILURES = Path(__file__).parent / "expected_failures.toml"
NOT_REACHED = Verdict("NOT REACHED", "the scenario ended before this check")


class Loss(NamedTuple):
    """A check that passes directly, and what the daemon makes of it."""

    check: str
    verdict: Verdict


class Comparison(NamedTuple):
    """How one lane fares; `failing_directly`, `unexpected` and `stale` are what is wrong."""

    lane: str
    scenario_count: int
    lossless_count: int
    check_count: int
    failing_directly: tuple[Loss, ...]
    unexpected: tuple[Loss, ...]
    expected: tuple[Loss, ...]
    stale: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        """Tell whether nothing is lost but what is expected to be, and all of that."""
        return not (self.failing_directly or self.unexpected or self.stale)


def expected_failures(lane: str) -> Mapping[str, str]:
    """Return the reasons of what cannot pass on a lane, by check or by scenario."""
    failures = tomllib.loads(EXPECTED_FAILURES.read_text())["failure"]
    return {
        check: failure["reason"]
        for failure in failures
        if lane in failure["lanes"]
        for check in failure["checks"]
    }


def compare(
    lane: str, direct: Verdicts, relayed: Verdicts, reasons: Mapping[str, str]
) -> Comparison:
    """Compare what passes directly with what passes through the daemon."""
    losses = list(_losses(direct, relayed))
    lossy = {_scenario_of(loss) for loss in losses}
    lost = {loss.check for loss in losses} | lossy
    return Comparison(
        lane=lane,
        scenario_count=len(direct),
        lossless_count=len(direct.keys() - lossy),
        check_count=sum(len(checks) for checks in direct.values()),
        failing_directly=tuple(
            Loss(f"{scenario}:{check}", verdict)
            for scenario, checks in direct.items()
            for check, verdict in checks.items()
            if not verdict.is_passing
        ),
        unexpected=tuple(loss for loss in losses if not _is_expected(loss, reasons)),
        expected=tuple(loss for loss in losses if _is_expected(loss, reasons)),
        stale=tuple(check for check in reasons if check not in lost),
    )


def _scenario_of(loss: Loss) -> str:
    return loss.check.partition(":")[0]


def _is_expected(loss: Loss, reasons: Mapping[str, str]) -> bool:
    return loss.check in reasons or _scenario_of(loss) in reasons


def _losses(direct: Verdicts, relayed: Verdicts) -> Iterator[Loss]:
    for scenario, checks in direct.items():
        for check, verdict in checks.items():
            through = relayed.get(scenario, {}).get(check, NOT_REACHED)
            if verdict.status == "SUCCESS" and through.status != "SUCCESS":
                yield Loss(f"{scenario}:{check}", through)
        for check, verdict in relayed.get(scenario, {}).items():
            if check not in checks and not verdict.is_passing:
                yield Loss(f"{scenario}:{check}", verdict)


def report(comparison: Comparison) -> str:
    """Return a comparison as a person reads it: a line for each scenario that is not the same."""
    lines = [
        f"{comparison.lane}: {comparison.lossless_count} of {comparison.scenario_count} "
        f"scenarios lose nothing ({comparison.check_count} checks)"
    ]
    for title, losses in (
        ("fails without the daemon", comparison.failing_directly),
        ("LOST", comparison.unexpected),
        ("expected to fail", comparison.expected),
    ):
        by_scenario = groupby(losses, key=_scenario_of)
        lines += [_line(title, scenario, list(its)) for scenario, its in by_scenario]
    lines += [f"  passes, and is listed as failing: {check}" for check in comparison.stale]
    return "\n".join(lines)


def _line(title: str, scenario: str, losses: Sequence[Loss]) -> str:
    """Name the checks of a scenario, and what is said of the first that was reached."""
    reached = [loss for loss in losses if loss.verdict != NOT_REACHED] or losses
    checks = ", ".join(loss.check.partition(":")[2] for loss in losses)
    verdict = reached[0].verdict
    return f"  {title}: {scenario} ({checks})\n    {verdict.status}: {verdict.message[:300]}"
