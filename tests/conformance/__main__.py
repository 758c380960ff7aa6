"""Runs MCP's conformance suite against its fixture, directly and through the daemon, and compares.

make conformance
make conformance ARGS="--client 2026-07-28 --keep DIR"
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.conformance.comparison import report
from tests.conformance.lanes import FIXTURE_ARGUMENTS, LANES, compare_lanes


def main() -> None:
    """Compare, report, and say by the exit status whether it is as it should be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for side in ("client", "server"):
        parser.add_argument(f"--{side}", choices=FIXTURE_ARGUMENTS, help="default: both")
    parser.add_argument("--keep", type=Path, help="keep what the suite says in this new directory")
    arguments = parser.parse_args()
    lanes = [
        lane
        for lane in LANES
        if arguments.client in (None, lane.client) and arguments.server in (None, lane.server)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        comparisons = asyncio.run(compare_lanes(lanes, arguments.keep or Path(scratch)))
    sys.stdout.write("\n".join(map(report, comparisons)) + "\n")
    sys.exit(not all(comparison.is_good for comparison in comparisons))


if __name__ == "__main__":
    main()
