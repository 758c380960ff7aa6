"""A group of callers: makes their calls in a closed or an open loop, and judges every answer.

In an open loop a call counts from when it was due, not from when it was sent: a server that
falls behind cannot hide it by slowing the calls down ("coordinated omission").
"""

import asyncio
import time
from collections import Counter
from functools import partial
from typing import NamedTuple

from bench.figures import histogram_us, percentile
from bench.load.caller import Answer, Call, Caller
from bench.runs import Group, GroupFigures

TEXT_LENGTH = 100
_TICK_S = 0.001
"""Calls that are due in one millisecond are made together: the loop's timers know no less."""
_now_s = time.perf_counter


class _Begun(NamedTuple):
    due_s: float
    text: str


class CallingGroup:
    """One group's calls, under way and answered."""

    def __init__(self, group: Group, callers: list[Caller]) -> None:
        self._group = group
        self._callers = callers
        self._begun: list[dict[str, _Begun]] = [{} for _ in callers]
        self._begun_count = [0] * len(callers)
        self._is_over = False
        self._quiet = asyncio.Event()
        for n, caller in enumerate(callers):
            caller.on_answer = partial(self._take, n)
            caller.on_lost = self._note_lost
        self.begin_window()

    def begin_window(self) -> None:
        """Forget what was counted; calls that begin from now on are measured."""
        self._window_begin_s = _now_s()
        self._latencies_s: list[float] = []
        self._error_codes: Counter[str] = Counter()
        self._answered_by_caller = [0] * len(self._callers)
        self._refused = self._wrong = 0
        self._answered_in_window = 0

    def end_window(self) -> None:
        """Count answers no more; calls that are under way are still measured."""
        self._answered_in_window = sum(self._answered_by_caller)
        self._refused_in_window = self._refused
        self._by_caller_in_window = list(self._answered_by_caller)

    async def run(self, until_s: float) -> None:
        """Make calls; returns when all are made that are to be made."""
        if self._group.rate_per_s:
            await self._make_when_due(until_s)
        elif self._group.outstanding:
            for n in range(len(self._callers)):
                for _ in range(self._group.outstanding):
                    self._begin_next(n)
            if self._group.calls_each:
                await self._quiet.wait()

    async def finish(self, patience_s: float) -> None:
        """Begin no further calls, and let those of an open loop be answered."""
        self._is_over = True
        if self._group.rate_per_s and self._under_way():
            self._quiet.clear()
            try:
                async with asyncio.timeout(patience_s):
                    await self._quiet.wait()
            except TimeoutError:
                return

    def figures(self, window_s: float) -> GroupFigures:
        """Return what became of the calls."""
        latencies_s = sorted(self._latencies_s)
        is_loop = not (self._group.rate_per_s or self._group.calls_each)
        p50_ms, p95_ms, p99_ms, p999_ms, max_ms = (
            1000 * percentile(latencies_s, share) for share in (0.5, 0.95, 0.99, 0.999, 1.0)
        )
        return GroupFigures(
            answered=self._answered_in_window,
            refused=self._refused_in_window,
            wrong=self._wrong,
            unanswered=0 if is_loop else self._under_way(),
            error_codes=dict(self._error_codes),
            answered_per_s=self._answered_in_window / window_s,
            answered_by_caller=[] if self._group.is_silent else self._by_caller_in_window,
            p50_ms=p50_ms,
            p95_ms=p95_ms,
            p99_ms=p99_ms,
            p999_ms=p999_ms,
            max_ms=max_ms,
            histogram=histogram_us(latencies_s),
        )

    async def _make_when_due(self, until_s: float) -> None:
        begin_s, n = _now_s(), 0
        while (due_s := begin_s + n / self._group.rate_per_s) < until_s:
            await asyncio.sleep(max(due_s - _now_s(), _TICK_S))
            while due_s <= _now_s() and due_s < until_s:
                self._begin(n % len(self._callers), due_s)
                n += 1
                due_s = begin_s + n / self._group.rate_per_s

    def _begin_next(self, n: int) -> None:
        if self._group.calls_each and self._begun_count[n] >= self._group.calls_each:
            if not self._under_way():
                self._quiet.set()
        elif not self._is_over:
            self._begin(n, _now_s())

    def _begin(self, n: int, due_s: float) -> None:
        group = self._group
        count = self._begun_count[n]
        self._begun_count[n] = count + 1
        caller = "all" if group.is_equal else f"{group.name} {n} call {count}"
        call = Call(
            str(count), group.tool, f"{caller:.<{TEXT_LENGTH}}", group.work_s, group.timeout_s
        )
        self._begun[n][call.request_id] = _Begun(due_s, call.text)
        self._callers[n].call(call)

    def _take(self, n: int, answer: Answer) -> None:
        begun = self._begun[n].pop(answer.request_id, None)
        if begun is None:
            self._wrong += 1
        elif answer.error_code:
            self._error_codes[answer.error_code] += 1
            self._refused += 1
        elif answer.text != begun.text:
            self._wrong += 1
        else:
            self._answered_by_caller[n] += 1
            if begun.due_s >= self._window_begin_s:
                self._latencies_s.append(_now_s() - begun.due_s)
        if not self._group.rate_per_s:
            self._begin_next(n)
        elif self._is_over and not self._under_way():
            self._quiet.set()

    def _note_lost(self) -> None:
        self._wrong += 1

    def _under_way(self) -> int:
        return sum(map(len, self._begun))
