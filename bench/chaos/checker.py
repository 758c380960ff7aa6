"""What must not be, found in the record of a run. Thinks only.

Every finding is a fault, of the daemon or of this bench; what is legitimate is counted by
`figures`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from bench.chaos.record import Answer, CallHistory, Death, Execution, Record

KINDS = {
    "lost": "accepted calls without their answer",
    "executed_again": "executions beyond one of work that is not idempotent",
    "executed_thrice": "executions beyond two of idempotent work",
    "changed": "answers that changed",
    "empty": "empty successes",
    "wrong": "answers that no execution gave",
    "misled": "errors that call work safe to repeat that is not",
    "unexplained": "errors that nothing explains",
    "unasked": "answers told more often than asked for",
    "phantom": "executions of calls that were not accepted",
    "sessions": "sessions lost",
    "database": "faults of the database",
    "orphans": "MCP servers left behind",
    "defects": "defects in the daemon's log",
}
"""All of these must be 0."""

_NOTICED_LATE_S = 2.0
_FILE_SPARE_BYTES = 67_108_864
_ROW_BYTES = 8192


class Finding(NamedTuple):
    """A fault, of a call or of the run."""

    kind: str
    text: str
    request_id: str = ""


def findings_in(record: Record) -> list[Finding]:
    """Return every fault."""
    by_tag: defaultdict[str, list[Execution]] = defaultdict(list)
    for execution in record.executions:
        by_tag[execution.tag].append(execution)
    found = [
        finding
        for history in record.calls
        for finding in _faults_of_call(history, by_tag[history.tag], record)
    ]
    found += _faults_of_work(record, by_tag)
    found += _faults_of_keys(record)
    return found + list(_faults_of_run(record))


def _faults_of_call(
    history: CallHistory, executions: list[Execution], record: Record
) -> Iterator[Finding]:
    def finding(kind: str, text: str) -> Finding:
        return Finding(kind, text, history.request_id)

    if history.missing:
        yield finding("lost", history.missing)
    elif not history.answers and not history.is_given_up:
        yield finding("lost", f"no answer ({history.accepted_because or 'not even accepted'})")
    if len({answer.digest for answer in history.answers}) > 1:
        told = ", ".join(dict.fromkeys(f"{a.code or 'ok'} {a.digest}" for a in history.answers))
        yield finding("changed", told)
    if history.unasked_count:
        yield finding("unasked", f"{history.unasked_count} times")
    for refusal in history.refusals:
        if fault := _fault_of_refusal(refusal, history, record.deaths):
            yield finding("unexplained", fault)
    if history.answers:
        answer = history.answers[0]
        if not answer.code or answer.code == "TOOL_EXECUTION_ERROR":
            if fault := _fault_of_result(answer, history, executions):
                yield finding(*fault)
        elif fault := _fault_of_error(answer, history, record):
            yield finding("unexplained", fault)
        has_begun = any(each.begun_at <= answer.at for each in executions)
        if answer.code and answer.retryable and has_begun and not history.idempotent:
            yield finding("misled", f"{answer.code} is retryable, and the work had begun")


def _fault_of_result(
    answer: Answer, history: CallHistory, executions: list[Execution]
) -> tuple[str, str] | None:
    """Say what is wrong with what a tool is said to have answered."""
    if not answer.text_bytes:
        return "empty", answer.code or "a success without a text"
    execution_id, tag, *_ = answer.text.split(" ", 2)
    completed = {each.execution_id for each in executions if each.completed_at is not None}
    if tag != history.tag or execution_id not in completed:
        return "wrong", f"{answer.text[:40]!r} is none of {sorted(completed)}"
    if answer.text_bytes != max(history.size_bytes, len(f"{execution_id} {tag} ")):
        return "wrong", f"{answer.text_bytes} bytes instead of {history.size_bytes}"
    if bool(answer.code) != history.fails:
        return "wrong", f"the tool {'fails' if history.fails else 'does not fail'}"
    return None


def _fault_of_refusal(refusal: Answer, history: CallHistory, deaths: list[Death]) -> str:
    """Say why a refusal before acceptance has no reason; empty where it has one."""
    if refusal.code == "RESULT_UNKNOWN":
        is_known = refusal.reason == "acknowledged" and history.is_acknowledged
        is_unknown = not refusal.reason and not history.missing
        return "" if is_known or is_unknown else f"RESULT_UNKNOWN {refusal.reason}"
    is_draining = any(
        death.target == "daemon" and death.way != "kill" and death.at <= refusal.at <= death.back_at
        for death in deaths
    )
    if refusal.code == "SERVICE_UNAVAILABLE" and is_draining:
        return ""
    return f"refused with {refusal.code}: {refusal.message}"


def _fault_of_error(answer: Answer, history: CallHistory, record: Record) -> str:
    """Say why an error of ours has no reason; empty where it has one."""
    kills = deaths_of("daemon", history, answer, record.deaths)
    upstream_kills = deaths_of(history.upstream, history, answer, record.deaths)
    needed = 2 if history.idempotent else 1
    is_explained = {
        "CANCELLED": history.is_cancelled,
        "INTERRUPTED": sum(death.way == "kill" for death in kills) >= needed,
        "UPSTREAM_ERROR": bool(upstream_kills),
    }.get(answer.code, False)
    return "" if is_explained else f"{answer.code}: {answer.message}"


def deaths_of(
    target: str, history: CallHistory, answer: Answer, deaths: list[Death]
) -> list[Death]:
    """Return the deaths while a call was under way, or just before."""
    since = history.sent_at - _NOTICED_LATE_S
    return [death for death in deaths if death.target == target and since <= death.at <= answer.at]


def _faults_of_work(record: Record, by_tag: dict[str, list[Execution]]) -> Iterator[Finding]:
    requests: defaultdict[str, list[CallHistory]] = defaultdict(list)
    for history in record.calls:
        requests[history.tag].append(history)
    for tag, executions in by_tag.items():
        asking = requests.get(tag, [])
        # Requests of one key are one request.
        request_count = len({history.key or history.request_id for history in asking})
        is_idempotent = any(history.idempotent for history in asking)
        most = request_count * (2 if is_idempotent else 1)
        told = f"{len(executions)} executions, {most} at most"
        if not any(history.accepted_because for history in asking):
            yield Finding("phantom", told, tag)
        elif len(executions) > most:
            kind = "executed_thrice" if is_idempotent else "executed_again"
            yield Finding(kind, told, tag)


def _faults_of_keys(record: Record) -> Iterator[Finding]:
    """Find requests of one key whose outcomes differ; a caller's own cancellation is its own."""
    by_key: defaultdict[str, list[CallHistory]] = defaultdict(list)
    for history in record.calls:
        if history.key is not None and history.answers and not history.is_cancelled:
            by_key[history.key].append(history)
    for histories in by_key.values():
        if len({history.answers[0].outcome_digest for history in histories}) > 1:
            told = ", ".join(f"{h.request_id}: {h.answers[0].code or 'ok'}" for h in histories)
            yield Finding("changed", f"one key, two outcomes: {told}", histories[0].request_id)


def _faults_of_run(record: Record) -> Iterator[Finding]:
    for name in record.lost_sessions:
        yield Finding("sessions", f"{name} came back, and was not known")
    for pid in record.orphans:
        yield Finding("orphans", f"process {pid}")
    for line in record.defects:
        yield Finding("defects", line)
    database = record.database
    if database.integrity != ["ok"]:
        yield Finding("database", f"integrity_check: {database.integrity}")
    for request_id in database.unsettled:
        yield Finding("database", "not settled", request_id)
    for wrong in database.wrong_counts:
        yield Finding("database", wrong)
    if database.result_bytes:
        yield Finding("database", f"{database.result_bytes} bytes of results, all acknowledged")
    told_bytes = sum(answer.text_bytes for h in record.calls for answer in h.answers[:1])
    bound_bytes = _FILE_SPARE_BYTES + 2 * told_bytes + _ROW_BYTES * len(record.calls)
    if database.file_bytes > bound_bytes:
        yield Finding("database", f"{database.file_bytes:,} bytes, {bound_bytes:,} at most")
    for request_id, times in Counter(h.request_id for h in record.calls).items():
        if times > 1:
            yield Finding("wrong", "the bench called two calls the same", request_id)
