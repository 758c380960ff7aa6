"""What every test may rely on, and is held to."""

import os
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

TEST_S = 5.0
MOST_WORKERS = 8

# A loaded machine is no defect: examples are bounded in number, not in time.
settings.register_profile("exai", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("exai")


def is_machine_shared() -> bool:
    """Tell whether a test may be slow through no fault of its own."""
    is_beside_others = "PYTEST_XDIST_WORKER" in os.environ
    return is_beside_others or os.getloadavg()[0] > (os.cpu_count() or 1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many tests run side by side: about half of their time they wait for processes."""
    return min(MOST_WORKERS, 2 * (os.cpu_count() or 1))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that takes too long, unless it is marked `slow`."""
    report = yield
    is_too_long = report.when == "call" and report.passed and call.duration > TEST_S
    if is_too_long and not item.get_closest_marker("slow") and not is_machine_shared():
        report.outcome = "failed"
        report.longrepr = f"took {call.duration:.1f} s, and is not marked `slow`"
    return report
