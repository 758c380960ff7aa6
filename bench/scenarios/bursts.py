"""Many calls at once: equal ones, which shall run once, and different ones, which shall all run."""

from bench.runs import Group, Load
from bench.scenario import MIB, Cell, Results, Scale, Scenario, Target, at_most, table
from bench.server_process import UPSTREAM, exai

WORK = f"{UPSTREAM}__work"
EXAI = exai(upstream={})
WIDE = exai(
    "exai without its limits",
    upstream={"max_inflight": 1000},
    EXAI_WS_GLOBAL_MAX_INFLIGHT="1000",
)
EQUAL, DIFFERENT = "200 equal calls of 200 ms", "500 different calls of 100 ms"


def cells(scale: Scale) -> list[Cell]:
    """Return both bursts."""
    equal = Group(
        name="callers",
        callers=20,
        outstanding=10,
        calls_each=10,
        tool=WORK,
        work_s=0.2,
        is_equal=True,
    )
    different = Group(name="callers", callers=500, calls_each=1, tool=WORK, work_s=0.1)
    return [
        Cell(name, server, _burst(group))
        for name, server, group in ((EQUAL, EXAI, equal), (DIFFERENT, WIDE, different))
    ]


def _burst(group: Group) -> Load:
    executions_tool = f"{UPSTREAM}__executions"
    return Load(groups=(group,), duration_s=0.0, warm_up_s=0.0, executions_tool=executions_tool)


def tables(results: Results) -> list[str]:
    """Return one row for each burst."""
    return table(
        [
            "burst",
            "executions",
            "answered",
            "refused",
            "until the last s",
            "p50 ms",
            "p99",
            "RSS + MiB",
        ],
        [_row(results, cell) for cell in (EQUAL, DIFFERENT) if results.has(cell)],
    )


def _row(results: Results, cell: str) -> list[str]:
    of, of_group = results.of, results.of_group
    return [
        cell,
        f"{of(cell, lambda f: f.executions):.0f}",
        f"{of_group(cell, lambda g: g.answered):.0f}",
        f"{of_group(cell, lambda g: g.refused):.0f}",
        f"{of(cell, lambda f: f.window_s):.3f}",
        f"{of_group(cell, lambda g: g.p50_ms):.1f}",
        f"{of_group(cell, lambda g: g.p99_ms):.1f}",
        f"{_grown_mib(results, cell):.1f}",
    ]


def _grown_mib(results: Results, cell: str) -> float:
    return results.of(cell, lambda f: f.rss_peak_bytes - f.rss_start_bytes) / MIB


def targets(results: Results) -> list[Target]:
    """Return what bursts may cost."""
    executions = results.of(EQUAL, lambda f: f.executions)
    p50_ms = results.of_group(EQUAL, lambda g: g.p50_ms)
    last_s = results.of(DIFFERENT, lambda f: f.window_s)
    grown_mib = _grown_mib(results, DIFFERENT)
    return [
        at_most(f"{EQUAL}: executions", executions, 1),
        at_most(f"{EQUAL}: p50", p50_ms, 215, unit=" ms"),
        at_most(f"{DIFFERENT}: until the last answer", last_s, 0.3, 0.6, " s"),
        at_most(f"{DIFFERENT}: RSS grows by", grown_mib, 10, 30, " MiB"),
    ]


SCENARIO = Scenario("bursts", "What becomes of many calls at once?", cells, tables, targets)
