"""Five times as many calls as the work behind can take: who is served, who is told no, how soon."""

from typing import NamedTuple

from bench.runs import Group, GroupFigures, Load
from bench.scenario import MIB, Cell, Results, Scale, Scenario, Target, at_least, table
from bench.server_process import UPSTREAM, exai

MAX_INFLIGHT, WORK_S = 8, 0.02
CAPACITY_PER_S = MAX_INFLIGHT / WORK_S
EXAI = exai(upstream={"max_inflight": MAX_INFLIGHT})


class Arrivals(NamedTuple):
    """How many calls come, in capacities, and how long each may take (0: the daemon's 180 s)."""

    factor: float
    timeout_s: float


UNDER, OVER, OVER_IN_A_HURRY = Arrivals(0.5, 1.0), Arrivals(5.0, 0.0), Arrivals(5.0, 1.0)


def cells(scale: Scale) -> list[Cell]:
    """Return half of the capacity, and five times it."""
    return [Cell(_name(one), EXAI, _load(one, scale)) for one in (UNDER, OVER, OVER_IN_A_HURRY)]


def _name(arrivals: Arrivals) -> str:
    timeout = f"{arrivals.timeout_s:g} s each" if arrivals.timeout_s else "no hurry"
    return f"{arrivals.factor * CAPACITY_PER_S:,.0f}/s, {arrivals.factor:g} × capacity, {timeout}"


def _load(arrivals: Arrivals, scale: Scale) -> Load:
    group = Group(
        name="callers",
        callers=64,
        rate_per_s=arrivals.factor * CAPACITY_PER_S,
        tool=f"{UPSTREAM}__work",
        work_s=WORK_S,
        timeout_s=arrivals.timeout_s,
    )
    return Load(
        groups=(group,),
        duration_s=2 * scale.duration_s,
        warm_up_s=2 * scale.warm_up_s,
        settle_s=scale.duration_s,
    )


def tables(results: Results) -> list[str]:
    """Return one row for each kind of arrivals."""
    names = [_name(one) for one in (UNDER, OVER, OVER_IN_A_HURRY)]
    return [
        f"An MCP server on pipes takes {MAX_INFLIGHT} calls at once, of {WORK_S * 1000:g} ms each: "
        f"{CAPACITY_PER_S:,.0f} calls/s. Open loop over 64 sessions of one identity; latencies "
        "count from when a call was due. A call that is not answered is refused at once "
        "(`OVER_CAPACITY`), or its time runs out (`TIMEOUT`). One whose time runs out while it is "
        "executed is cancelled; MCP servers do not answer those, so its place stays taken for "
        "`limits.cancel_grace_s`, 2 s.",
        "",
        *table(_COLUMNS, [_row(results, name) for name in names]),
    ]


_COLUMNS = ["arrivals", "goodput", "refused", "time ran out", "p50 ms of the admitted", "p99"]
_COLUMNS += ["RSS before MiB", "peak", "after", "µs/answer"]


def _row(results: Results, cell: str) -> list[str]:
    of, of_group = results.of, results.of_group
    return [
        cell,
        f"{results.per_s(cell) / CAPACITY_PER_S:.0%}",
        f"{of_group(cell, lambda g: _share_of(g, 'OVER_CAPACITY')):.0%}",
        f"{of_group(cell, lambda g: _share_of(g, 'TIMEOUT')):.0%}",
        f"{of_group(cell, lambda g: g.p50_ms):.0f}",
        f"{of_group(cell, lambda g: g.p99_ms):.0f}",
        f"{of(cell, lambda f: f.rss_connected_bytes) / MIB:.0f}",
        f"{of(cell, lambda f: f.rss_peak_bytes) / MIB:.0f}",
        f"{of(cell, lambda f: f.rss_end_bytes) / MIB:.0f}",
        f"{results.cpu_us(cell):.0f}",
    ]


def _share_of(group: GroupFigures, code: str) -> float:
    answers = group.answered + sum(group.error_codes.values())
    return group.error_codes.get(code, 0) / answers if answers else 0.0


def targets(results: Results) -> list[Target]:
    """Return what must still work."""
    found = []
    for arrivals in (OVER, OVER_IN_A_HURRY):
        goodput = results.per_s(_name(arrivals)) / CAPACITY_PER_S
        found.append(at_least(f"goodput of {_name(arrivals)}", goodput, 0.9, 0.8))
    return found


SCENARIO = Scenario("overload", "What happens at five times the capacity?", cells, tables, targets)
