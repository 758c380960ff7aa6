"""The report: raw data in, Markdown out."""

import shlex
from pathlib import Path

from bench.raw_results import raw_path, read_raw
from bench.runs import Header, Run
from bench.scenario import Results, Scenario, Target, table
from bench.scenarios.every import SCENARIOS

_HOW_TO_READ = """\
Written by `python -m bench report` from `results/`; `make bench` measures everything anew.

**How to read it.** The server (and what it starts) is pinned to one core, the load generator, a
process of its own, to another. Every run has a server of its own, started for it; runs take turns
(A B C … A B C …), and each figure is the median of the rounds. Other work on the machine makes
calls/s and latencies worse; **µs/call**, the server's processor time for each answered call, is
the figure to trust. Every answer is checked: a wrong or missing one is counted, and shown below.
EXAI is `exai serve` with its defaults and everything in it (tokens, rate limit, sessions, sharing,
admission, results kept, metrics, log); where a scenario changes a setting it says so. Every call
of `echo` has a text of its own (100 bytes), so that none shares another's work. Histograms of all
latencies are in the raw data.
"""


def write_report(directory: Path) -> Path:
    """Write `REPORT.md` from the raw data below a directory, and return its path."""
    found = [
        (scenario, *read_raw(raw_path(directory, scenario.name)))
        for scenario in SCENARIOS.values()
        if raw_path(directory, scenario.name).exists()
    ]
    lines = ["# What EXAI costs", "", _HOW_TO_READ]
    lines += ["## Targets", "", *_targets([(one, Results(runs)) for one, _, runs in found]), ""]
    for scenario, header, runs in found:
        lines += [f"## {scenario.question}", "", *scenario.tables(Results(runs)), ""]
        lines += [*_origin(header, runs), ""]
    report = directory / "REPORT.md"
    report.write_text("\n".join(lines).rstrip() + "\n")
    return report


def _targets(found: list[tuple[Scenario, Results]]) -> list[str]:
    targets = [target for scenario, results in found for target in scenario.targets(results)]
    return table(["what", "target", "reached", "met"], map(_target_row, targets))


def _target_row(target: Target) -> list[str]:
    return [target.promise, target.bound, target.reached, "yes" if target.is_met else "**no**"]


def _origin(header: Header, runs: list[Run]) -> list[str]:
    """Say what made a section, on what, and how many answers were wrong."""
    machine = header.machine
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    wrong = sum(run.figures.wrong for run in runs)
    rounds = max((run.round for run in runs), default=-1) + 1
    return [
        f"`{header.command}` at {header.commit}, {header.began_at}; {rounds} rounds, "
        f"{len(runs)} runs, {wrong} wrong or missing answers; WebSocket library {header.library}; "
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"Linux {machine['kernel']}, CPython {machine['python']}; {packages}.",
        *(f"\nNot measured: {server}: {reason}." for server, reason in header.not_measured.items()),
    ]


def command_line(arguments: list[str]) -> str:
    """Return the command that measures what is reported."""
    return shlex.join(["python", "-m", "bench", *arguments])
