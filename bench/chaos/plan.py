"""What a run will do, decided by its seed alone: which calls, which meanness, which deaths.

The clock decides the rest: the same seed makes the same choices, not the same moments.
"""

import random
from collections.abc import Iterator
from typing import Literal, NamedTuple

from bench.chaos.profile import Profile, Way

UPSTREAMS = ("alpha", "beta")
_TOOLS = {"append": 0.45, "put": 0.25, "find": 0.3}
_IDEMPOTENT = ("put", "find")

Cut = Literal["before_ack", "after_ack", "half_frame", "take_over"]
"""When a client loses its connection: with its call just sent, or just acknowledged; within the
call's frame; or because it opens another one beside it."""
Again = Literal["call", "get_result", "key", "elsewhere"]
"""How an answer is asked for once more: by the same call, by its id, by its key, by its key in
another session."""
Moment = Literal["sent", "acked", "begun", "completed", "answered", "resumed", "any"]
"""What must just have happened when something dies."""


class CallPlan(NamedTuple):
    """One request. Those with the same `tag` ask for the same work.

    `follows_key` is a second request under the key of the one before it. One that is not
    `sent_again` is only asked for, once its connection was lost.
    """

    request_id: str
    tag: str
    upstream: str
    tool: str
    work_s: float
    size_bytes: int
    fails: bool
    key: str | None = None
    follows_key: bool = False
    copies: int = 1
    cut: Cut | None = None
    cut_after_s: float = 0.0
    cancel_after_s: float | None = None
    ask_after_s: float | None = None
    again: Again | None = None
    is_acknowledged: bool = True
    sent_again: bool = True

    @property
    def name(self) -> str:
        """The tool's name at the daemon."""
        return f"{self.upstream}__{self.tool}"

    @property
    def idempotent(self) -> bool:
        """Whether it may be executed once more after a crash."""
        return self.tool in _IDEMPOTENT

    @property
    def arguments(self) -> dict[str, object]:
        """What the tool is told."""
        return {
            "tag": self.tag,
            "work_s": self.work_s,
            "size_bytes": self.size_bytes,
            "fails": self.fails,
        }


class ClientPlan(NamedTuple):
    """One session: `calls` are begun in this order, `outstanding` of them at a time, each group
    of twins at once.
    """

    name: str
    outstanding: int
    acks: bool
    calls: list[list[CallPlan]]


class DeathPlan(NamedTuple):
    """Something dies once `after_calls` were sent, `delay_s` after the next such moment.

    `again_after_s` is when the daemon dies once more, while it starts.
    """

    after_calls: int
    moment: Moment
    delay_s: float
    target: str
    way: Way
    down_s: float
    again_after_s: float | None


def plan_clients(profile: Profile, seed: int, *, mean: bool) -> list[ClientPlan]:
    """Return the clients of a kind, each with its calls."""
    kind, count = ("mean", profile.mean_clients) if mean else ("steady", profile.steady_clients)
    each = profile.calls // (profile.mean_clients + profile.steady_clients)
    plans = []
    for number in range(count):
        name = f"{kind}{number:02}"
        chance = random.Random(f"{seed} {name}")
        left = each
        calls: list[list[CallPlan]] = []
        while left > 0:
            group = list(_twins(chance, f"{name}-{len(calls):04}", mean=mean))
            calls.append(group)
            left -= len(group)
        outstanding, acks = chance.randint(2, 6), chance.random() < 0.8
        plans.append(ClientPlan(name, outstanding, acks or not mean, calls))
    return plans


def plan_deaths(profile: Profile, seed: int) -> list[DeathPlan]:
    """Return what dies, in order."""
    chance = random.Random(f"{seed} deaths")
    targets = ["daemon"] * profile.deaths + list(UPSTREAMS) * (profile.upstream_deaths // 2)
    chance.shuffle(targets)
    step = profile.calls * 0.9 / len(targets)
    return [
        _death(chance, profile, target, round((n + chance.random()) * step) + 1)
        for n, target in enumerate(targets)
    ]


def _death(chance: random.Random, profile: Profile, target: str, after_calls: int) -> DeathPlan:
    moments: list[Moment] = ["sent", "acked", "begun", "completed", "answered", "resumed", "any"]
    way = chance.choice(profile.ways) if target == "daemon" else "kill"
    return DeathPlan(
        after_calls,
        chance.choice(moments),
        chance.choice([0.0, chance.uniform(0, 0.005), chance.uniform(0, 0.3)]),
        target,
        way,
        chance.choice([0.0, 0.0, chance.uniform(0, 0.5)]),
        chance.uniform(0, 0.8) if way != "hup" and chance.random() < 0.2 else None,
    )


def _twins(chance: random.Random, tag: str, *, mean: bool) -> Iterator[CallPlan]:
    """Yield a call, and sometimes another that asks for the same work at the same time."""
    tool = chance.choices(list(_TOOLS), list(_TOOLS.values()))[0]
    call = CallPlan(
        request_id=tag,
        tag=tag,
        upstream=chance.choice(UPSTREAMS),
        tool=tool,
        work_s=_work_s(chance),
        size_bytes=chance.choice([100, 300, 1000, 2000, 20_000, 102_400]),
        fails=chance.random() < 0.05,
        key=f"key-{tag}" if chance.random() < 0.3 else None,
    )
    call = _with_meanness(chance, call) if mean else _with_trouble(chance, call)
    yield call
    is_shared = call.key is not None or tool == "find"
    if mean and call.cancel_after_s is None and is_shared and chance.random() < 0.3:
        yield CallPlan(
            f"{tag}-twin",
            *call[1:7],
            key=call.key,
            follows_key=call.key is not None,
        )


def _work_s(chance: random.Random) -> float:
    longest_s = chance.choices([0.0, 0.1, 0.4, 1.2], [0.5, 0.3, 0.15, 0.05])[0]
    return round(chance.uniform(longest_s / 4, longest_s), 3)


def _with_meanness(chance: random.Random, call: CallPlan) -> CallPlan:
    cuts: list[Cut] = ["before_ack", "after_ack", "half_frame", "take_over"]
    ways: list[Again] = ["call", "get_result"]
    ways += ["key", "elsewhere"] if call.key else []
    cut = chance.choice(cuts) if chance.random() < 0.12 else None
    return call._replace(
        copies=2 if chance.random() < 0.15 else 1,
        cut=cut,
        cut_after_s=chance.choice([0.0, chance.uniform(0, 0.01), chance.uniform(0, 0.2)]),
        cancel_after_s=chance.uniform(0, 0.1) if chance.random() < 0.06 else None,
        ask_after_s=chance.uniform(0, 0.1) if chance.random() < 0.15 else None,
        again=chance.choice(ways) if chance.random() < 0.5 else None,
        is_acknowledged=chance.random() < 0.7,
        sent_again=cut is None or chance.random() < 0.5,
    )


def _with_trouble(chance: random.Random, call: CallPlan) -> CallPlan:
    return call._replace(
        cut="before_ack" if chance.random() < 0.08 else None,
        cut_after_s=chance.choice([0.0, chance.uniform(0, 0.01), chance.uniform(0, 0.2)]),
        cancel_after_s=chance.uniform(0, 0.1) if chance.random() < 0.05 else None,
    )
