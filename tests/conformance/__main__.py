"""Runs MCP's conformance suite against its fixture, directly and through the daemon, and compares.

make conformance
make conformance ARGS="--client 2026-07-28 --keep DIR"
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.conformance.client_side import SCENARIOS, compare_clients
from tests.conformance.comparison import Comparison, report
from tests.conformance.lanes import LANES, compare_lanes


async def compare_all(client: str | None, server: str | None, work_dir: Path) -> list[Comparison]:
    """Run the lanes between these versions, None being all, and the daemon's own as a client."""
    lanes = [
        lane for lane in LANES if client in (None, lane.client) and server in (None, lane.server)
    ]
    own = [version for version in SCENARIOS if server in (None, version) and client is None]
    return [*await compare_lanes(lanes, work_dir), *await compare_clients(own, work_dir)]


def main() -> None:
    """Compare, report, and say by the exit status whether it is as it should be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--client", choices=SCENARIOS, help="the client's version; default: both")
    parser.add_argument("--server", choices=SCENARIOS, help="the server's version; default: both")
    parser.add_argument("--keep", type=Path, help="keep what the suite says in this new directory")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work_dir = arguments.keep or Path(scratch)
        comparisons = asyncio.run(compare_all(arguments.client, arguments.server, work_dir))
    sys.stdout.write("\n".join(map(report, comparisons)) + "\n")
    sys.exit(not all(comparison.is_good for comparison in comparisons))


if __name__ == "__main__":
    main()
