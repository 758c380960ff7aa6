"""Thousands of silent sessions: what each weighs, and what a call costs among them."""

from bench.runs import Group, Load
from bench.scenario import MIB, Cell, Results, Scale, Scenario, Target, at_most, table
from bench.server_process import exai

EXAI = exai(MAX_CONNECTIONS="10000")
BUSY = 10
FEW, MANY = "10 sessions, all busy", "10 busy among 5,000"


def cells(scale: Scale) -> list[Cell]:
    """Return the busy ones alone, and among the silent."""
    busy = Group(name="callers", callers=BUSY)
    silent = Group(name="silent", callers=scale.idle_sessions - BUSY, outstanding=0)
    return [
        Cell(
            name, EXAI, Load(groups=groups, duration_s=scale.duration_s, warm_up_s=scale.warm_up_s)
        )
        for name, groups in ((FEW, (busy,)), (MANY, (busy, silent)))
    ]


def tables(results: Results) -> list[str]:
    """Return one row for each."""
    return table(
        ["sessions", "µs/call", "calls/s", "p50 ms", "p99", "RSS MiB", "KiB a session"],
        [_row(results, cell) for cell in (FEW, MANY) if results.has(cell)],
    )


def _row(results: Results, cell: str) -> list[str]:
    of, of_group = results.of, results.of_group
    return [
        cell,
        results.shown_cpu_us(cell),
        f"{results.per_s(cell):,.0f}",
        f"{of_group(cell, lambda g: g.p50_ms):.2f}",
        f"{of_group(cell, lambda g: g.p99_ms):.2f}",
        f"{of(cell, lambda f: f.rss_connected_bytes) / MIB:.0f}",
        f"{_session_kib(results):.1f}" if cell == MANY else "",
    ]


def _session_kib(results: Results) -> float:
    """Return the memory of one more session: warming up is in neither."""
    few, many = (results.of(cell, lambda f: f.rss_connected_bytes) for cell in (FEW, MANY))
    silent = results.load_of(MANY).groups[-1]
    return (many - few) / silent.callers / 1024


def targets(results: Results) -> list[Target]:
    """Return what silent sessions may cost."""
    if not results.has(FEW, MANY):
        return []
    ratio = results.cpu_ratio(MANY, FEW)
    return [
        at_most("CPU of a call among 5,000 sessions against among 10", ratio, 1.25),
        at_most("RSS of an idle session", _session_kib(results), 40, 50, " KiB"),
    ]


SCENARIO = Scenario("idle_sessions", "What do 5,000 silent sessions cost?", cells, tables, targets)
