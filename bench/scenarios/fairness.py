"""A loud client with a thousand calls waiting, and those beside it."""

from bench.figures import jain_index
from bench.runs import Group, GroupFigures, Load
from bench.scenario import Cell, Results, Scale, Scenario, Target, at_least, at_most, table
from bench.server_process import UPSTREAM, exai

WORK = f"{UPSTREAM}__work"
TURN_S, SHORT_TURN_S, EQUALS = 0.02, 0.002, 8
EXAI = exai(
    upstream={"max_inflight": 1},
    EXAI_LIMITS_SESSION_MAX_WAITING="2000",
    EXAI_LIMITS_PRINCIPAL_MAX_WAITING="4000",
    EXAI_LIMITS_GLOBAL_MAX_WAITING="8000",
)
ALONE, BESIDE, CROWD = (
    "a quiet client alone",
    "beside the loud one",
    "eight busy clients and the loud one",
)


def cells(scale: Scale) -> list[Cell]:
    """Return the quiet client alone and beside the loud one, and a crowd beside it."""
    quiet = Group(name="quiet", callers=1, tool=WORK, work_s=TURN_S)
    loud = Group(name="loud", callers=1, outstanding=scale.waiting, tool=WORK, work_s=TURN_S)
    hasty = Group(name="loud", callers=1, outstanding=scale.waiting, tool=WORK, work_s=SHORT_TURN_S)
    equals = Group(name="equals", callers=EQUALS, outstanding=4, tool=WORK, work_s=SHORT_TURN_S)
    groups = {ALONE: (quiet,), BESIDE: (quiet, loud), CROWD: (equals, hasty)}
    return [
        Cell(
            name,
            EXAI,
            Load(groups=some, duration_s=2 * scale.duration_s, warm_up_s=2 * scale.warm_up_s),
        )
        for name, some in groups.items()
    ]


def tables(results: Results) -> list[str]:
    """Return the quiet client's latencies, and how evenly the crowd is served."""
    return [
        "One call at a time is executed; the loud client has 1,000 waiting at all times.",
        "",
        *table(
            [f"calls of {TURN_S * 1000:g} ms", "p50 ms", "p95", "p99"],
            [_row(results, cell) for cell in (ALONE, BESIDE)],
        ),
        "",
        f"Jain index of the calls done for {EQUALS} equal clients ({SHORT_TURN_S * 1000:g} ms "
        f"each, beside the loud one): **{_evenness(results):.4f}** (1 is perfectly even). The loud "
        f"client got {_loud_share(results):.2f} × what one of them got.",
    ]


def _row(results: Results, cell: str) -> list[str]:
    return [
        cell,
        f"{results.of_group(cell, lambda g: g.p50_ms, 'quiet'):.1f}",
        f"{results.of_group(cell, lambda g: g.p95_ms, 'quiet'):.1f}",
        f"{results.of_group(cell, lambda g: g.p99_ms, 'quiet'):.1f}",
    ]


def _evenness(results: Results) -> float:
    return results.of_group(CROWD, lambda g: jain_index(g.answered_by_caller), "equals")


def _loud_share(results: Results) -> float:
    each = results.of_group(CROWD, _answered, "equals") / EQUALS
    return results.of_group(CROWD, _answered, "loud") / max(each, 1)


def _answered(group: GroupFigures) -> float:
    return group.answered


def targets(results: Results) -> list[Target]:
    """Return what a loud client may do to others."""
    alone_ms, beside_ms = (
        results.of_group(cell, lambda g: g.p95_ms, "quiet") for cell in (ALONE, BESIDE)
    )
    turns = (beside_ms - alone_ms) / (TURN_S * 1000)
    return [
        at_most("a quiet client's p95 beside 1,000 waiting: service times added", turns, 1.0, 1.25),
        at_least(f"Jain index of {EQUALS} equal clients", _evenness(results), 0.99),
    ]


SCENARIO = Scenario("fairness", "What can a loud client do to others?", cells, tables, targets)
