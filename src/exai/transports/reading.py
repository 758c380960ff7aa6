"""When a connection is read, and how much of it in one turn of the event loop.

Knows transports and numbers of frames; knows nothing of what frames are.
"""

import asyncio
from collections.abc import Callable
from enum import Enum, auto

_DISCARD_EVERY_S = 0.001
_REST_S = 0.01
_MANY_CONTROL_FRAMES = 4
_MANY_FRAMES = 64
_TINY_FRAME_BYTES = 16


class Pause(Enum):
    """Why a connection is not read for a while."""

    ENTRY = auto()
    """Its peer has sent what it may before it is let in."""
    QUEUE = auto()
    """Enough of its messages wait already."""
    REST = auto()
    """It was heard enough for now: others have their turn."""


class DiscardPace:
    """When a piece may be read into nowhere: one a millisecond, of all connections of a port.

    Who is sent away in the middle of a message may have to send it all before it hears why; but
    a crowd of them would keep the daemon busy with what nobody wants.
    """

    def __init__(self) -> None:
        self._next_at = 0.0

    def wait_s(self, now: float) -> float:
        """Return how long it is until the next free moment, and take it."""
        self._next_at = max(now, self._next_at) + _DISCARD_EVERY_S
        return self._next_at - now


class Reading:
    """Reads from a transport while there is no reason against it.

    `on_resume` is called when the last reason has gone.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        pace: DiscardPace,
        on_resume: Callable[[], None] | None = None,
    ) -> None:
        self._transport = transport
        self._pace = pace
        self._on_resume = on_resume
        self._pauses: set[Pause] = set()
        self._end_of_rest: asyncio.TimerHandle | None = None

    @property
    def is_paused(self) -> bool:
        """Tell whether there is a reason not to read."""
        return bool(self._pauses)

    def pause(self, why: Pause) -> None:
        """Read no more until this reason has gone."""
        if not self._pauses:
            self._transport.pause_reading()
        self._pauses.add(why)

    def resume(self, why: Pause) -> None:
        """Read on, unless there is another reason not to."""
        if why not in self._pauses:
            return
        self._pauses.remove(why)
        if not self._pauses and not self._transport.is_closing():
            self._transport.resume_reading()
            if self._on_resume is not None:
                self._on_resume()

    def rest_if_flooded(self, size_bytes: int, frame_count: int, control_count: int) -> None:
        """Rest where one portion brought many frames that say next to nothing.

        Whatever they are, they cost the processor and not their sender's network.
        """
        are_tiny = size_bytes < frame_count * _TINY_FRAME_BYTES
        if control_count > _MANY_CONTROL_FRAMES or (frame_count > _MANY_FRAMES and are_tiny):
            self._rest(_REST_S)

    def discard(self) -> None:
        """Read the next piece, which goes into nowhere, whatever there is against it, in time."""
        self._rest(self._pace.wait_s(asyncio.get_running_loop().time()))
        self._pauses = {Pause.REST}

    def end(self) -> None:
        """Let go of everything: the transport is closed."""
        self._forget_rest()
        self._on_resume = None

    def _forget_rest(self) -> None:
        if self._end_of_rest is not None:
            self._end_of_rest.cancel()
            self._end_of_rest = None

    def _rest(self, duration_s: float) -> None:
        self.pause(Pause.REST)
        self._forget_rest()
        loop = asyncio.get_running_loop()
        self._end_of_rest = loop.call_later(duration_s, self.resume, Pause.REST)
