"""The numbers of the moment for Prometheus, read off the health report."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from exai.observe.metrics import Family

Report = dict[str, Any]
Values = Iterable[tuple[tuple[str, ...], float]]


class Gauge(NamedTuple):
    """A metric, and where its values stand in the report."""

    family: Family
    values: Callable[[Report], Values]


def _one(name: str, help: str, of: Callable[[Report], float]) -> Gauge:
    return Gauge(Family(name, help, "gauge"), lambda report: [((), float(of(report)))])


def _by(label: str, name: str, help: str, of: Callable[[Report], Values]) -> Gauge:
    return Gauge(Family(name, help, "gauge", (label,)), of)


GAUGES = (
    _one("exai_sessions", "Sessions, with a connection or without.", lambda r: r["sessions"]),
    _one(
        "exai_detached_sessions",
        "Sessions that wait for their peer to come back.",
        lambda r: r["detached_sessions"],
    ),
    _one("exai_mcp_sessions", "Those of MCP clients among them.", lambda r: r["mcp_sessions"]),
    _by(
        "scope",
        "exai_permits_in_use",
        "Permits that are held.",
        lambda r: [((pool["scope"],), pool["in_use"]) for pool in r["pools"]],
    ),
    _by(
        "scope",
        "exai_permits_limit",
        "Permits that there are.",
        lambda r: [((pool["scope"],), pool["limit"]) for pool in r["pools"]],
    ),
    _by(
        "scope",
        "exai_queue_depth",
        "Calls that wait; without a scope, for a permit of the daemon or their session alone.",
        lambda r: [((scope,), count) for scope, count in r["waiting_count"].items()],
    ),
    _one(
        "exai_leaked_permits",
        "Permits whose owner has ended: each is a defect.",
        lambda r: len(r["leaked_permits"]),
    ),
    _one(
        "exai_loop_lag_seconds",
        "How late the event loop was, at the longest, in the last minute.",
        lambda r: r["loop_lag"]["longest_s"],
    ),
    _one("exai_tools", "Tools that can be called.", lambda r: r["tool_count"]),
    _one(
        "exai_result_cache_entries",
        "Successes that may be served again.",
        lambda r: r["result_cache"]["entry_count"],
    ),
    _one(
        "exai_result_cache_bytes",
        "Their size together.",
        lambda r: r["result_cache"]["size_bytes"],
    ),
    _one(
        "exai_ledger_records",
        "Calls that the ledger knows of.",
        lambda r: r["store"]["record_count"],
    ),
    _one("exai_ledger_bytes", "Results that it keeps.", lambda r: r["store"]["result_bytes"]),
    _one(
        "exai_ledger_unstored",
        "Outcomes that could not be stored yet.",
        lambda r: r["store"]["unstored_count"],
    ),
    _one(
        "exai_conversations",
        "Conversations that can be continued.",
        lambda r: r["conversations"]["conversation_count"],
    ),
    _by(
        "upstream",
        "exai_upstream_ready",
        "1 while an MCP server takes calls.",
        lambda r: [((u["upstream"],), float(u["state"] == "ready")) for u in r["upstreams"]],
    ),
    _by(
        "upstream",
        "exai_upstream_starts",
        "How often an MCP server was started.",
        lambda r: [((u["upstream"],), u["start_count"]) for u in r["upstreams"]],
    ),
    _by(
        "upstream",
        "exai_upstream_instances",
        "Processes of an MCP server that run: one for all, or for principals or sessions.",
        lambda r: [((u["upstream"],), u["instance_count"]) for u in r["upstreams"]],
    ),
    _one(
        "exai_resident_memory_bytes",
        "Memory that the daemon's process holds, without its children.",
        lambda r: r["resident_bytes"],
    ),
    _one("exai_start_time_seconds", "When the daemon was started.", lambda r: r["started_at"]),
)
