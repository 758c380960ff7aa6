"""Whether the daemon may take traffic, and what keeps it from that."""

from collections.abc import Callable, Iterable


class Readiness:
    """`status` is what the daemon says of itself; `awaited` are the parts that start still."""

    def __init__(self, awaited: Callable[[], Iterable[str]]) -> None:
        self.status = "starting"
        self._awaited = awaited

    def blocked_by(self) -> dict[str, str]:
        """Return the parts that keep the daemon from being ready, each with its state."""
        if self.status == "ok":
            return {}
        awaited = self._awaited() if self.status == "starting" else []
        states: dict[str, str] = {"daemon": self.status}
        return states | dict.fromkeys(awaited, "starting")
