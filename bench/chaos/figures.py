"""What a run comes to, in numbers."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from bench.chaos.checker import KINDS, Finding
from bench.chaos.record import Record
from bench.figures import percentile


class Latencies(msgspec.Struct, frozen=True):
    """Of so many calls."""

    count: int
    p50_s: float
    p95_s: float
    max_s: float


class ChaosFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `deaths` are by what dies and how, `errors` and `refusals` by code.

    `in_start_count` is how many of the daemon's deaths came before it was ready again.
    `after_restart` is from a client's return to a new daemon to the answers it waits for,
    `after_restart_waited` without the time that the tools themselves take.
    """

    profile: str
    seed: int
    duration_s: float
    calls: int
    accepted: int
    given_up: int
    answers: int
    executions: int
    run_again: int
    deaths: dict[str, int]
    in_start_count: int
    errors: dict[str, int]
    refusals: dict[str, int]
    findings: dict[str, int]
    after_restart: Latencies
    after_restart_waited: Latencies
    after_cut: Latencies
    database_bytes: int


class ChaosRun(msgspec.Struct, frozen=True, kw_only=True):
    """One line of raw data: what made a run, on what, and what came of it.

    `spinners` are processes that kept the machine busy meanwhile.
    """

    command: str
    commit: str
    began_at: str
    machine: dict[str, Any]
    synchronous: str
    spinners: int
    figures: ChaosFigures


def figures_of(record: Record, findings: list[Finding]) -> ChaosFigures:
    """Count."""
    kinds = Counter(finding.kind for finding in findings)
    by_tag = Counter(execution.tag for execution in record.executions)
    after_restart = [wait for wait in record.waits if wait.after_restart]
    return ChaosFigures(
        profile=record.profile,
        seed=record.seed,
        duration_s=record.duration_s,
        calls=len(record.calls),
        accepted=sum(bool(history.accepted_because) for history in record.calls),
        given_up=sum(history.is_given_up for history in record.calls),
        answers=sum(len(history.answers) for history in record.calls),
        executions=len(record.executions),
        run_again=sum(count > 1 for count in by_tag.values()),
        deaths=dict(Counter(f"{d.target} {d.way}" for d in record.deaths)),
        in_start_count=sum(death.in_start for death in record.deaths),
        errors=dict(Counter(h.answers[0].code for h in record.calls if h.answers)),
        refusals=dict(Counter(r.code for h in record.calls for r in h.refusals)),
        findings={kind: kinds[kind] for kind in KINDS},
        after_restart=_latencies(wait.s for wait in after_restart),
        after_restart_waited=_latencies(max(0.0, wait.s - wait.work_s) for wait in after_restart),
        after_cut=_latencies(wait.s for wait in record.waits if not wait.after_restart),
        database_bytes=record.database.file_bytes,
    )


def _latencies(waits_s: Iterable[float]) -> Latencies:
    ordered = sorted(waits_s)
    return Latencies(
        len(ordered),
        round(percentile(ordered, 0.5), 4),
        round(percentile(ordered, 0.95), 4),
        round(percentile(ordered, 1.0), 4),
    )
