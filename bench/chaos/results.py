"""Raw data of chaos, one line a run, and its part of the report."""

from pathlib import Path

import msgspec

from bench.chaos.checker import KINDS
from bench.chaos.figures import ChaosRun, Latencies
from bench.raw_results import raw_path
from bench.scenario import Target, at_most, table

_NAME = "chaos"
_encode = msgspec.json.Encoder().encode


def keep(directory: Path, run: ChaosRun) -> None:
    """Keep a run, instead of an earlier one of the same command."""
    path = raw_path(directory, _NAME)
    path.parent.mkdir(parents=True, exist_ok=True)
    others = [each for each in read_chaos(directory) if each.command != run.command]
    runs = sorted([*others, run], key=lambda each: each.command)
    path.write_bytes(b"".join(_encode(each) + b"\n" for each in runs))


def read_chaos(directory: Path) -> list[ChaosRun]:
    """Return the runs that are kept."""
    path = raw_path(directory, _NAME)
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines()
    return [msgspec.json.decode(line, type=ChaosRun) for line in lines]


def chaos_targets(runs: list[ChaosRun]) -> list[Target]:
    """Return what was promised, over all runs."""
    if not runs:
        return []
    fault_count = sum(sum(run.figures.findings.values()) for run in runs)
    left_alone = [run.figures.after_restart.p95_s for run in runs if not run.spinners]
    slowest_s = max(left_alone, default=0.0)
    return [
        at_most("chaos: calls lost, done twice, or answered wrongly", fault_count, 0),
        at_most("chaos: p95 from reconnect to result", slowest_s, 1, unit=" s"),
    ]


def chaos_section(runs: list[ChaosRun]) -> list[str]:
    """Return the lines of the report."""
    if not runs:
        return []
    columns = [
        "run",
        "calls",
        "deaths",
        "run again",
        "errors, each explained",
        "p50 s",
        "p95",
        "max",
    ]
    columns += ["ledger MiB", "faults"]
    lines = ["## What survives when the daemon is killed?", "", _HOW_TO_READ, ""]
    lines += table(columns, [_row(run) for run in runs])
    lines += ["", f"A fault is any of: {'; '.join(KINDS.values())}.", ""]
    lines += [_origin(run) for run in runs]
    return lines


def _origin(run: ChaosRun) -> str:
    machine = run.machine
    return (
        f"`{run.command}` at {run.commit}, {run.began_at}, on {machine['cpu']}, "
        f"{machine['cores']} cores, Linux {machine['kernel']}, CPython {machine['python']}.\n"
    )


_HOW_TO_READ = """\
`make chaos`: clients call two MCP servers that write down what they execute, cut their
connections, send everything twice, ask again; the daemon, with its default ledger, and the servers
are killed meanwhile, and the daemon is started again. Deaths are by SIGKILL (`kill`), SIGTERM and
a new start (`term`), SIGHUP (`hup`, replaced in place). p50 to max: from a client's return to a
new daemon to each answer that it waits for, the tool's own work (up to 1.2 s) included."""


def _row(run: ChaosRun) -> list[str]:
    figures = run.figures
    errors = {code: count for code, count in figures.errors.items() if code}
    return [
        f"{figures.profile}, seed {figures.seed}, synchronous {run.synchronous}"
        + (f", {run.spinners} spinners" if run.spinners else ""),
        f"{figures.calls:,}",
        ", ".join(f"{count} {name}" for name, count in figures.deaths.items()),
        f"{figures.run_again:,}",
        ", ".join(f"{count} {code}" for code, count in errors.items()),
        *_shown(figures.after_restart),
        f"{figures.database_bytes / 2**20:.0f}",
        str(sum(figures.findings.values())),
    ]


def _shown(latencies: Latencies) -> list[str]:
    return [f"{s:.2f}" for s in (latencies.p50_s, latencies.p95_s, latencies.max_s)]
