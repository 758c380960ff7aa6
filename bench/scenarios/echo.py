"""What a call costs: the `echo` tool, beside what the library and the least handler cost."""

from bench.runs import Group, Load
from bench.scenario import MIB, Cell, Results, Scale, Scenario, Target, at_least, at_most, table
from bench.server_process import Server, exai, fastmcp, mcp_sdk, websocket_floor

# In memory, as those beside it: what more it costs to lose nothing is `durability`.
EXAI = exai(EXAI_STORE_KIND="memory")
ACKED = exai("exai, results acknowledged", EXAI_STORE_KIND="memory")
FLOORS = [websocket_floor("handler"), websocket_floor("echo")]
PEERS = [
    mcp_sdk("stateless", "mcp_modern", "MCP SDK, stateless, 2026-07-28"),
    mcp_sdk("stateful", "mcp_session", "MCP SDK, stateful"),
    fastmcp("stateless", "mcp_modern", "FastMCP, stateless, 2026-07-28"),
    fastmcp("stateless", "mcp_session", "FastMCP, stateless, 2025-11-25"),
    fastmcp("stateful", "mcp_session", "FastMCP, stateful"),
]
PEER_CALLERS = (1, 32)


def cells(scale: Scale) -> list[Cell]:
    """Return each server under each number of callers."""
    servers = [EXAI, ACKED, *FLOORS]
    found = [_cell(server, callers, scale) for callers in scale.callers for server in servers]
    if scale.has_peers:
        found += [_cell(server, callers, scale) for callers in PEER_CALLERS for server in PEERS]
    return found


def _cell(server: Server, callers: int, scale: Scale) -> Cell:
    group = Group(name="callers", callers=callers, acks=server is ACKED)
    load = Load(groups=(group,), duration_s=scale.duration_s, warm_up_s=scale.warm_up_s)
    return Cell(_name(server, callers), server, load)


def _name(server: Server, callers: int) -> str:
    return f"{server.name}; {callers} {'caller' if callers == 1 else 'callers'}"


def tables(results: Results) -> list[str]:
    """Return one row for each server and number of callers."""
    servers = [EXAI, ACKED, *FLOORS, *PEERS]
    names = [_name(server, callers) for callers in (1, 32, 64) for server in servers]
    return table(
        ["server; closed loop", "µs/call", "calls/s", "p50 ms", "p95", "p99", "p99.9", *_LOADS],
        [_row(results, name) for name in names if results.has(name)],
    )


_LOADS = ["server busy", "load generator busy", "RSS idle MiB", "peak"]


def _row(results: Results, cell: str) -> list[str]:
    of, of_group = results.of, results.of_group
    return [
        cell,
        results.shown_cpu_us(cell),
        f"{results.per_s(cell):,.0f}",
        f"{of_group(cell, lambda g: g.p50_ms):.2f}",
        f"{of_group(cell, lambda g: g.p95_ms):.2f}",
        f"{of_group(cell, lambda g: g.p99_ms):.2f}",
        f"{of_group(cell, lambda g: g.p999_ms):.2f}",
        f"{of(cell, lambda f: f.server_cpu_s / f.window_s):.0%}",
        f"{of(cell, lambda f: f.load_cpu_s / f.window_s):.0%}",
        f"{of(cell, lambda f: f.rss_start_bytes) / MIB:.0f}",
        f"{of(cell, lambda f: f.rss_peak_bytes) / MIB:.0f}",
    ]


def targets(results: Results) -> list[Target]:
    """Return what a call may cost, in itself and beside others."""
    found = []
    ours_64, ours_32, ours_1 = (_name(EXAI, callers) for callers in (64, 32, 1))
    handler, echo = (_name(server, 64) for server in FLOORS)
    if results.has(ours_64, handler, echo):
        handlers = results.cpu_ratio(ours_64, handler)
        echoes = results.cpu_ratio(echo, ours_64)
        found += [
            at_most("echo, 64 × 1: CPU of a call, in bare handlers", handlers, 2.0),
            at_least("echo, 64 × 1: calls/s a core", 1e6 / results.cpu_us(ours_64), 25_000, 15_000),
            at_least("echo, 64 × 1: calls a core, in raw echoes", echoes, 0.25, 0.15),
        ]
    bounds = ((9, 5), (29, 15), (30, 15), (30, 15), (30, 15))
    for peer, (goal, accepted) in zip(PEERS, bounds, strict=True):
        if results.has(ours_32, theirs := _name(peer, 32)):
            ratio = results.cpu_ratio(theirs, ours_32)
            promise = f"echo, 32 × 1: calls a core, against {peer.name}"
            found.append(at_least(promise, ratio, goal, accepted, " ×"))
    if results.has(ours_1):
        p50_ms = results.of_group(ours_1, lambda g: g.p50_ms)
        idle_mib = results.of(ours_1, lambda f: f.rss_start_bytes) / MIB
        found += [
            at_most("echo, one caller: p50", p50_ms, 0.15, 0.3, " ms"),
            at_most("RSS of an idle daemon", idle_mib, 45, 60, " MiB"),
        ]
    return found


SCENARIO = Scenario("echo", "What does a call cost?", cells, tables, targets)
