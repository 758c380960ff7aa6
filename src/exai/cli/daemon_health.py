"""Asking a daemon how it fares; knows nothing of what the answer means."""

from typing import Any

import msgspec

from exai.cli.daemon_door import Door
from exai.cli.daemon_http import NoAnswer, ask


class HealthAnswer(msgspec.Struct, frozen=True):
    """What the daemon says to whoever holds this door's token."""

    report: dict[str, Any]

    @property
    def status(self) -> str:
        """`ok`, `starting` or `draining`."""
        return str(self.report["status"])

    @property
    def is_whole(self) -> bool:
        """Whether the daemon took the token; without one it tells its status alone."""
        return len(self.report) > 1


def ask_health(door: Door) -> HealthAnswer:
    """Return how the daemon at this HTTP door fares. Raises `NoAnswer`, and `NoDoor`."""
    answer = ask(door, "/health")
    if answer.status != 200:
        raise answer.refusal(door.url)
    try:
        report = msgspec.json.decode(answer.body, type=dict[str, Any])
    except msgspec.MsgspecError:
        report = {}
    if not isinstance(report.get("status"), str):
        raise NoAnswer(f"what listens at {door.url} is no EXAI daemon")
    return HealthAnswer(report)
