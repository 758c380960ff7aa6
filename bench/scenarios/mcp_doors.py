"""What a call of `echo` costs an MCP client, beside the official SDK's server alone.

The session over HTTP has two of those: one from which a client can get a lost answer again, as it
can from the daemon, and one that just sends it.
"""

from typing import NamedTuple

from bench.runs import Group, Language, Load
from bench.scenario import MIB, Cell, Results, Scale, Scenario, Target, at_most, table
from bench.server_process import Server, exai, mcp_lowlevel

CALLERS = (1, 32)
GOAL = 1.3


class Door(NamedTuple):
    """One way in: the daemon with its calls in memory, by default, and the SDK alone."""

    name: str
    ours: Server
    durable: Server
    bare: Server


def _door(name: str, language: Language, kind: str) -> Door:
    return Door(
        name,
        exai(f"exai, {name}", language=language, EXAI_STORE_KIND="memory"),
        exai(f"exai, {name}, SQLite", language=language),
        mcp_lowlevel(kind, language, f"MCP SDK, {name}"),
    )


DOORS = [
    _door("HTTP, 2026-07-28", "mcp_modern", "stateless"),
    _door("HTTP session, 2025-11-25", "mcp_session", "resumable"),
    _door("WebSocket, 2026-07-28", "mcp_websocket_modern", "websocket"),
    _door("WebSocket, 2025-11-25", "mcp_websocket_session", "websocket"),
]
UNRESUMABLE = mcp_lowlevel(
    "stateful", "mcp_session", "MCP SDK, HTTP session, 2025-11-25, not resumable"
)


def cells(scale: Scale) -> list[Cell]:
    """Return each door beside its bare server, under each number of callers."""
    return [
        _cell(server, callers, scale)
        for callers in CALLERS
        if callers in scale.callers
        for door in DOORS
        for server in _servers(door)
    ]


def _servers(door: Door) -> list[Server]:
    beside = [UNRESUMABLE] if door.bare.language == UNRESUMABLE.language else []
    return [*beside, door.bare, door.ours, door.durable]


def _cell(server: Server, callers: int, scale: Scale) -> Cell:
    group = Group(name="callers", callers=callers)
    load = Load(groups=(group,), duration_s=scale.duration_s, warm_up_s=scale.warm_up_s)
    return Cell(_name(server, callers), server, load)


def _name(server: Server, callers: int) -> str:
    return f"{server.name}; {callers} {'caller' if callers == 1 else 'callers'}"


def tables(results: Results) -> list[str]:
    """Return one row for each server and number of callers."""
    rows = []
    for callers in CALLERS:
        for door in DOORS:
            bare = _name(door.bare, callers)
            for server in _servers(door):
                cell = _name(server, callers)
                if results.has(cell, bare):
                    rows.append(_row(results, cell, bare))
    return table(
        ["server; closed loop", "µs/call", "× the SDK", "calls/s", "p50 ms", "p99", *_LOADS], rows
    )


_LOADS = ["server busy", "load generator busy", "RSS peak MiB"]


def _row(results: Results, cell: str, bare: str) -> list[str]:
    of, of_group = results.of, results.of_group
    return [
        cell,
        results.shown_cpu_us(cell),
        f"{results.cpu_ratio(cell, bare):.2f}",
        f"{results.per_s(cell):,.0f}",
        f"{of_group(cell, lambda g: g.p50_ms):.2f}",
        f"{of_group(cell, lambda g: g.p99_ms):.2f}",
        f"{of(cell, lambda f: f.server_cpu_s / f.window_s):.0%}",
        f"{of(cell, lambda f: f.load_cpu_s / f.window_s):.0%}",
        f"{of(cell, lambda f: f.rss_peak_bytes) / MIB:.0f}",
    ]


def targets(results: Results) -> list[Target]:
    """Return what may be added to what the SDK costs."""
    return [
        at_most(f"MCP over {door.name}, {callers} × 1: CPU of a call", ratio, GOAL, unit=" × SDK")
        for callers in CALLERS
        for door in DOORS
        if results.has(ours := _name(door.ours, callers), bare := _name(door.bare, callers))
        for ratio in (results.cpu_ratio(ours, bare),)
    ]


SCENARIO = Scenario(
    "mcp_doors",
    "What does a call cost an MCP client, beside the SDK's server alone?",
    cells,
    tables,
    targets,
)
