"""The signals that a daemon heeds, and how none of them is lost between a program and the next.

They are held back while nobody could heed them: an `exec` keeps what is held back, and would
have the default action of a signal end the process at any other moment around it.
"""

import os
import signal
from collections.abc import Callable
from enum import Enum, auto
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ALL = (*STOP_SIGNALS, signal.SIGHUP)


def hold_back() -> None:
    """Let signals wait, also for threads that are started from now on."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _ALL)


def let_through() -> None:
    """Let come what has waited."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ALL)


class Wish(Enum):
    """What a SIGHUP asks for."""

    UPGRADE = auto()
    END = auto()
    NOTHING = auto()


class Hangup:
    """SIGHUP: an operator's wish, or the end of the terminal that the process was started on."""

    def __init__(self) -> None:
        self._had_terminal = _has_terminal()
        self._was_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN

    def on_signal(self, tell: Callable[[], object]) -> None:
        """Have the signal tell, until the process ends or is replaced.

        Not by the event loop, which would give it its default action back when it closes.
        """

        def heed(number: int, frame: FrameType | None) -> None:
            tell()

        signal.signal(signal.SIGHUP, heed)

    def leave_as_found(self) -> None:
        """Have the next program in this process find it as this one did: `nohup` is for both."""
        if self._was_ignored:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def wish(self) -> Wish:
        """Tell what a signal that has just come asks for."""
        if not self._had_terminal or _has_terminal():
            return Wish.UPGRADE
        return Wish.NOTHING if self._was_ignored else Wish.END


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
