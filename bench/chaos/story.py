"""What a run is said to have come to, and the history of each call that shows a fault."""

from collections.abc import Iterator

from bench.chaos.checker import KINDS, Finding
from bench.chaos.figures import ChaosFigures, Latencies
from bench.chaos.record import CallHistory, Record

_TOLD_COUNT = 10
_AROUND_S = 1.0


def shown_figures(figures: ChaosFigures) -> list[str]:
    """Return what a run came to, as lines."""
    return [
        f"  {figures.calls:,} calls in {figures.duration_s:.1f} s, {figures.accepted:,} accepted, "
        f"{figures.given_up} given up; {figures.executions:,} executions, {figures.run_again} "
        f"pieces of work run again; {figures.answers:,} answers",
        f"  deaths: {_counted(figures.deaths)} ({figures.in_start_count} while it started); "
        f"first answers: {_counted(figures.errors)}; refusals: {_counted(figures.refusals)}",
        f"  from reconnect to result: after a restart {_latencies(figures.after_restart)}, "
        f"without the tool's work {_latencies(figures.after_restart_waited)}; "
        f"after a cut {_latencies(figures.after_cut)}; ledger {figures.database_bytes:,} bytes",
        f"  faults: {_counted({k: n for k, n in figures.findings.items() if n}) or 'none'}",
    ]


def story_of(record: Record, findings: list[Finding]) -> Iterator[str]:
    """Yield every fault, and what is known of the calls concerned."""
    histories = {history.request_id: history for history in record.calls}
    by_call: dict[str, list[Finding]] = {}
    for finding in findings:
        by_call.setdefault(finding.request_id, []).append(finding)
    for request_id, faults in list(by_call.items())[:_TOLD_COUNT]:
        for finding in dict.fromkeys(faults):
            yield f"FAULT {finding.kind} ({KINDS[finding.kind]}): {request_id} {finding.text}"
        if request_id in histories:
            yield from _history(histories[request_id], record)
    if len(by_call) > _TOLD_COUNT:
        yield f"… and faults of {len(by_call) - _TOLD_COUNT} more calls"


def _history(history: CallHistory, record: Record) -> Iterator[str]:
    again = "idempotent" if history.idempotent else "once only"
    yield (
        f"    {history.upstream}__{history.tool} ({again}), {history.work_s} s, key {history.key}"
        f"{', cancelled' if history.is_cancelled else ''}"
    )
    first_answers = [answer.at for answer in history.answers[:1]]
    begin, end = history.sent_at - _AROUND_S, max([*first_answers, history.sent_at]) + _AROUND_S
    events = list(history.events)
    for execution in record.executions:
        if execution.tag == history.tag:
            events.append((execution.begun_at, f"  execution {execution.execution_id} begun"))
            if execution.completed_at is not None:
                told = f"  execution {execution.execution_id} completed"
                events.append((execution.completed_at, told))
    for death in record.deaths:
        if begin <= death.at <= end:
            events.append((death.at, f"  -- {death.target} dies: {death.way}, at {death.at:.3f}"))
            events.append((death.back_at, f"  -- {death.target} is back, at {death.back_at:.3f}"))
    told_before: set[str] = set()
    for at, what in sorted(events):
        if what not in told_before:  # an answer that is told at each resume is told here once
            yield f"    {at - history.sent_at:+9.3f}  {what}"
        told_before.add(what)
    for row in record.database.rows.get(history.request_id, ["nothing"]):
        yield f"    ledger: {row}"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name or 'ok'}" for name, count in counts.items())


def _latencies(latencies: Latencies) -> str:
    if not latencies.count:
        return "none"
    return (
        f"p50 {latencies.p50_s:.3f} s, p95 {latencies.p95_s:.3f} s, max {latencies.max_s:.3f} s "
        f"({latencies.count})"
    )
