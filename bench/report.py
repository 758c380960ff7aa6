"""The report: raw data in, Markdown out."""

import shlex
from pathlib import Path
from typing import Any

from bench.chaos.results import chaos_section, chaos_targets, read_chaos
from bench.raw_results import raw_path, read_raw
from bench.runs import Header, Run
from bench.scenario import Results, Target, table
from bench.scenarios.every import SCENARIOS

_HOW_TO_READ = """\
Written by `python -m bench report` from `results/`; `make bench` measures everything anew.

**How to read it.** The server, and what it starts, is pinned to one core; the load generator, a
process of its own, to another. Every run has a server of its own, started for it; runs take turns
(A B C … A B C …), and each figure is the median of the rounds. Other work on the machine makes
calls/s and latencies worse; **µs/call**, the server's processor time for each answered call (in
brackets the least and the most of the rounds), is the figure to trust. What is compared is
compared round by round. Where the load generator is nearly always busy, it is what bounds calls/s.
Every answer is checked, and what was wrong or missing is counted below.

EXAI is `exai serve` with its defaults and all that is in it (tokens, rate limit, sessions, sharing,
admission, results kept, metrics, log); settings that a scenario changes stand with it, those of all
at the end. A call of `echo` has a text of its own, 100 bytes, so that none shares another's work.
In a closed loop each caller has one call under way, on a connection of its own. The raw data has
every run, with a histogram of its latencies.
"""


def write_report(directory: Path) -> Path:
    """Write `REPORT.md` from the raw data below a directory, and return its path."""
    found = [
        (scenario, *read_raw(raw_path(directory, scenario.name)))
        for scenario in SCENARIOS.values()
        if raw_path(directory, scenario.name).exists()
    ]
    shared = _shared_settings([run for _, _, runs in found for run in runs])
    chaos = read_chaos(directory)
    targets = [one for scenario, _, runs in found for one in scenario.targets(Results(runs))]
    lines = ["# What EXAI costs", "", _HOW_TO_READ, "## Targets", ""]
    lines += [*_targets([*targets, *chaos_targets(chaos)]), ""]
    for scenario, header, runs in found:
        lines += [f"## {scenario.question}", "", *scenario.tables(Results(runs)), ""]
        lines += [*_origin(header, runs, shared), ""]
    lines += chaos_section(chaos)
    lines += ["## Measured on", "", *dict.fromkeys(_describe(header) for _, header, _ in found)]
    lines += ["", f"Settings of every `exai`: {_shown(shared)}."]
    report = directory / "REPORT.md"
    report.write_text("\n".join(lines) + "\n")
    return report


def _shared_settings(runs: list[Run]) -> dict[str, Any]:
    """Return the settings that all daemons have."""
    told = [run.settings for run in runs if run.settings]
    first = told[0] if told else {}
    return {
        name: value
        for name, value in first.items()
        if all(settings.get(name) == value for settings in told)
    }


def _targets(targets: list[Target]) -> list[str]:
    return table(["what", "goal", "accepted", "reached", ""], targets)


def _origin(header: Header, runs: list[Run], shared: dict[str, Any]) -> list[str]:
    """Say what made a section, and what is to be known about it."""
    wrong = sum(run.figures.wrong for run in runs)
    rounds = 1 + max((run.round for run in runs), default=-1)
    lines = [
        f"Rounds: {rounds}, runs: {len(runs)}, wrong or missing answers: {wrong}. "
        f"`{header.command}` at {header.commit}, {header.began_at}."
    ]
    for server in dict.fromkeys(run.server for run in runs):
        told = next(run.settings for run in runs if run.server == server)
        own = {name: value for name, value in told.items() if name not in shared}
        lines += ["", f"Settings of `{server}`: {_shown(own)}."] if own else []
    for reason in dict.fromkeys(header.not_measured.values()):
        cells = [name for name, why in header.not_measured.items() if why == reason]
        lines += ["", f"Not measured: {', '.join(cells)}: {reason}."]
    return lines


def _shown(settings: dict[str, Any]) -> str:
    shown = []
    for name, value in settings.items():
        if isinstance(value, dict):
            shown.append(f"an MCP server with {_shown(value) or 'its defaults'}")
        else:
            shown.append(f"`{name}={value}`")
    return ", ".join(shown)


def _describe(header: Header) -> str:
    machine = header.machine
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores (servers on {machine['server_core']}, load "
        f"generator on {machine['load_core']}), {machine['memory_gib']} GiB, Linux "
        f"{machine['kernel']}, CPython {machine['python']}; {packages}. WebSocket library: "
        f"{header.library}."
    )


def command_line(arguments: list[str]) -> str:
    """Return the command that measures what is reported."""
    return shlex.join(["python", "-m", "bench", *arguments])
