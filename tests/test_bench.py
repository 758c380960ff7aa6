"""The bench still works: its arithmetic, and each scenario in small; how fast is not asked here."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.figures import histogram_us, jain_index, percentile
from bench.raw_results import raw_path, read_raw
from bench.runs import GroupFigures, Run
from bench.scenarios.every import SCENARIOS
from bench.scenarios.overload import CAPACITY_PER_S

ROOT = Path(__file__).parent.parent
PATIENCE_S = 150


def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed() -> None:
    hundred = [float(n) for n in range(1, 101)]
    assert [percentile(hundred, share) for share in (0.5, 0.99, 0.999, 1.0)] == [50, 99, 100, 100]
    assert percentile([7.0], 0.5) == 7
    assert percentile([], 0.5) == 0


def test_a_histogram_has_two_significant_digits() -> None:
    assert histogram_us([0.0000004, 0.0001234, 0.0001249, 1.26]) == {"0": 1, "120": 2, "1300000": 1}


def test_the_jain_index_is_one_where_all_have_the_same_and_a_share_where_one_has_all() -> None:
    assert jain_index([3, 3, 3]) == 1
    assert jain_index([9, 0, 0]) == pytest.approx(1 / 3)
    assert jain_index([0, 0]) == 0


@pytest.mark.slow
@pytest.mark.timeout(180)
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
        and all(was_heard(one) if is_too_much else was_answered(one) for one in calling)
    )


def was_heard(group: GroupFigures) -> bool:
    """Tell whether calls were answered or refused: which, the machine's speed decides."""
    return group.answered + group.refused > 0


def was_answered(group: GroupFigures) -> bool:
    is_timed = 0 < group.p50_ms <= group.p99_ms <= group.max_ms
    return is_timed and group.answered > 0 and not group.error_codes
