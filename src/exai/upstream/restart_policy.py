"""When a server that ended is started again. Thinks only; sleeps and starts nothing."""

import msgspec


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Delays that double from one short life to the next, up to where we give up.

    A life is short when the server was ready for less than `stable_s`. After
    `give_up_after` short lives in a row the server is started rarely, and one that others
    start is looked for every `rare_look_s`.
    """

    first_delay_s: float = 0.5
    max_delay_s: float = 30.0
    stable_s: float = 30.0
    give_up_after: int = 6
    rare_delay_s: float = 300.0
    rare_look_s: float = 60.0
    jitter: float = 0.2

    def is_short(self, ready_s: float) -> bool:
        """Tell whether a life that was ready for `ready_s` speaks against the server."""
        return ready_s < self.stable_s

    def gives_up(self, short_lives: int) -> bool:
        """Tell whether so many short lives in a row are too many."""
        return short_lives >= self.give_up_after

    def for_others(self) -> "RestartPolicy":
        """Return the policy for servers that others start: to look for one costs little."""
        rare_delay_s = min(self.rare_delay_s, self.rare_look_s)
        return msgspec.structs.replace(self, rare_delay_s=rare_delay_s)

    def delay_s(self, short_lives: int, chance: float) -> float:
        """Return how long to wait; `chance`, from 0 to 1, spreads servers that fell together."""
        if self.gives_up(short_lives):
            delay_s = self.rare_delay_s
        else:
            doublings = min(max(short_lives - 1, 0), 30)
            delay_s = min(self.first_delay_s * 2**doublings, self.max_delay_s)
        return delay_s * (1 + self.jitter * (2 * chance - 1))
