"""Whose turn it is over all scopes: who is served when a permit has come free."""

from collections import OrderedDict

from exai.calls.permits import PermitPool
from exai.calls.places import Lane, ScopeGate


class ScopeTurns:
    """The scopes where somebody waits. A step costs O(scopes), whoever waits."""

    def __init__(self) -> None:
        self._waited_for: OrderedDict[str, ScopeGate] = OrderedDict()
        self._turn_count = 0
        self._last_turns: dict[str, int] = {}  # grows no longer than the configuration

    @property
    def in_line_count(self) -> int:
        """Return how much stands in the lines of all scopes."""
        return sum(gate.in_line_count for gate in self._waited_for.values())

    def count(self, gate: ScopeGate, by: int) -> None:
        """Note that so many more stand in a scope's lines."""
        gate.in_line_count += by
        if gate.in_line_count:
            self._waited_for.setdefault(gate.scope, gate)
        else:
            del self._waited_for[gate.scope]

    def choose(self, daemon: PermitPool) -> tuple[ScopeGate, Lane] | None:
        """Return who is next: scopes take turns, and in each its principals, then sessions.

        Where the daemon has too few permits for all scopes that could start something, the
        principals take turns over all scopes: nobody gets more for waiting in many.
        """
        if not self._waited_for:
            return None
        leaves_only = not daemon.has_free
        rings = [
            (gate, ring)
            for gate in self._waited_for.values()
            if gate.has_free and (ring := gate.ring(leaves_only=leaves_only))
        ]
        if not rings:
            return None
        if leaves_only or daemon.free_count >= len(rings):
            gate, ring = rings[0]
            return gate, ring.next()
        principals = (name for _, ring in rings for name in ring.principals())
        longest = min(principals, key=lambda name: self._last_turns.get(name, 0))
        gate, ring = next(each for each in rings if longest in each[1].principals())
        return gate, ring.next_of(longest)

    def end_turn(self, gate: ScopeGate, lane: Lane) -> None:
        """Put whoever is served behind all others."""
        gate.end_turn(lane)
        self._waited_for.move_to_end(gate.scope)
        self._turn_count += 1
        self._last_turns[lane.session.principal.name] = self._turn_count
