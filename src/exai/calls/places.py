"""What callers hold of the admission: places for work that is to run, leaves of work that runs."""

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Self

from exai.calls.gates import ScopeGate, SessionGate
from exai.calls.limit import Ending

if TYPE_CHECKING:
    from exai.calls.admission import AdmissionController


class Stand:
    """One caller of a place: it waits in its session's line until the place's work has ended.

    Whose session's permit the work uses no longer waits.
    """

    def __init__(self, place: "Place", session: SessionGate, size_bytes: int) -> None:
        self.place = place
        self.session = session
        self.size_bytes = size_bytes


class Place:
    """The place of one piece of work: it waits, then holds all its permits.

    It stands in the line of each of its callers' sessions, and starts from the first whose
    turn comes; that caller's session is charged. Leaving the context gives it up.
    """

    def __init__(
        self,
        admission: "AdmissionController",
        owner: str,
        scope: ScopeGate,
        conversation: str | None,
    ) -> None:
        self.owner = owner
        self.scope = scope
        self.conversation = conversation
        self.stands: dict[Stand, None] = {}
        self.charged: Stand | None = None
        self.granted_at = 0.0
        self.ending = Ending.IGNORED
        self._admission = admission
        self._granted: asyncio.Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give up the place. A grant that met a cancellation counts, and is passed on here."""
        self._admission.give_up(self)

    @property
    def is_granted(self) -> bool:
        """Tell whether every permit is held."""
        return self.charged is not None

    async def permits(self) -> None:
        """Wait until every permit is held."""
        if not self.is_granted:
            self._granted = asyncio.get_running_loop().create_future()
            await self._granted

    def grant(self, stand: Stand, now: float) -> None:
        """Wake the work, whose permits are taken and charged to `stand`."""
        self.charged = stand
        self.granted_at = now
        if self._granted is not None and not self._granted.done():
            self._granted.set_result(None)

    def leaf(self, scope: str, owner: str) -> "Leaf":
        """Return a permit of `scope` for one request of this work, which runs."""
        if self.charged is None:
            raise RuntimeError(f"{self.owner} asks for a permit before it may run")
        return Leaf(self._admission, owner, self._admission.gate(scope), self.charged.session)


class Leaf:
    """One provider's permit for one request of work that runs. A context manager."""

    def __init__(
        self, admission: "AdmissionController", owner: str, scope: ScopeGate, session: SessionGate
    ) -> None:
        self.owner = owner
        self.scope = scope
        self.session = session
        self.is_granted = False
        self.granted_at = 0.0
        self._admission = admission
        self._granted: asyncio.Future[None] | None = None

    async def __aenter__(self) -> None:
        """Wait for the permit; cancelled, it leaves the line, or passes the permit on."""
        self._admission.line_up_leaf(self)
        if self.is_granted:
            return
        self._granted = asyncio.get_running_loop().create_future()
        try:
            await self._granted
        except asyncio.CancelledError:
            self._admission.give_up_leaf(self, Ending.IGNORED)
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the permit back."""
        ending = Ending.SUCCESS if error is None else Ending.IGNORED
        self._admission.give_up_leaf(self, ending)

    def grant(self, now: float) -> None:
        """Wake the work, whose permit is taken."""
        self.is_granted = True
        self.granted_at = now
        if self._granted is not None and not self._granted.done():
            self._granted.set_result(None)
