"""The bench still works: each scenario, in small. How fast anything is is not asked here."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.raw_results import raw_path, read_raw
from bench.runs import GroupFigures, Run
from bench.scenarios.every import SCENARIOS
from bench.scenarios.overload import CAPACITY_PER_S

ROOT = Path(__file__).parent.parent
PATIENCE_S = 50

if sys.platform != "linux":
    pytest.skip("reads /proc and pins processes", allow_module_level=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_brings_whole_figures_without_a_wrong_answer(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", name, "--smoke", "--into", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=PATIENCE_S)

    header, runs = read_raw(raw_path(tmp_path, name))
    assert not header.not_measured
    assert {run.server for run in runs} >= {"echo": {"exai", "bare handler"}}.get(name, set())
    assert [run.cell for run in runs if not is_whole(run)] == []
    assert "µs" in (tmp_path / "REPORT.md").read_text()


def is_whole(run: Run) -> bool:
    figures = run.figures
    calling = [figures.groups[group.name] for group in run.load.groups if not group.is_silent]
    is_too_much = any(group.rate_per_s > CAPACITY_PER_S for group in run.load.groups)
    return (
        figures.wrong == 0
        and figures.window_s > 0
        and figures.rss_start_bytes > 0
        and all(was_refused(one) if is_too_much else was_answered(one) for one in calling)
    )


def was_refused(group: GroupFigures) -> bool:
    return group.refused > 0


def was_answered(group: GroupFigures) -> bool:
    is_timed = 0 < group.p50_ms <= group.p99_ms <= group.max_ms
    return is_timed and group.answered > 0 and not group.error_codes
