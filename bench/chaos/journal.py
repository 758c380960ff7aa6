"""Notes what clients see while a run goes on, and wakes whoever waits for a moment."""

import asyncio
import hashlib
import time
from collections import defaultdict
from contextlib import suppress
from typing import Any

import msgspec

from bench.chaos.plan import CallPlan, Moment
from bench.chaos.record import Answer, CallHistory, Wait

Frame = dict[str, Any]

_KEPT_CHARACTERS = 200
_encode = msgspec.json.Encoder(order=None).encode


class Journal:
    """All calls of a run. `sent_count` is how many were sent for the first time."""

    def __init__(self) -> None:
        self.histories: list[CallHistory] = []
        self.waits: list[Wait] = []
        self.lost_sessions: list[str] = []
        self.sent_count = 0
        self._begun = asyncio.Event()
        self._waiting: defaultdict[Moment, list[asyncio.Future[None]]] = defaultdict(list)

    def begin(self, plan: CallPlan, client: str, *, is_of_library: bool = False) -> CallHistory:
        """Begin a call's history."""
        history = CallHistory(
            request_id=plan.request_id,
            client=client,
            tag=plan.tag,
            upstream=plan.upstream,
            tool=plan.tool,
            idempotent=plan.idempotent,
            work_s=plan.work_s,
            size_bytes=plan.size_bytes,
            fails=plan.fails,
            key=plan.key,
            is_twin=plan.follows_key,
            is_of_library=is_of_library,
            sent_at=time.time(),
        )
        self.histories.append(history)
        self.sent_count += 1
        self._begun.set()
        self._begun = asyncio.Event()
        return history

    def note(self, history: CallHistory, what: str) -> None:
        """Add a line to a call's history."""
        history.events.append((time.time(), what))

    def note_accepted(self, history: CallHistory, because: str) -> None:
        """Take note of what proves that a call was accepted."""
        history.accepted_because = history.accepted_because or because
        self.note(history, because)

    def note_answer(self, history: CallHistory, frame: Frame) -> Answer:
        """Take note of a terminal frame."""
        answer = answer_in(frame, time.time())
        (history.refusals if answer.refused else history.answers).append(answer)
        replayed = " again" if (frame.get("meta") or {}).get("replayed") else ""
        self.note(
            history,
            f"{'refused' if answer.refused else 'answered'}{replayed}: "
            f"{answer.code or 'ok'} {answer.text[:16]} {answer.digest}",
        )
        return answer

    def note_wait(self, history: CallHistory, waited_s: float, *, after_restart: bool) -> None:
        """Take note of how long an answer took once its client was back."""
        self.waits.append(Wait(waited_s, history.work_s, after_restart))

    def happened(self, moment: Moment) -> None:
        """Wake whoever waits for such a moment."""
        for waiting in self._waiting.pop(moment, []):
            if not waiting.done():
                waiting.set_result(None)

    async def wait_sent(self, count: int) -> None:
        """Wait until so many calls were sent."""
        while self.sent_count < count:
            await self._begun.wait()

    async def wait_for(self, moment: Moment, patience_s: float) -> None:
        """Wait for the next such moment, but not for ever."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting[moment].append(waiting)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await waiting


def answer_in(frame: Frame, at: float) -> Answer:
    """Return what a terminal frame says."""
    error, meta = frame.get("error") or {}, frame.get("meta")
    text = frame.get("text") or ""
    if meta is not None:
        frame = {**frame, "meta": {k: v for k, v in meta.items() if k != "replayed"}}
    said = {k: v for k, v in frame.items() if k not in ("request_id", "meta")}
    details = error.get("details") or {}
    return Answer(
        at=at,
        digest=_digest(frame),
        outcome_digest=_digest(said),
        code=str(error.get("code", "")) if frame.get("ok") is not True else "",
        message=str(error.get("message", ""))[:_KEPT_CHARACTERS],
        retryable=bool(error.get("retryable")),
        reason=str(details.get("reason", "")),
        text=text[:_KEPT_CHARACTERS],
        text_bytes=len(text.encode()),
        refused=meta is None,
    )


def _digest(frame: Frame) -> str:
    return hashlib.blake2b(_encode(frame), digest_size=6).hexdigest()
