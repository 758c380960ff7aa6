"""Which answers of a session were handed over, as the ledger is told of it, some at a time.

Clients of MCP acknowledge nothing. An answer that nobody can ask for again is as good as
acknowledged; one that was written, but may have been missed, is once its client would have come
back for it; one whose stream has broken, or that has an idempotency key, is kept for as long as
there is room.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator

_AT_ONCE = 20
_AFTER_S = 0.05
_COMES_BACK_WITHIN_S = 10.0
_LOOKS_EVERY_S = 1.0

Tell = Callable[[list[str]], object]
"""Told of some request ids; never waits."""


class HandedOver:
    """Tells `acknowledge` what is not needed any more, and `note_sent` what may make room."""

    def __init__(self, acknowledge: Tell, note_sent: Tell) -> None:
        self._received = _Batch(acknowledge)
        self._sent = _Batch(note_sent)
        self._acknowledge = acknowledge
        self._may_be_missed: deque[tuple[float, str]] = deque()

    def note_received(self, request_id: str) -> None:
        """Note an answer that nobody can ask for again."""
        self._received.add(request_id)

    def note_sent(self, request_id: str) -> None:
        """Note an answer that can be asked for again at any time, and may make room."""
        self._sent.add(request_id)

    def note_written(self, request_id: str) -> None:
        """Note an answer that its client may miss, and would ask for again at once."""
        loop = asyncio.get_running_loop()
        self._may_be_missed.append((loop.time() + _COMES_BACK_WITHIN_S, request_id))
        if len(self._may_be_missed) == 1:
            loop.call_later(_COMES_BACK_WITHIN_S, self._acknowledge_old)

    def _acknowledge_old(self) -> None:
        loop = asyncio.get_running_loop()
        old = list(self._pop_until(loop.time()))
        for start in range(0, len(old), _AT_ONCE):
            self._acknowledge(old[start : start + _AT_ONCE])
        if self._may_be_missed:
            loop.call_later(_LOOKS_EVERY_S, self._acknowledge_old)

    def _pop_until(self, now: float) -> Iterator[str]:
        while self._may_be_missed and self._may_be_missed[0][0] <= now:
            yield self._may_be_missed.popleft()[1]


class _Batch:
    """Some ids, told of together: at once when they are many, else soon."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._ids: list[str] = []
        self._soon: asyncio.TimerHandle | None = None

    def add(self, request_id: str) -> None:
        self._ids.append(request_id)
        if len(self._ids) >= _AT_ONCE:
            self._tell_now()
        elif self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(_AFTER_S, self._tell_now)

    def _tell_now(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        ids, self._ids = self._ids, []
        self._tell(ids)
