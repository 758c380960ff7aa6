"""What MCP's conformance suite says of a server, it says of the daemon before that server."""

from pathlib import Path

import pytest

from tests.conformance.client_side import SCENARIOS, compare_clients
from tests.conformance.comparison import NOT_REACHED, Loss, compare, report
from tests.conformance.lanes import LANES, compare_lanes
from tests.conformance.suite_run import Verdict

FINE = Verdict("SUCCESS", "")
BROKEN = Verdict("FAILURE", "it is broken")


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("spec_version", SCENARIOS)
async def test_the_daemon_is_a_client_of_servers_over_http_as_the_specification_says(
    spec_version: str, tmp_path: Path
) -> None:
    [comparison] = await compare_clients([spec_version], tmp_path)
    assert comparison.is_good, report(comparison)


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_nothing_that_passes_at_the_server_itself_is_lost_through_the_daemon(
    tmp_path: Path,
) -> None:
    comparisons = await compare_lanes(LANES, tmp_path)
    assert all(comparison.is_good for comparison in comparisons), "\n".join(
        map(report, comparisons)
    )


def test_a_check_that_passes_only_directly_is_lost_and_one_that_is_not_reached_too() -> None:
    direct = {"tools": {"listed": FINE, "called": FINE}, "prompts": {"listed": FINE}}
    relayed = {"tools": {"listed": FINE, "called": BROKEN}}
    comparison = compare("lane", direct, relayed, {})
    assert comparison.unexpected == (
        Loss("tools:called", BROKEN),
        Loss("prompts:listed", NOT_REACHED),
    )
    assert comparison.lossless_count == 0
    assert not comparison.is_good


def test_a_check_that_only_the_daemon_brings_up_is_lost_if_it_fails() -> None:
    comparison = compare(
        "lane", {"tools": {"listed": FINE}}, {"tools": {"listed": FINE, "crash": BROKEN}}, {}
    )
    assert comparison.unexpected == (Loss("tools:crash", BROKEN),)


def test_a_listed_failure_is_expected_and_one_that_passes_is_stale() -> None:
    direct = {"tools": {"listed": FINE, "called": FINE}}
    relayed = {"tools": {"listed": FINE, "called": BROKEN}}
    reasons = {"tools:called": "it cannot be"}
    assert compare("lane", direct, relayed, reasons).is_good
    assert compare("lane", direct, direct, reasons).stale == ("tools:called",)


def test_a_scenario_may_be_expected_to_fail_as_a_whole() -> None:
    direct = {"tools": {"listed": FINE, "called": FINE}}
    relayed = {"tools": {"listed": BROKEN, "called": BROKEN}}
    reasons = {"tools": "it cannot be"}
    assert compare("lane", direct, relayed, reasons).is_good
    assert compare("lane", direct, direct, reasons).stale == ("tools",)


def test_a_fixture_that_fails_by_itself_proves_nothing() -> None:
    broken = {"tools": {"called": BROKEN}}
    comparison = compare("lane", broken, broken, {})
    assert not comparison.is_good
    assert "fails without the daemon: tools (called)\n    FAILURE: it is broken" in report(
        comparison
    )
