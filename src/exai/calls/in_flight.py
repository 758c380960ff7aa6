"""The calls that have no outcome yet, by the names their peers know them under."""

import asyncio
from collections.abc import Iterator

from exai.calls.call import Call


class InFlight:
    """A table of calls: registered when they are read, gone when they are settled."""

    def __init__(self) -> None:
        self._sessions: dict[str, dict[str, Call]] = {}
        self._by_key: dict[tuple[str, str], Call] = {}
        self._over: dict[str, asyncio.Event] = {}
        self._empty = asyncio.Event()

    def __iter__(self) -> Iterator[Call]:
        """Iterate over a copy, so that calls may settle meanwhile."""
        return iter([call for calls in self._sessions.values() for call in calls.values()])

    def find(self, session_id: str, request_id: str) -> Call | None:
        """Return the session's call of that name, if it is under way."""
        return self._sessions.get(session_id, {}).get(request_id)

    def has(self, call: Call) -> bool:
        """Tell whether this very call is under way."""
        return self.find(call.peer.session_id, call.request_id) is call

    def find_all(self, principal: str, name: str) -> list[Call]:
        """Return a principal's calls of this call id or request id that are under way."""
        return [
            call
            for call in self
            if call.peer.principal.name == principal and name in (call.call_id, call.request_id)
        ]

    def of_session(self, session_id: str) -> list[Call]:
        """Return all calls of a session that are under way."""
        return list(self._sessions.get(session_id, {}).values())

    def claim_key(self, call: Call, key: str) -> Call | None:
        """Let the call own its idempotency key, and return None; or return whose it is."""
        owner = self._by_key.setdefault((call.peer.principal.name, key), call)
        return None if owner is call else owner

    def register(self, call: Call) -> None:
        """Add a call whose name is free."""
        self._sessions.setdefault(call.peer.session_id, {})[call.request_id] = call
        self._empty.clear()

    def unregister(self, call: Call) -> None:
        """Remove a call that has its outcome."""
        session_id = call.peer.session_id
        calls = self._sessions[session_id]
        del calls[call.request_id]
        key = (call.peer.principal.name, call.request.idempotency_key or "")
        if self._by_key.get(key) is call:
            del self._by_key[key]
        call.pulse()
        if not calls:
            del self._sessions[session_id]
            if session_id in self._over:
                self._over.pop(session_id).set()
        if not self._sessions:
            self._empty.set()

    async def wait_session_over(self, session_id: str) -> None:
        """Wait until none of a session's calls is under way."""
        while session_id in self._sessions:
            await self._over.setdefault(session_id, asyncio.Event()).wait()

    async def wait_empty(self) -> None:
        """Wait until no call is under way."""
        while self._sessions:
            await self._empty.wait()
