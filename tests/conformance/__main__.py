"""Runs MCP's conformance suite against the fixture itself and through the daemon, and compares.

make conformance
make conformance ARGS="2026-07-28 --keep DIR"     one version; results stay in DIR
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.cli.exai_process import Shell
from tests.conformance.comparison import Comparison, compare, expected_failures, report
from tests.conformance.suite_run import Verdicts, run_suite
from tests.conformance.targets import daemon_before, fixture, transparent_servers

SPEC_VERSIONS = ("2025-11-25", "2026-07-28")


def new_folder(path: Path) -> Path:
    """Make a folder, and return it."""
    path.mkdir(parents=True)
    return path


async def compare_versions(spec_versions: Sequence[str], work_dir: Path) -> list[Comparison]:
    """Run both, side by side, one version after the other."""
    reasons = expected_failures()
    comparisons = []
    shell = Shell(new_folder(work_dir / "home"))
    shell.environ["EXAI_AUTH"] = "none"
    async with fixture() as fixture_url, daemon_before(shell, transparent_servers()) as door:
        for version in spec_versions:
            results: tuple[Verdicts, Verdicts] = await asyncio.gather(
                run_suite(fixture_url, version, new_folder(work_dir / version / "direct")),
                run_suite(door.mcp_url, version, new_folder(work_dir / version / "daemon")),
            )
            comparisons.append(compare(version, *results, reasons.get(version, {})))
    return comparisons


def main() -> None:
    """Compare, report, and say by the exit status whether it is as it should be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("versions", nargs="*", default=SPEC_VERSIONS, help="default: both")
    parser.add_argument("--keep", type=Path, help="keep what the suite says in this new directory")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work_dir = arguments.keep or Path(scratch, "run")
        comparisons = asyncio.run(compare_versions(arguments.versions, work_dir))
    sys.stdout.write("\n".join(map(report, comparisons)) + "\n")
    sys.exit(not all(comparison.is_good for comparison in comparisons))


if __name__ == "__main__":
    main()
