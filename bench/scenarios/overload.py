"""Five times as many calls as the work behind can take: who is served, who is told no, how soon."""

from bench.runs import Group, Load
from bench.scenario import MIB, Cell, Results, Scale, Scenario, Target, at_least, at_most, table
from bench.server_process import UPSTREAM, exai

MAX_INFLIGHT, WORK_S, TIMEOUT_S, FACTORS = 8, 0.02, 1.0, (0.5, 5.0)
CAPACITY_PER_S = MAX_INFLIGHT / WORK_S
EXAI = exai(upstream={"max_inflight": MAX_INFLIGHT})


def cells(scale: Scale) -> list[Cell]:
    """Return half of the capacity, and five times it."""
    return [Cell(_name(factor), EXAI, _load(factor, scale)) for factor in FACTORS]


def _name(factor: float) -> str:
    return f"{factor * CAPACITY_PER_S:,.0f} arrivals/s, {factor:g} × capacity"


def _load(factor: float, scale: Scale) -> Load:
    group = Group(
        name="callers",
        callers=64,
        rate_per_s=factor * CAPACITY_PER_S,
        tool=f"{UPSTREAM}__work",
        work_s=WORK_S,
        timeout_s=TIMEOUT_S,
    )
    return Load(
        groups=(group,),
        duration_s=2 * scale.duration_s,
        warm_up_s=2 * scale.warm_up_s,
        settle_s=scale.duration_s,
    )


def tables(results: Results) -> list[str]:
    """Return one row for each rate of arrivals."""
    names = [_name(factor) for factor in FACTORS]
    return [
        f"{CAPACITY_PER_S:,.0f} calls a second can be done ({MAX_INFLIGHT} at once, "
        f"{WORK_S * 1000:g} ms each); each call has {TIMEOUT_S:g} s. Open loop over 64 sessions, "
        "latencies from when a call was due.",
        "",
        *table(
            [
                "arrivals",
                "goodput",
                "refused",
                "p50 ms of the admitted",
                "p99",
                "RSS before MiB",
                "peak",
                "after",
                "µs/answer",
            ],
            [_row(results, name) for name in names],
        ),
    ]


def _row(results: Results, cell: str) -> list[str]:
    of, of_group = results.of, results.of_group
    refused = of_group(cell, lambda g: g.refused / max(g.refused + g.answered, 1))
    return [
        cell,
        f"{results.per_s(cell) / CAPACITY_PER_S:.0%}",
        f"{refused:.0%}",
        f"{of_group(cell, lambda g: g.p50_ms):.0f}",
        f"{of_group(cell, lambda g: g.p99_ms):.0f}",
        f"{of(cell, lambda f: f.rss_connected_bytes) / MIB:.1f}",
        f"{of(cell, lambda f: f.rss_peak_bytes) / MIB:.1f}",
        f"{of(cell, lambda f: f.rss_end_bytes) / MIB:.1f}",
        f"{results.cpu_us(cell):.1f}",
    ]


def targets(results: Results) -> list[Target]:
    """Return what must still work."""
    over = _name(FACTORS[-1])
    goodput = results.per_s(over) / CAPACITY_PER_S
    p99_ms = results.of_group(over, lambda g: g.p99_ms)
    return [
        at_least("5 × capacity: goodput, of capacity", 0.9, goodput),
        at_most("5 × capacity: p99 of the admitted", TIMEOUT_S * 1000, p99_ms, " ms"),
    ]


SCENARIO = Scenario("overload", "What happens at five times the capacity?", cells, tables, targets)
