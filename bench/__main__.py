"""Measure EXAI, beside what stands for the least and beside others, and write a report.

    python -m bench [SCENARIO ...] [--rounds 5] [--duration-s 1.5] [--library picows] [--smoke]
    python -m bench report

Raw data goes to `bench/results/`, the report to `bench/REPORT.md`; `--into` names another
directory. `--smoke` takes seconds and measures nothing worth knowing: it proves that the bench
works. Needs Linux, and two cores to mean anything.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bench.machine import commit, machine
from bench.raw_results import RawFile, raw_path
from bench.report import command_line, write_report
from bench.runs import Header, LoadFigures, Order, Run
from bench.scenario import FULL, SMOKE, Cell, Scale, Scenario
from bench.scenarios.every import SCENARIOS
from bench.server_process import ROOT, cores, serving, settings_of

_SPARE_DESCRIPTORS = 200


def main() -> None:
    """Do what the command line asks."""
    arguments = parse_arguments()
    if arguments.scenarios == ["report"]:
        print(write_report(arguments.into or ROOT / "bench"))
        return
    scale = SMOKE if arguments.smoke else FULL._replace(duration_s=arguments.duration_s)
    directory = arguments.into or (
        Path(tempfile.mkdtemp(prefix="exai-bench-")) if arguments.smoke else ROOT / "bench"
    )
    rounds = 1 if arguments.smoke else arguments.rounds
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    for name in arguments.scenarios or SCENARIOS:
        measure(SCENARIOS[name], scale, rounds, arguments.library, directory)
    print(write_report(directory))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--duration-s", type=float, default=FULL.duration_s, help="of each run")
    parser.add_argument("--library", choices=["picows", "websockets"], default="picows")
    parser.add_argument("--smoke", action="store_true", help="everything once, in seconds")
    parser.add_argument("--into", type=Path, help="where results and report go")
    arguments = parser.parse_args()
    unknown = set(arguments.scenarios) - set(SCENARIOS)
    if unknown and arguments.scenarios != ["report"]:
        parser.error(f"known are {', '.join(SCENARIOS)}, and `report` alone")
    return arguments


def measure(scenario: Scenario, scale: Scale, rounds: int, library: str, directory: Path) -> None:
    """Run a scenario's cells in turns, and keep what comes of each."""
    cells = scenario.cells(scale)
    not_measured = {cell.name: why for cell in cells if (why := obstacle_of(cell))}
    header = Header(
        scenario=scenario.name,
        command=command_line(sys.argv[1:]),
        commit=commit(),
        began_at=datetime.now(UTC).isoformat(timespec="minutes"),
        library=library,
        machine=machine(),
        not_measured=not_measured,
    )
    raw = RawFile(raw_path(directory, scenario.name), header)
    for n in range(rounds):
        for cell in cells:
            if cell.name not in not_measured:
                figures = run(cell, library)
                show(scenario, n, cell, figures)
                raw.add(
                    Run(
                        cell=cell.name,
                        server=cell.server.name,
                        settings=settings_of(cell.server),
                        round=n,
                        load=cell.load,
                        figures=figures,
                    )
                )


def obstacle_of(cell: Cell) -> str:
    """Return why a cell cannot be measured here, or nothing."""
    if not Path(cell.server.command[0]).exists():
        return "its environment is missing; `make bench` makes it"
    needed = sum(group.callers for group in cell.load.groups) + _SPARE_DESCRIPTORS
    _, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    if needed > allowed:
        return f"{needed:,} open files are needed, and {allowed:,} allowed (`ulimit -Hn`)"
    return ""


def run(cell: Cell, library: str) -> LoadFigures:
    """Start a server, bring the load, stop both."""
    with serving(cell.server, library) as address:
        command = ["taskset", "-c", str(cores()[1]), sys.executable, "-m", "bench.load"]
        answered = subprocess.run(
            command,
            input=msgspec.json.encode(Order(address, cell.load)),
            stdout=subprocess.PIPE,
            pass_fds=address.fds or (),
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            check=True,
        )
    return msgspec.json.decode(answered.stdout, type=LoadFigures)


def show(scenario: Scenario, n: int, cell: Cell, figures: LoadFigures) -> None:
    """Print that a run is over, and what was not answered as asked."""
    failures = {
        code: count
        for group in figures.groups.values()
        for code, count in (group.error_codes | {"WRONG": group.wrong + group.unanswered}).items()
        if count
    }
    print(
        f"{scenario.name:<16}{n + 1:>3}  {cell.name:<48}"
        f"{figures.cpu_us_per_call():>9.1f} µs/call  {failures or ''}",
        flush=True,
    )


if __name__ == "__main__":
    main()
