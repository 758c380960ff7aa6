"""Checks of the state directory, and of what daemons leave in it."""

import os
from collections.abc import Iterator
from pathlib import Path

from exai.cli.checks.evidence import Evidence
from exai.cli.checks.finding import Finding, ok, problem, warning
from exai.core.clock import SystemClock
from exai.observe.health_file import HEALTH_FILE

_OTHERS_WRITE, _OTHERS_LOOK = 0o022, 0o077


def state_directory(evidence: Evidence) -> Iterator[Finding]:
    """Is it there, ours, and closed to others? Or can it be made?"""
    name, path = "state directory", evidence.loaded.config.state_dir
    place = nearest(path)
    if not place.is_dir():
        yield problem(name, f"{place} is no directory", "choose another with --state-dir")
    elif not os.access(place, os.W_OK | os.X_OK):
        yield problem(
            name, f"{place} is not writable for this user", "choose another with --state-dir"
        )
    elif place != path:
        yield ok(name, f"{path} is not there yet; the first start makes it")
    elif path.stat().st_mode & _OTHERS_WRITE:
        yield problem(name, f"others can write to {path}", f"chmod 700 {path}")
    elif path.stat().st_mode & _OTHERS_LOOK:
        yield warning(name, f"others can look into {path}", f"chmod 700 {path}")
    else:
        yield ok(name, str(path))


def address_file(evidence: Evidence) -> Iterator[Finding]:
    """Is the address that the commands follow that of the daemon that runs?"""
    name, address, holder = "address file", evidence.address, evidence.holder
    if address is None:
        if holder is None:
            yield ok(name, "none, as no daemon runs")
        else:
            yield warning(name, "the daemon that runs has left none", "is it just starting?")
    elif holder is None or holder.pid not in (address.pid, None):
        yield warning(
            name,
            f"stale: left by the daemon with pid {address.pid}, which was killed",
            "nothing: the next start replaces it",
        )
    else:
        yield ok(name, f"{address.websocket_url}, {address.http_url}")


def health_file(evidence: Evidence) -> Iterator[Finding]:
    """Is the file that monitoring looks at as young as it should be?"""
    name, config = "health file", evidence.loaded.config
    path = config.state_dir / HEALTH_FILE
    if not path.exists():
        if evidence.holder is None:
            yield ok(name, "none, as no daemon runs")
        else:
            yield warning(name, f"the daemon that runs has not written {path}", "see its log")
        return
    age_s = SystemClock().wall_s() - path.stat().st_mtime
    if evidence.holder is None:
        yield warning(
            name,
            f"stale: {path} was left by a daemon that was killed",
            "nothing: the next start replaces it",
        )
    elif age_s > 2 * config.server.health_file_interval_s:
        yield problem(name, f"{path} is {age_s:.0f} s old", "see the daemon's log; restart it")
    else:
        yield ok(name, f"{max(0.0, age_s):.0f} s old")


def nearest(path: Path) -> Path:
    """Return the path, or the nearest one above it that is there."""
    return next(place for place in (path, *path.parents) if os.path.lexists(place))
