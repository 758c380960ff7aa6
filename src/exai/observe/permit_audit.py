"""Looks for permits whose owners have ended. It reports them; it never releases one.

What it finds is a defect in whoever took the permit, and named by its owner: to give the
permit to somebody else would hide the defect and break the limit.
"""

from collections.abc import Callable, Iterable

import msgspec

from exai.core.events import EventSink, PermitLeaked


class HeldPermit(msgspec.Struct, frozen=True):
    """A permit in somebody's hands."""

    scope: str
    owner: str


class PermitAudit:
    """Reports what `orphaned_permits` returns: permits whose owner is not alive.

    One counts as leaked once two audits in a row have found it: between the two sides of a
    step a permit may be on its way.
    """

    def __init__(
        self, orphaned_permits: Callable[[], Iterable[tuple[str, str]]], events: EventSink
    ) -> None:
        self._orphaned_permits = orphaned_permits
        self._events = events
        self._suspects: set[HeldPermit] = set()
        self.leaked: list[HeldPermit] = []

    def run(self) -> None:
        """Look once; each leak is told once."""
        orphans = {HeldPermit(scope, owner) for scope, owner in self._orphaned_permits()}
        confirmed = sorted(orphans & self._suspects, key=lambda held: (held.scope, held.owner))
        for leak in confirmed:
            if leak not in self.leaked:
                self._events.emit(PermitLeaked(leak.scope, leak.owner))
        self.leaked, self._suspects = confirmed, orphans
