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


async def compare_client(spec_version: str, scenarios: Sequence[str], work_dir: Path) -> Comparison:
    """Run scenarios of a version; every check that does not pass is a loss."""
    turns = asyncio.Semaphore(AT_ONCE)
    command = shlex.join(
        ("env", f"PYTHONPATH={ROOT}", sys.executable, "-W", "ignore", str(PROGRAM))
    )

    async def judge(scenario: str) -> Verdicts:
        results_dir = new_folder(work_dir / f"client of {spec_version}" / scenario)
        async with turns:
            return await judge_client(command, scenario, spec_version, results_dir)

    judged = await asyncio.gather(*map(judge, scenarios))
    verdicts = {scenario: its[scenario] for its in judged for scenario in its}
    passing = {
        scenario: {check: verdict for check, verdict in checks.items() if verdict.is_passing}
        for scenario, checks in verdicts.items()
    }
    lane = f"client of {spec_version}"
    reasons = {
        check: reason
        for check, reason in expected_failures(lane).items()
        if check.partition(":")[0] in scenarios
    }
    return compare(lane, passing, verdicts, reasons)
