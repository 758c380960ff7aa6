"""Permits are taken together or not at all, in a fair order, and never lost."""

import asyncio
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from exai.calls.admission import AdmissionController, Place
from exai.calls.permits import PermitStatistics
from exai.core.config import LimitsConfig
from exai.core.errors import QueueFull

LIMITS = LimitsConfig(
    global_max_inflight=4, session_max_inflight=2, session_max_waiting=3, global_max_waiting=6
)
SCOPES = {"provider:kimi": 1, "provider:glm": 3}


def controller(limits: LimitsConfig = LIMITS) -> AdmissionController:
    return AdmissionController(limits, SCOPES)


def reserve(
    admission: AdmissionController, owner: str, session: str = "s", scope: str | None = None
) -> Place:
    return admission.reserve(owner, principal=f"p-{session}", session_id=session, scope=scope)


def in_use(admission: AdmissionController) -> dict[str, int]:
    return {pool.scope: pool.in_use for pool in all_pools(admission)}


def all_pools(admission: AdmissionController) -> list[PermitStatistics]:
    now = admission.statistics()
    return [*now.pools, *now.session_pools]


def test_free_permits_are_granted_at_once() -> None:
    admission = controller()
    with reserve(admission, "a", scope="provider:kimi") as place:
        assert place.is_granted
        assert in_use(admission) == {
            "global": 1, "provider:kimi": 1, "provider:glm": 0, "session:s": 1,
        }  # fmt: skip
    assert set(in_use(admission).values()) == {0}


def test_whoever_waits_holds_nothing() -> None:
    admission = controller()
    with (
        reserve(admission, "a", "s1", "provider:kimi"),
        reserve(admission, "b", "s2", "provider:kimi") as waiting,
    ):
        assert not waiting.is_granted
        assert in_use(admission)["global"] == 1
        assert "session:s2" in in_use(admission)
        assert in_use(admission)["session:s2"] == 0


def test_a_call_blocked_by_one_provider_blocks_no_other() -> None:
    admission = controller()
    with (
        reserve(admission, "a", "s1", "provider:kimi"),
        reserve(admission, "b", "s2", "provider:kimi") as blocked,
        reserve(admission, "c", "s2", "provider:glm") as other,
    ):
        assert not blocked.is_granted
        assert other.is_granted


def test_a_session_may_not_fill_the_line() -> None:
    admission = controller()
    for n in range(2 + LIMITS.session_max_waiting):
        reserve(admission, f"a{n}")
    with pytest.raises(QueueFull) as refused:
        reserve(admission, "one too many")
    assert refused.value.describe().details == {"scope": "session"}


def test_when_the_daemon_is_full_a_session_with_nothing_waiting_still_finds_a_place() -> None:
    admission = controller()
    for n in range(1 + LIMITS.global_max_waiting):
        reserve(admission, f"a{n}", session=f"s{n // 2}", scope="provider:kimi")
    with pytest.raises(QueueFull) as refused:
        reserve(admission, "x", session="s3", scope="provider:kimi")
    assert refused.value.describe().details == {"scope": "global"}
    assert not reserve(admission, "y", session="fresh", scope="provider:kimi").is_granted


def test_turns_go_round_principals_not_calls() -> None:
    admission = controller(LimitsConfig(global_max_inflight=1, session_max_inflight=1))
    running = reserve(admission, "first", "greedy")
    greedy = [reserve(admission, f"g{n}", "greedy") for n in range(50)]
    quiet = reserve(admission, "q", "quiet")
    running.__exit__(None, None, None)
    assert quiet.is_granted
    quiet.__exit__(None, None, None)
    assert [place.is_granted for place in greedy] == [True] + 49 * [False]


async def test_a_grant_that_meets_a_cancellation_goes_to_the_next_waiter() -> None:
    admission = controller(LimitsConfig(global_max_inflight=1, session_max_inflight=1))
    started: list[str] = []

    async def call(owner: str) -> None:
        with reserve(admission, owner, session=owner) as place:
            await place.permits()
            started.append(owner)

    running = reserve(admission, "running", "s0")
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(call("first"))
        tasks.create_task(call("second"))
        await asyncio.sleep(0)
        running.__exit__(None, None, None)
        first.cancel()
    assert started == ["second"]
    assert in_use(admission) == {"global": 0, "provider:kimi": 0, "provider:glm": 0}


class Admission(RuleBasedStateMachine):
    """Callers of several sessions come, are served, give up and go, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.admission = controller()
        self.places: list[Place] = []
        self.served = 0

    @rule(
        session=st.sampled_from(["a1", "a2", "b1", "c1"]),
        scope=st.sampled_from([None, *SCOPES]),
    )
    def come(self, session: str, scope: str | None) -> None:
        self.served += 1
        try:
            place = self.admission.reserve(
                f"call-{self.served}", principal=session[0], session_id=session, scope=scope
            )
        except QueueFull:
            waiting = [p for p in self.places if not p.is_granted]
            assert any(p.session.session_id == session for p in waiting)
        else:
            self.places.append(place)

    @precondition(lambda self: self.places)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(self.places))
        self.places.remove(place)
        place.__exit__(None, None, None)

    @invariant()
    def every_permit_has_its_owner_and_no_limit_is_passed(self) -> None:
        granted = [place for place in self.places if place.is_granted]
        assert self.admission.owners() == {place.owner for place in granted}
        expected = Counter({"global": len(granted)})
        for place in granted:
            expected[f"session:{place.session.session_id}"] += 1
            if place.scope:
                expected[place.scope] += 1
        for pool in all_pools(self.admission):
            assert pool.in_use == expected[pool.scope] <= pool.limit

    @invariant()
    def no_head_of_a_line_waits_that_could_start(self) -> None:
        free = {p.scope: p.limit - p.in_use for p in all_pools(self.admission)}
        for place in self.places:
            if place.is_granted:
                continue
            needed = ["global", f"session:{place.session.session_id}"]
            needed += [place.scope] if place.scope else []
            assert any(free[scope] == 0 for scope in needed)

    @invariant()
    def whoever_waits_is_counted(self) -> None:
        waiting = Counter(place.scope for place in self.places if not place.is_granted)
        assert +Counter(self.admission.statistics().waiting_count) == waiting

    @invariant()
    def a_line_is_served_in_the_order_of_arrival(self) -> None:
        lines: dict[tuple[str, str], list[bool]] = {}
        for place in self.places:
            key = (place.session.session_id, place.scope)
            lines.setdefault(key, []).append(place.is_granted)
        for grants in lines.values():
            assert grants == sorted(grants, reverse=True)

    def teardown(self) -> None:
        for place in self.places:
            place.__exit__(None, None, None)
        assert self.admission.owners() == frozenset()
        assert {pool.scope for pool in all_pools(self.admission)} == {
            "global", "provider:kimi", "provider:glm",
        }  # fmt: skip


TestAdmissionAsAStateMachine = Admission.TestCase
TestAdmissionAsAStateMachine.settings = settings(max_examples=60, stateful_step_count=50)
