"""The daemon as a client over HTTP, of servers that the suite plays."""

import asyncio
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.conformance.comparison import Comparison, compare, expected_failures
from tests.conformance.lanes import HANDSHAKE, STATELESS, new_folder
from tests.conformance.suite_run import Verdicts, judge_client
from tests.conformance.targets import ROOT

PROGRAM = Path(__file__).parent / "client_behind_daemon.py"
SCENARIOS = {
    HANDSHAKE: ("initialize", "tools_call", "sse-retry", "json-schema-2020-12-preservation"),
    STATELESS: (
        "tools_call",
        "request-metadata",
        "http-standard-headers",
        "http-custom-headers",
        "http-invalid-tool-headers",
        "json-schema-ref-no-deref",
        "json-schema-2020-12-preservation",
        "sep-2322-client-request-state",
    ),
}
"""Those for any client; the suite has more, for what asks a user to sign in."""

AT_ONCE = 3


async def compare_clients(spec_versions: Sequence[str], work_dir: Path) -> list[Comparison]:
    """Run the scenarios of these versions; every check that does not pass is a loss."""
    turns = asyncio.Semaphore(AT_ONCE)
    command = shlex.join(
        ("env", f"PYTHONPATH={ROOT}", sys.executable, "-W", "ignore", str(PROGRAM))
    )

    async def judge(scenario: str, spec_version: str) -> Verdicts:
        results_dir = new_folder(work_dir / f"client of {spec_version}" / scenario)
        async with turns:
            return await judge_client(command, scenario, spec_version, results_dir)

    comparisons = []
    for version in spec_versions:
        judged = await asyncio.gather(*(judge(name, version) for name in SCENARIOS[version]))
        verdicts = {scenario: its[scenario] for its in judged for scenario in its}
        passing = {
            scenario: {check: verdict for check, verdict in checks.items() if verdict.is_passing}
            for scenario, checks in verdicts.items()
        }
        lane = f"client of {version}"
        reasons = expected_failures(lane)
        comparisons.append(compare(lane, passing, verdicts, reasons))
    return comparisons
