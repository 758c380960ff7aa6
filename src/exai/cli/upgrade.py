"""Replacing a daemon in place by the program that is installed now: whether, and when.

Asked for by SIGHUP. The successor is checked first; if it would not start, nothing happens. If
it would, the daemon ends as ever, but for its sockets and its lock, which outlive it.
"""

import asyncio
from collections.abc import Callable

from exai.cli.successor_check import find_fault
from exai.core.events import (
    EventSink,
    UpgradeAbandoned,
    UpgradeAgreed,
    UpgradeAsked,
    UpgradeRefused,
)
from exai.processes.succession import Inheritance
from exai.ws_server import Daemon


class Upgrade:
    """One daemon's replacement. `inheritance` is there once it is agreed to."""

    def __init__(
        self,
        daemon: Daemon,
        stop: asyncio.Event,
        events: EventSink,
        on_refusal: Callable[[str], None],
    ) -> None:
        self._daemon = daemon
        self._stop = stop
        self._events = events
        self._on_refusal = on_refusal
        self._asked = asyncio.Event()
        self.inheritance: Inheritance | None = None

    def ask(self) -> None:
        """Ask for it; before the daemon is open that is kept in mind, once it ends in vain."""
        self._asked.set()

    async def run(self, is_open: asyncio.Event) -> None:
        """Wait until it is asked for; return once it is agreed to."""
        await is_open.wait()
        while not self._stop.is_set():
            await self._asked.wait()
            self._asked.clear()
            self._events.emit(UpgradeAsked())
            fault = await find_fault(self._daemon.estate)
            if self._stop.is_set():
                return  # told to end during the check: the ports may be closed by now
            if fault is None:
                await self._make_room()
            else:
                self._events.emit(UpgradeRefused(fault))
                self._on_refusal(fault)

    def abandon(self) -> bool:
        """End for good all the same; tell whether that was still to be decided."""
        if self.inheritance is None:
            return False
        self.inheritance.close()
        self.inheritance = None
        self._events.emit(UpgradeAbandoned())
        return True

    async def _make_room(self) -> None:
        inheritance = await self._daemon.hand_over()
        if self._stop.is_set():  # told to end meanwhile
            inheritance.close()
            return
        self.inheritance = inheritance
        self._events.emit(UpgradeAgreed())
        self._stop.set()
