"""Reads what the MCP servers wrote down."""

from pathlib import Path

from bench.chaos.record import Execution


def executions_in(log: Path) -> list[Execution]:
    """Return every execution, in the order of beginning."""
    begun: dict[str, tuple[str, str, float]] = {}
    completed_at: dict[str, float] = {}
    for line in log.read_text().splitlines():
        what, execution_id, tag, upstream, _, at = line.split()
        if what == "begun":
            begun[execution_id] = tag, upstream, float(at)
        elif what == "completed":
            completed_at[execution_id] = float(at)
    return [
        Execution(execution_id, tag, upstream, begun_at, completed_at.get(execution_id))
        for execution_id, (tag, upstream, begun_at) in begun.items()
    ]
