"""Kill the daemon under load, over and over, and prove that nothing accepted is lost or done twice.

    python -m bench.chaos [--profile kill] [--seed 1] [--rounds 1] [--long] [--into DIRECTORY]

The seed decides every choice: the calls, what clients do to their connections, what dies, when
and how. A run that finds a fault says so, tells the history of each call concerned, keeps the
daemon's files, and ends with 1. Figures go to `bench/results/chaos.jsonl`, the report to
`bench/REPORT.md`; `--into` names another directory. Needs Linux.
"""

import argparse
import asyncio
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

from bench.chaos.checker import findings_in
from bench.chaos.figures import ChaosRun, figures_of
from bench.chaos.killer import can_be_replaced
from bench.chaos.profile import PROFILES, Profile, longer
from bench.chaos.results import keep
from bench.chaos.run import Run, contention
from bench.chaos.story import shown_figures, story_of
from bench.machine import commit, machine
from bench.report import write_report
from bench.server_process import ROOT

_PATIENCE_S = 180.0
_OVERRULED = ("calls", "deaths", "upstream_deaths")


def main() -> int:
    """Do what the command line asks."""
    arguments = parse_arguments()
    profile = profile_of(arguments)
    # As Ctrl-C does, so that the daemon ends, too.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    found_count = 0
    with contention(arguments.spinners):
        for seed in range(arguments.seed, arguments.seed + arguments.rounds):
            found_count += bring_chaos(profile, seed, arguments)
    if arguments.profile != "smoke" or arguments.into:
        print(write_report(arguments.into or ROOT / "bench"))
    return 1 if found_count else 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench.chaos", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--profile", choices=list(PROFILES), default="kill")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1, help="so many seeds, one after the other")
    parser.add_argument("--long", action="store_true", help="ten times the calls and the deaths")
    for what in _OVERRULED:
        option = f"--{what.replace('_', '-')}"
        parser.add_argument(option, type=int, help="instead of those of the profile")
    parser.add_argument("--synchronous", choices=["normal", "full"], default="normal")
    parser.add_argument("--spinners", type=int, default=0, help="processes that keep cores busy")
    parser.add_argument("--into", type=Path, help="where results and report go")
    return parser.parse_args()


def profile_of(arguments: argparse.Namespace) -> Profile:
    """Return what is to be brought, as far as this daemon can be brought down so."""
    profile = PROFILES[arguments.profile]
    if arguments.long:
        profile = longer(profile)
    if not can_be_replaced():
        profile = profile._replace(ways=tuple(way for way in profile.ways if way != "hup"))
    wanted = {what: getattr(arguments, what) for what in _OVERRULED}
    return profile._replace(**{what: count for what, count in wanted.items() if count})


def bring_chaos(profile: Profile, seed: int, arguments: argparse.Namespace) -> int:
    """Run once, tell what came of it, and keep its figures; return how many faults there are."""
    command = command_line(arguments, seed)
    print(f"{command}: {profile.calls:,} calls, {profile.deaths} deaths", flush=True)
    began_at = datetime.now(UTC).isoformat(timespec="minutes")
    run = Run(profile, seed, arguments.synchronous, _PATIENCE_S + profile.deaths * 5)
    record = asyncio.run(run.run())
    findings = findings_in(record)
    figures = figures_of(record, findings)
    print(*shown_figures(figures), *story_of(record, findings), sep="\n", flush=True)
    if findings:
        print(f"repeat it with: {command}\nthe daemon's files are in {run.home}", flush=True)
    else:
        run.clear()
    if arguments.profile != "smoke" or arguments.into:
        told = ChaosRun(
            command=command,
            commit=commit(),
            began_at=began_at,
            machine=machine(),
            synchronous=arguments.synchronous,
            spinners=arguments.spinners,
            figures=figures,
        )
        keep(arguments.into or ROOT / "bench", told)
    return len(findings)


def command_line(arguments: argparse.Namespace, seed: int) -> str:
    """Return the command that makes the same choices again."""
    words = ["python", "-m", "bench.chaos", "--profile", arguments.profile, "--seed", str(seed)]
    words += ["--long"] if arguments.long else []
    for name in (*_OVERRULED, "spinners"):
        if value := getattr(arguments, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    if arguments.synchronous != "normal":
        words += ["--synchronous", arguments.synchronous]
    return " ".join(words)


if __name__ == "__main__":
    sys.exit(main())
