"""The calls that have no outcome yet, by the names their peers know them under."""

import asyncio
from collections.abc import Callable, Iterator

from exai.calls.call import Call


class InFlight:
    """A table of calls: registered when they are read, gone when they are settled."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str, str], Call] = {}
        self._unregistered = asyncio.Event()

    def __len__(self) -> int:
        """Return how many calls are under way."""
        return len(self._calls)

    def __iter__(self) -> Iterator[Call]:
        """Iterate over a copy, so that calls may settle meanwhile."""
        return iter(list(self._calls.values()))

    def find(self, session_id: str, request_id: str) -> Call | None:
        """Return the session's call of that name, if it is under way."""
        return self._calls.get((session_id, request_id))

    def register(self, call: Call) -> None:
        """Add a call whose name is free."""
        self._calls[call.peer.session_id, call.request_id] = call

    def unregister(self, call: Call) -> None:
        """Remove a call that has its outcome."""
        del self._calls[call.peer.session_id, call.request_id]
        self._unregistered.set()

    def of_session(self, session_id: str) -> list[Call]:
        """Return all calls of a session that are under way."""
        return [call for (owner, _), call in self._calls.items() if owner == session_id]

    async def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Wait until `is_so`, which is asked again whenever a call has settled."""
        while not is_so():
            self._unregistered.clear()
            await self._unregistered.wait()
