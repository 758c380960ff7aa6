"""What it costs that an accepted call outlives its daemon: SQLite beside memory."""

from bench.runs import Group, Load
from bench.scenario import Cell, Results, Scale, Scenario, Target, at_most, table
from bench.server_process import Server, exai

MEMORY = exai("memory", EXAI_STORE_KIND="memory")
NORMAL = exai("SQLite, synchronous normal")
FULL = exai("SQLite, synchronous full", EXAI_STORE_SYNCHRONOUS="full")
STORES = (MEMORY, NORMAL, FULL)
HALF_LOAD_PER_S = 1500
"""With SQLite, half of what one core takes of calls that come one by one, not so many at once."""


def cells(scale: Scale) -> list[Cell]:
    """Return each store under full load, under half of it, and with a single caller."""
    callers = max(scale.callers)
    many = Group(name="callers", callers=callers)
    acked = Group(name="callers", callers=callers, acks=True)
    half = Group(name="callers", callers=callers, rate_per_s=HALF_LOAD_PER_S)
    alone = Group(name="callers", callers=1)
    loads = {"full load": many, "full load, acknowledged": acked, "half load": half, "alone": alone}

    def load_of(group: Group) -> Load:
        return Load(groups=(group,), duration_s=scale.duration_s, warm_up_s=scale.warm_up_s)

    return [
        Cell(_name(store, what), store, load_of(group))
        for what, group in loads.items()
        for store in STORES
    ]


def _name(store: Server, what: str) -> str:
    return f"{store.name}; {what}"


def tables(results: Results) -> list[str]:
    """Return one row for each store and load."""
    loads = ("full load", "full load, acknowledged", "half load", "alone")
    names = [_name(store, what) for what in loads for store in STORES]
    return table(
        ["store; load", "µs/call", "calls/s", "p50 ms", "p99", "p99.9"],
        [_row(results, name) for name in names if results.has(name)],
    )


def _row(results: Results, cell: str) -> list[str]:
    return [
        cell,
        results.shown_cpu_us(cell),
        f"{results.per_s(cell):,.0f}",
        f"{results.of_group(cell, lambda g: g.p50_ms):.2f}",
        f"{results.of_group(cell, lambda g: g.p99_ms):.2f}",
        f"{results.of_group(cell, lambda g: g.p999_ms):.2f}",
    ]


def targets(results: Results) -> list[Target]:
    """Return what durability may cost."""
    full, half = (_name(NORMAL, what) for what in ("full load", "half load"))
    in_memory, half_in_memory = (_name(MEMORY, what) for what in ("full load", "half load"))
    if not results.has(full, half, in_memory, half_in_memory):
        return []
    added_ms = results.paired(
        half, half_in_memory, lambda a, b: a.groups["callers"].p99_ms - b.groups["callers"].p99_ms
    )
    return [
        at_most(
            "CPU of a durable `echo` call, in calls kept in memory",
            results.cpu_ratio(full, in_memory),
            1.6,
            2.0,
        ),
        at_most(f"p99 added by it, {HALF_LOAD_PER_S:,} calls/s", added_ms, 5.0, unit=" ms"),
    ]


SCENARIO = Scenario("durability", "What does it cost to lose nothing?", cells, tables, targets)
