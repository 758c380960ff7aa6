"""A health report as people read it: what matters first, nothing twice.

Reads the few numbers that it shows, and can do without each of them: another identity sees
less, and a daemon of another version may say less.
"""

from collections.abc import Iterator
from math import ceil
from typing import Any

import msgspec

from exai.cli.columns import aligned, one_line
from exai.cli.words import size_in_words

_REASON_LENGTH = 160


class Lag(msgspec.Struct, frozen=True):
    """How late the event loop is."""

    latest_s: float
    longest_s: float


class Pool(msgspec.Struct, frozen=True):
    """The permits of one scope."""

    scope: str
    limit: int
    in_use: int


class Store(msgspec.Struct, frozen=True):
    """The ledger: how full it is, and whether it outlives the daemon."""

    record_count: int
    result_bytes: int
    durable: bool = True
    unstored_count: int = 0


class Provider(msgspec.Struct, frozen=True):
    """A service of models, or the model on the daemon's machine."""

    provider: str
    is_configured: bool
    models: tuple[str, ...]
    missing: str | None = None


class Upstream(msgspec.Struct, frozen=True):
    """An MCP server behind the daemon."""

    upstream: str
    state: str
    instance: str = "shared"
    instance_count: int = 1
    tool_count: int = 0
    offered_count: int | None = None
    retry_in_s: float | None = None
    last_end: str | None = None

    @property
    def shown_count(self) -> int:
        """How many of its tools are offered, as far as the daemon says."""
        return self.tool_count if self.offered_count is None else self.offered_count


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of a report."""

    status: str
    version: str = "?"
    auth: str | None = None
    pid: int | None = None
    uptime_human: str = "?"
    port: int | None = None
    http_port: int | None = None
    blocked_by: dict[str, str] = {}
    warnings: tuple[str, ...] = ()
    connections: int | None = None
    max_connections: int | None = None
    sessions: int | None = None
    detached_sessions: int = 0
    mcp_sessions: int = 0
    tool_count: int | None = None
    resident_bytes: int | None = None
    loop_lag: Lag | None = None
    pools: tuple[Pool, ...] = ()
    waiting_count: dict[str, int] = {}
    leaked_permits: tuple[Any, ...] | None = ()
    store: Store | None = None
    providers: tuple[Provider, ...] | None = None
    upstreams: tuple[Upstream, ...] | None = None


class UnknownShape(Exception):
    """The report is not one that this version can read."""


def read_health(report: dict[str, Any]) -> Health:
    """Return what is shown of a report. Raises `UnknownShape`."""
    try:
        return msgspec.convert(report, Health)
    except msgspec.ValidationError as misfit:
        raise UnknownShape(str(misfit)) from None


def picture(health: Health, url: str) -> Iterator[str]:
    """Yield the lines that show it."""
    yield (
        one_line(
            f"EXAI {health.version} at {url} is {_status_in_words(health)}; "
            f"up {health.uptime_human}, pid {health.pid}"
        )
        + "\n"
    )
    for warning in health.warnings:
        yield f"warning: {one_line(warning)}\n"
    if health.leaked_permits:
        yield f"defect: {len(health.leaked_permits)} permits whose owners have ended\n"
    yield "\n"
    yield from aligned(_numbers(health))
    for table in (_pools(health), _providers(health), _upstreams(health)):
        if len(table) > 1:
            yield "\n"
            yield from aligned(table)


def state_in_words(server: Upstream) -> str:
    """Say how an MCP server fares, and why, where it does not run."""
    state = server.state.replace("_", " ")
    reason = f": {server.last_end[:_REASON_LENGTH]}" if server.last_end else ""
    again = f"; again in {ceil(server.retry_in_s)} s" if server.retry_in_s else ""
    return f"{state}{_instances_in_words(server)}{reason}{again}"


def _instances_in_words(server: Upstream) -> str:
    if server.instance == "shared":
        return ""
    return f", {server.instance_count} running, one for each {server.instance}"


def _status_in_words(health: Health) -> str:
    waits_for = ", ".join(part for part in health.blocked_by if part != "daemon")
    return f"{health.status}, and waits for {waits_for}" if waits_for else health.status


def _numbers(health: Health) -> Iterator[tuple[str, str]]:
    if health.connections is not None:
        yield "connections", f"{health.connections} of {health.max_connections}"
    if health.sessions is not None:
        of_mcp = f", {health.mcp_sessions} of MCP clients" if health.mcp_sessions else ""
        detached = f"{health.detached_sessions} without a connection"
        yield "sessions", f"{health.sessions}, {detached}{of_mcp}"
    if health.tool_count is not None:
        yield "tools", str(health.tool_count)
    if health.store is not None:
        yield "store", _store_in_words(health.store)
    if health.resident_bytes is not None:
        yield "memory", size_in_words(health.resident_bytes)
    if lag := health.loop_lag:
        longest = _time_in_words(lag.longest_s)
        yield "loop lag", f"{_time_in_words(lag.latest_s)}, at most {longest} in the last minute"


def _pools(health: Health) -> list[tuple[str, ...]]:
    waiting = dict(health.waiting_count)
    session = waiting.pop("", 0)
    waiting["global"] = session + sum(waiting.values())
    return [
        ("SCOPE", "RUN", "LIMIT", "WAIT"),
        *(
            (pool.scope, str(pool.in_use), str(pool.limit), str(waiting.get(pool.scope, 0)))
            for pool in health.pools
        ),
    ]


def _providers(health: Health) -> list[tuple[str, ...]]:
    return [
        ("PROVIDER", "MODELS"),
        *(
            (one.provider, ", ".join(one.models) if one.is_configured else f"({one.missing})")
            for one in health.providers or ()
        ),
    ]


def _upstreams(health: Health) -> list[tuple[str, ...]]:
    return [
        ("MCP SERVER", "TOOLS", "STATE"),
        *((u.upstream, str(u.shown_count), state_in_words(u)) for u in health.upstreams or ()),
    ]


def _store_in_words(store: Store) -> str:
    waiting = f"; {store.unstored_count} outcomes cannot be stored" if store.unstored_count else ""
    place = "" if store.durable else ", in memory"
    size = size_in_words(store.result_bytes)
    return f"{store.record_count} calls, {size} of results{place}{waiting}"


def _time_in_words(duration_s: float) -> str:
    return f"{duration_s * 1000:.1f} ms"
