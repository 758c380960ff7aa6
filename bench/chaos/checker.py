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
_STARTS_IN_S = 20.0
"""How long an MCP server may take to start after it was killed in its first start."""
_FILE_SPARE_BYTES = 67_108_864
_ROW_BYTES = 8192


class Finding(NamedTuple):
    """A fault, of a call or of the run."""

    kind: str
    text: str
    request_id: str = ""


def findings_in(record: Record) -> list[Finding]:
    """Return every fault."""
    by_tag: dict[str, list[Execution]] = {}
    for execution in record.executions:
        by_tag.setdefault(execution.tag, []).append(execution)
    found: list[Finding] = []
    for history in record.calls:
        executions = by_tag.get(history.tag, [])
        faults = (*_faults_of_telling(history), *_faults_of_answer(history, executions, record))
        found += [Finding(kind, text, history.request_id) for kind, text in faults]
    found += _faults_of_work(record, by_tag)
    found += _faults_of_keys(record)
    found += _faults_of_run(record)
    return found + list(_faults_of_database(record))


def _faults_of_telling(history: CallHistory) -> Iterator[tuple[str, str]]:
    """Find what is wrong with how often, and how alike, a call was answered."""
    if history.missing:
        yield "lost", history.missing
    elif not history.answers and not history.is_given_up:
        yield "lost", f"no answer ({history.accepted_because or 'not even accepted'})"
    if len({answer.digest for answer in history.answers}) > 1:
        told = dict.fromkeys(f"{a.code or 'ok'} {a.digest}" for a in history.answers)
        yield "changed", ", ".join(told)
    if history.unasked_count:
        yield "unasked", f"{history.unasked_count} times"


def _faults_of_answer(
    history: CallHistory, executions: list[Execution], record: Record
) -> Iterator[tuple[str, str]]:
    """Find what is wrong with what a call was told, by refusals and by its first answer."""
    for refusal in history.refusals:
        if fault := _fault_of_refusal(refusal, history, record):
            yield "unexplained", fault
    if not history.answers:
        return
    answer = history.answers[0]
    if answer.code in ("", "TOOL_EXECUTION_ERROR"):
        yield from _faults_of_result(answer, history, executions)
    elif fault := _fault_of_error(answer, history, record):
        yield "unexplained", fault
    has_begun = any(each.begun_at <= answer.at for each in executions)
    if answer.code and answer.retryable and has_begun and not history.idempotent:
        yield "misled", f"{answer.code} is retryable, and the work had begun"


def _faults_of_result(
    answer: Answer, history: CallHistory, executions: list[Execution]
) -> Iterator[tuple[str, str]]:
    """Find what is wrong with what a tool is said to have answered."""
    if not answer.text_bytes:
        yield "empty", answer.code or "a success without a text"
        return
    execution_id, tag, *_ = [*answer.text.split(" ", 2), ""]
    completed = {each.execution_id for each in executions if each.completed_at is not None}
    if tag != history.tag or execution_id not in completed:
        yield "wrong", f"{answer.text[:40]!r} is none of {sorted(completed)}"
    elif answer.text_bytes != history.size_bytes:
        yield "wrong", f"{answer.text_bytes} bytes instead of {history.size_bytes}"
    elif bool(answer.code) != history.fails:
        yield "wrong", f"the tool {'fails' if history.fails else 'does not fail'}"


def _fault_of_refusal(refusal: Answer, history: CallHistory, record: Record) -> str:
    """Say why a refusal before acceptance has no reason; empty where it has one."""
    if refusal.code == "RESULT_UNKNOWN":
        is_known = refusal.reason == "acknowledged" and history.is_acknowledged
        is_unknown = not refusal.reason and not history.missing
        return "" if is_known or is_unknown else f"RESULT_UNKNOWN {refusal.reason}"
    if refusal.code == "SERVICE_UNAVAILABLE" and _is_draining(refusal.at, record.deaths):
        return "the client library tells of a restart" if history.is_of_library else ""
    if refusal.code == "UPSTREAM_ERROR" and refusal.retryable:
        begun_at = refusal.at - _STARTS_IN_S
        died = [d for d in record.deaths if d.target == history.upstream]
        if any(begun_at <= death.at <= refusal.at for death in died):
            return ""
    return f"refused with {refusal.code}: {refusal.message}"


def _is_draining(at: float, deaths: list[Death]) -> bool:
    return any(
        death.target == "daemon" and death.way != "kill" and death.at <= at <= death.back_at
        for death in deaths
    )


def _fault_of_error(answer: Answer, history: CallHistory, record: Record) -> str:
    """Say why an error of ours has no reason; empty where it has one.

    Requests of one key are one request: what happened to the first is told to all.
    """
    same = [history, *(each for each in record.calls if history.key and each.key == history.key)]
    since = min(each.sent_at for each in same) - _NOTICED_LATE_S
    died = Counter(
        (death.target, death.way) for death in record.deaths if since <= death.at <= answer.at
    )
    is_explained = {
        "CANCELLED": any(each.is_cancelled for each in same),
        "INTERRUPTED": died["daemon", "kill"] >= (2 if history.idempotent else 1),
        "UPSTREAM_ERROR": died[history.upstream, "kill"] > 0,
    }.get(answer.code, False)
    return "" if is_explained else f"{answer.code}: {answer.message}"


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
    for request_id, times in Counter(h.request_id for h in record.calls).items():
        if times > 1:
            yield Finding("wrong", "the bench called two calls the same", request_id)


def _faults_of_database(record: Record) -> Iterator[Finding]:
    database = record.database
    if database.integrity != ["ok"]:
        yield Finding("database", f"integrity_check: {database.integrity}")
    for request_id in database.unsettled:
        yield Finding("database", "not settled", request_id)
    for what, request_ids in database.odd.items():
        for request_id in request_ids:
            yield Finding("database", what, request_id)
    if database.result_bytes:
        yield Finding("database", f"{database.result_bytes} bytes of results, all acknowledged")
    told_bytes = sum(answer.text_bytes for h in record.calls for answer in h.answers[:1])
    bound_bytes = _FILE_SPARE_BYTES + 2 * told_bytes + _ROW_BYTES * len(record.calls)
    if database.file_bytes > bound_bytes:
        yield Finding("database", f"{database.file_bytes:,} bytes, {bound_bytes:,} at most")
