"""What the daemon adds before an MCP server on pipes."""

from bench.runs import Group, Load
from bench.scenario import MIB, Cell, Results, Scale, Scenario, Target, at_least, at_most, table
from bench.server_process import STDIO, UPSTREAM, exai

EXAI = exai("exai > stdio server", upstream={})
CALLERS = (1, 32)


def cells(scale: Scale) -> list[Cell]:
    """Return the server alone and behind the daemon."""
    found = []
    for callers in (n for n in CALLERS if n in scale.callers):
        alone = Group(name="callers", callers=1, outstanding=callers)
        behind = Group(name="callers", callers=callers, tool=f"{UPSTREAM}__echo")
        for server, group in ((STDIO, alone), (EXAI, behind)):
            load = Load(groups=(group,), duration_s=scale.duration_s, warm_up_s=scale.warm_up_s)
            found.append(Cell(_name(server.name, callers), server, load))
    return found


def _name(server: str, callers: int) -> str:
    return f"{server}; {callers} under way"


def tables(results: Results) -> list[str]:
    """Return one row for each, with and without the processor time of the server behind."""
    names = [_name(server.name, callers) for callers in CALLERS for server in (STDIO, EXAI)]
    return table(
        [
            "server; closed loop",
            "µs/call",
            "with the server behind",
            "calls/s",
            "p50 ms",
            "p99",
            *_BUSY,
        ],
        [_row(results, name) for name in names if results.has(name)],
    )


_BUSY = ["server busy", "load generator busy", "RSS idle MiB"]


def _row(results: Results, cell: str) -> list[str]:
    of, of_group = results.of, results.of_group
    return [
        cell,
        results.shown_cpu_us(cell),
        f"{results.cpu_us(cell, with_children=True):.1f}",
        f"{results.per_s(cell):,.0f}",
        f"{of_group(cell, lambda g: g.p50_ms):.2f}",
        f"{of_group(cell, lambda g: g.p99_ms):.2f}",
        f"{of(cell, lambda f: f.server_cpu_s / f.window_s):.0%}",
        f"{of(cell, lambda f: f.load_cpu_s / f.window_s):.0%}",
        f"{of(cell, lambda f: f.rss_start_bytes) / MIB:.0f}",
    ]


def targets(results: Results) -> list[Target]:
    """Return what the daemon may add."""
    found = []
    many, one, alone = _name(EXAI.name, 32), _name(EXAI.name, 1), _name(STDIO.name, 1)
    if results.has(many):
        per_s = 1e6 / results.cpu_us(many, with_children=True)
        promise = "to a stdio server on the same core, 32 × 1: calls/s"
        found.append(at_least(promise, per_s, 12_000, 8000))
    if results.has(one, alone):
        ours_ms, theirs_ms = (results.of_group(cell, lambda g: g.p50_ms) for cell in (one, alone))
        promise = "to a stdio server, one caller: p50 that the daemon adds"
        found.append(at_most(promise, ours_ms - theirs_ms, 0.2, 0.4, " ms"))
    return found


SCENARIO = Scenario(
    "stdio_upstream",
    "What does the daemon add before an MCP server on pipes?",
    cells,
    tables,
    targets,
)
