"""What became of calls, as people read it: the outcome first, then what led to it."""

from collections.abc import Iterator

from exai.cli.columns import aligned, one_line
from exai.cli.words import duration_in_words, moment_in_words, size_in_words
from exai.core.explanation import CallStage, ExplainedCall, Explanation
from exai.core.outcomes import SUCCESS

_Row = tuple[str, str]


def story(explanation: Explanation) -> Iterator[str]:
    """Yield the lines that tell it, the newest call first."""
    for n, call in enumerate(explanation.calls):
        if n:
            yield "\n"
        yield one_line(f"{call.request_id} {_outcome(call)}") + "\n"
        yield from aligned(_facts(call, explanation))
    if explanation.more_count:
        yield f"\nand {explanation.more_count} older ones\n"


def _outcome(call: ExplainedCall) -> str:
    if call.state is CallStage.ARRIVING:
        return "arrives: it is not accepted yet"
    if call.code is not None:
        return "succeeded" if call.code == SUCCESS else f"failed: {call.code}"
    if not call.is_under_way:
        return "is left to the daemon's next start"
    return "runs" if call.state is CallStage.RUNNING else "waits"


def _facts(call: ExplainedCall, explanation: Explanation) -> Iterator[_Row]:
    of_session = "" if call.session_id is None else f" of session {call.session_id}"
    yield "  call", call.call_id + of_session
    yield "  tool", _who(call)
    if call.accepted_at is not None:
        at_most = duration_in_words(call.timeout_s or 0.0)
        yield "  accepted", f"{_when(call.accepted_at, explanation)}, for at most {at_most}"
    if call.follows is not None:
        yield "  follows", f"call {call.follows}, the same request by its key"
    if call.joined:
        yield "  shared", "joined the work of an equal call"
    if call.cached:
        yield "  shared", "served from the result cache"
    if call.accepted_at is not None:
        yield (
            "  waited",
            duration_in_words(call.queue_s) + (f"; {call.place}" if call.place else ""),
        )
        yield "  executed", _execution(call, explanation)
    yield from _ending(call, explanation)


def _who(call: ExplainedCall) -> str:
    provider = "" if call.provider is None else f" of {call.provider}"
    return call.tool + provider + ("" if call.model is None else f", model {call.model}")


def _execution(call: ExplainedCall, explanation: Explanation) -> str:
    if not call.attempts:
        return "not by itself" if call.cached else "not yet" if call.code is None else "never"
    so_far = " so far" if call.code is None else ""
    attempts = f", in attempt {call.attempts}" if call.attempts > 1 else ""
    whose = "this one" if call.boot_id == explanation.boot_id else "an earlier one"
    took = duration_in_words(call.run_s)
    return f"for {took}{so_far}{attempts}, in the daemon's process {call.boot_id} ({whose})"


def _ending(call: ExplainedCall, explanation: Explanation) -> Iterator[_Row]:
    if call.settled_at is not None:
        yield "  settled", f"{_when(call.settled_at, explanation)}: {call.code}"
    if call.sent_at is not None:
        yield "  sent", f"{_when(call.sent_at, explanation)}, or before"
    if call.state is CallStage.SETTLED:
        size = size_in_words(call.result_bytes)
        yield "  result", f"{size}, kept until it is acknowledged or expires"
    if call.erased_at is not None:
        yield (
            f"  {call.erased_because}",
            f"{_when(call.erased_at, explanation)}: the result is gone",
        )


def _when(at: float, explanation: Explanation) -> str:
    return moment_in_words(at, explanation.t)
