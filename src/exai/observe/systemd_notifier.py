"""Telling systemd how the daemon fares, as `sd_notify(3)` says: one datagram for each fact.

Hears the same events as the log does; knows nothing of who emits them. The few lines are our
own, because of the libraries that are maintained `systemd-watchdog` knows no reload and may
block or raise in the event loop, and `cysystemd` brings all of libsystemd along.
"""

import asyncio
import os
import socket
from collections.abc import Mapping
from contextlib import suppress

from exai.core import events
from exai.core.clock import Clock
from exai.core.events import Event, EventSink

SYSTEMD_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""What systemd tells the process that it has started, and which its children must not see."""


class SystemdNotifier(EventSink):
    """Tells the service manager, if one is there and listens; never waits for it."""

    def __init__(self, variables: Mapping[str, str], clock: Clock) -> None:
        self._address = _address_in(variables)
        self._watchdog_s = _watchdog_in(variables)
        self._clock = clock
        self._makes_room = False

    def emit(self, event: Event) -> None:
        """Tell what of the event systemd wants to know."""
        if self._address is None:
            return
        match event:
            case events.DaemonReady():
                self._tell("READY=1", f"STATUS=ready, {event.start_s:.1f} s after its start")
            case events.UpgradeAsked():
                now_us = int(self._clock.monotonic_s() * 1_000_000)
                self._tell("RELOADING=1", f"MONOTONIC_USEC={now_us}", "STATUS=checks an upgrade")
            case events.UpgradeRefused():
                self._tell("READY=1", f"STATUS=goes on; an upgrade was refused: {event.reason}")
            case events.UpgradeAgreed():
                self._makes_room = True
            case events.UpgradeAbandoned():
                self._tell("STOPPING=1")
            case events.DaemonDraining():
                told = [] if self._makes_room else ["STOPPING=1"]
                what = f"{event.call_count} calls, for at most {event.drain_s:g} s"
                self._tell(*told, f"STATUS=finishes {what}")

    async def run_watchdog(self) -> None:
        """Tell twice in each of the watchdog's periods that the event loop turns."""
        while self._watchdog_s is not None:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / 2)

    def _tell(self, *assignments: str) -> None:
        if self._address is None:
            return
        lines = [" ".join(assignment.splitlines()) for assignment in assignments]
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.setblocking(False)
            manager.sendto("\n".join(lines).encode(), self._address)


def _address_in(variables: Mapping[str, str]) -> str | None:
    """Return the socket's path, or its abstract name; other kinds of address are not ours."""
    given = variables.get("NOTIFY_SOCKET", "")
    if given.startswith("@"):
        return "\0" + given[1:]
    return given if given.startswith("/") else None


def _watchdog_in(variables: Mapping[str, str]) -> float | None:
    """Return the watchdog's period, if it watches this process."""
    period_us = variables.get("WATCHDOG_USEC", "")
    is_ours = variables.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    is_wanted = period_us.isdecimal() and int(period_us) > 0
    return int(period_us) / 1_000_000 if is_ours and is_wanted else None
