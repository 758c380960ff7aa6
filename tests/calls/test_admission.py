"""Permits are taken together or not at all, in a fair order, and never lost."""

import asyncio
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from exai.calls.admission import AdmissionController
from exai.calls.limit import Ending, FixedLimit, Limit, ServiceSample
from exai.calls.permits import PermitStatistics
from exai.calls.places import Place, Stand
from exai.core.clock import Clock
from exai.core.config import LimitsConfig
from exai.core.errors import QueueFull
from exai.core.tool import Demand
from exai.testing.hand_clock import HandClock

LIMITS = LimitsConfig(
    global_max_inflight=4, session_max_inflight=2, session_max_waiting=3, global_max_waiting=6
)
SCOPES = {"provider:kimi": 1, "provider:glm": 3}


def controller(limits: LimitsConfig = LIMITS, clock: Clock | None = None) -> AdmissionController:
    scope_limits = {scope: FixedLimit(count) for scope, count in SCOPES.items()}
    return AdmissionController(limits, scope_limits, clock or HandClock())


def reserve(
    admission: AdmissionController,
    owner: str,
    session: str = "s",
    scope: str | None = None,
    conversation: str | None = None,
    *,
    size_bytes: int = 0,
    patience_s: float = 60.0,
) -> Place:
    place, _ = admission.reserve(
        owner,
        principal=f"p-{session[0]}",
        session_id=session,
        demand=Demand(scope, conversation),
        size_bytes=size_bytes,
        patience_s=patience_s,
    )
    place.begin()
    return place


def is_granted(place: Place) -> bool:
    return place.is_granted


def join(admission: AdmissionController, place: Place, session: str) -> Stand:
    return admission.join(place, principal=f"p-{session[0]}", session_id=session)


def scope_of(refused: pytest.ExceptionInfo[QueueFull]) -> object:
    info = refused.value.describe()
    assert isinstance(info.retry_after_s, float)
    assert info.retry_after_s > 0
    assert info.details
    return info.details["scope"]


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
    assert scope_of(refused) == "session"


def test_when_the_daemon_is_full_a_session_with_nothing_waiting_still_finds_a_place() -> None:
    admission = controller()
    for n in range(1 + LIMITS.global_max_waiting):
        reserve(admission, f"a{n}", session=f"s{n // 2}", scope="provider:kimi")
    with pytest.raises(QueueFull) as refused:
        reserve(admission, "x", session="s3", scope="provider:kimi")
    assert scope_of(refused) == "global"
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


def test_nobody_waits_behind_a_session_that_was_just_served() -> None:
    admission = controller(LimitsConfig(global_max_inflight=1, session_max_inflight=1))
    running = reserve(admission, "g0", "greedy")
    greedy = [reserve(admission, f"g{n}", "greedy") for n in range(1, 9)]
    served = []
    for n in range(4):
        quiet = reserve(admission, f"q{n}", "gentle")  # another session of the same principal
        running.__exit__(None, None, None)
        if n == 0 and greedy[0].is_granted:  # nobody knew yet who was served before
            greedy.pop(0).__exit__(None, None, None)
        served.append(is_granted(quiet))
        quiet.__exit__(None, None, None)
        running = greedy.pop(0)
        assert is_granted(running)
    assert served == [True] * 4


def test_who_comes_back_at_once_takes_no_turn_from_those_who_wait() -> None:
    admission = controller(LimitsConfig(global_max_inflight=1, session_max_inflight=1))
    running = reserve(admission, "x", "xenia")
    waiting = {name: reserve(admission, name, name) for name in ("anna", "berta", "clara")}
    order = []
    for n in range(9):
        running.__exit__(None, None, None)
        (name,) = (name for name, place in waiting.items() if place.is_granted)
        order.append(name)
        running = waiting[name]
        waiting[name] = reserve(admission, f"{name}-{n}", name)
    assert order == ["anna", "berta", "clara"] * 3


def test_nobody_waits_for_ever_behind_sessions_that_keep_coming() -> None:
    admission = controller()
    running = reserve(admission, "first", "s0", "provider:kimi")
    patient = [reserve(admission, f"patient-{n}", "s1", "provider:kimi") for n in range(3)]
    waiting = [*patient, reserve(admission, "n0", "sn0", "provider:kimi")]
    for n in range(1, 50):
        waiting.append(reserve(admission, f"n{n}", f"sn{n}", "provider:kimi"))
        running.__exit__(None, None, None)
        (running,) = (place for place in waiting if is_granted(place))
        waiting.remove(running)
    assert not set(patient) & set(waiting)


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


def test_a_principal_may_not_fill_the_lines_of_all_its_sessions() -> None:
    limits = LimitsConfig(session_max_inflight=1, session_max_waiting=3, principal_max_waiting=4)
    admission = controller(limits)
    for session in ("s1", "s2"):
        for n in range(3):
            reserve(admission, f"{session}-{n}", session)
    with pytest.raises(QueueFull) as refused:
        reserve(admission, "one too many", "s1")
    assert scope_of(refused) == "principal"
    assert reserve(admission, "of another", "t1").is_granted


def test_the_arguments_of_a_principals_waiting_calls_are_bounded_in_bytes() -> None:
    limits = LimitsConfig(session_max_inflight=1, principal_max_waiting_bytes=100)
    admission = controller(limits)
    running = reserve(admission, "runs", size_bytes=90)
    reserve(admission, "waits", size_bytes=90)
    with pytest.raises(QueueFull) as refused:
        reserve(admission, "too much", size_bytes=11)
    assert scope_of(refused) == "principal"
    running.__exit__(None, None, None)
    reserve(admission, "fits now", size_bytes=11)


def test_a_wait_that_would_outlast_the_call_is_refused_once_enough_was_measured() -> None:
    clock = HandClock()
    admission = controller(clock=clock)
    for n in range(5):
        with (
            reserve(admission, f"measured-{n}", "s1", "provider:kimi"),
            reserve(admission, f"unrefused-{n}", "s2", "provider:kimi", patience_s=1),
        ):
            clock.now += 10.0
    with reserve(admission, "busy", "s1", "provider:kimi"):
        with pytest.raises(QueueFull) as refused:
            reserve(admission, "impatient", "s2", "provider:kimi", patience_s=4)
        assert scope_of(refused) == "provider:kimi"
        assert not reserve(admission, "patient", "s2", "provider:kimi", patience_s=26).is_granted


def test_a_wait_for_ones_own_session_or_the_daemon_is_expected_too() -> None:
    clock = HandClock()
    limits = LimitsConfig(session_max_inflight=1, global_max_inflight=2)
    admission = controller(limits, clock)
    for n in range(5):
        with reserve(admission, f"measured-{n}", scope="provider:glm"):
            clock.now += 10.0
    reserve(admission, "a", "a1", "provider:glm")
    with pytest.raises(QueueFull) as refused:
        reserve(admission, "b", "a1", "provider:glm", patience_s=9)
    assert scope_of(refused) == "session"
    reserve(admission, "c", "c1", "provider:glm")
    with pytest.raises(QueueFull) as refused:
        reserve(admission, "d", "d1", "provider:glm", patience_s=4)
    assert scope_of(refused) == "global"
    assert not reserve(admission, "e", "d1", "provider:glm", patience_s=21).is_granted


def test_one_conversation_has_one_call_at_a_time_and_blocks_no_other() -> None:
    admission = controller()
    first = reserve(admission, "a", "s1", "provider:glm", "talk")
    second = reserve(admission, "b", "s1", "provider:glm", "talk")
    third = reserve(admission, "c", "s2", "provider:glm", "talk")
    other = reserve(admission, "d", "s2", "provider:glm", "other talk")
    granted = [place.is_granted for place in (first, second, third, other)]
    assert granted == [True, False, False, True]
    second.__exit__(None, None, None)
    first.__exit__(None, None, None)
    assert third.is_granted
    third.__exit__(None, None, None)
    other.__exit__(None, None, None)
    assert admission.statistics().conversation_count == 0


def test_who_joins_a_turn_waits_for_it_behind_the_conversations_other_calls() -> None:
    admission = controller()
    first = reserve(admission, "first", "s1", "provider:glm", "talk")
    second = reserve(admission, "second", "s1", "provider:glm", "talk")
    join(admission, second, "s2")
    assert not is_granted(second)
    first.__exit__(None, None, None)
    assert is_granted(second)
    second.__exit__(None, None, None)
    assert set(in_use(admission).values()) == {0}


def test_work_of_several_sessions_starts_from_the_first_that_has_a_permit() -> None:
    admission = controller()
    busy = [reserve(admission, f"busy-{n}", "s1") for n in range(2)]
    place = reserve(admission, "shared", "s1")
    assert not is_granted(place)
    join(admission, place, "s2")
    assert is_granted(place)
    assert in_use(admission)["session:s2"] == 1
    for each in (*busy, place):
        each.__exit__(None, None, None)


def test_a_permit_is_charged_to_the_oldest_caller_that_stays() -> None:
    admission = controller()
    place, leader = admission.reserve("shared", principal="p-a", session_id="a1", demand=Demand())
    followers = [join(admission, place, session) for session in ("b1", "c1")]
    admission.leave(leader)
    assert in_use(admission)["session:b1"] == 1
    assert "session:a1" not in in_use(admission)
    admission.leave(followers[0])
    assert in_use(admission)["session:c1"] == 1
    place.__exit__(None, None, None)
    admission.leave(followers[1])
    assert set(in_use(admission)) == {"global", "provider:kimi", "provider:glm"}


def test_a_charge_stays_where_the_next_caller_has_no_permit_to_give() -> None:
    admission = controller()
    place, leader = admission.reserve("shared", principal="p-a", session_id="a1", demand=Demand())
    full = [reserve(admission, f"b-{n}", "b1") for n in range(2)]
    join(admission, place, "b1")
    admission.leave(leader)
    assert in_use(admission)["session:a1"] == 1
    assert in_use(admission)["session:b1"] == 2
    for each in (*full, place):
        each.__exit__(None, None, None)


async def test_work_that_runs_needs_only_its_providers_permit_and_goes_first() -> None:
    admission = controller(LimitsConfig(global_max_inflight=2, session_max_inflight=1))
    fan_out = reserve(admission, "fan-out", "s1")
    kimi = reserve(admission, "kimi", "t1", "provider:kimi")
    waiting = reserve(admission, "waits", "s1", "provider:kimi")
    order: list[str] = []

    async def leg(n: int) -> None:
        async with fan_out.leaf("provider:kimi", f"fan-out/{n}"):
            order.append(f"leg {n}")
            assert in_use(admission)["provider:kimi"] == 1

    async with asyncio.TaskGroup() as tasks:
        for n in (1, 2):
            tasks.create_task(leg(n))
        await asyncio.sleep(0)
        assert order == []
        kimi.__exit__(None, None, None)
    assert order == ["leg 1", "leg 2"]
    assert not is_granted(waiting)
    fan_out.__exit__(None, None, None)
    assert is_granted(waiting)
    waiting.__exit__(None, None, None)


async def test_a_leafs_end_leaves_alone_what_its_session_began_meanwhile() -> None:
    admission = controller(LimitsConfig(session_max_inflight=1))
    place, first = admission.reserve("w", principal="s", session_id="s1", demand=Demand())
    join(admission, place, "s2")
    async with place.leaf("provider:kimi", "w/1"):
        admission.leave(first)  # the work is charged to the other session now
        back = reserve(admission, "back", "s1")
    assert is_granted(back)
    second = reserve(admission, "second", "s1")
    assert not is_granted(second)
    for each in (back, second, place):
        each.__exit__(None, None, None)
    assert admission.statistics().session_pools == []


async def test_a_leaf_that_is_cancelled_leaves_the_line_or_passes_its_permit_on() -> None:
    admission = controller()
    place = reserve(admission, "fan-out", "s1")
    taken = reserve(admission, "kimi", "t1", "provider:kimi")
    done: list[int] = []

    async def leg(n: int) -> None:
        async with place.leaf("provider:kimi", f"fan-out/{n}"):
            done.append(n)

    async with asyncio.TaskGroup() as tasks:
        legs = [tasks.create_task(leg(n)) for n in range(3)]
        await asyncio.sleep(0)
        legs[0].cancel()
        await asyncio.sleep(0)
        taken.__exit__(None, None, None)
        legs[1].cancel()
    assert done == [2]
    place.__exit__(None, None, None)
    assert set(in_use(admission).values()) == {0}


def test_scopes_take_turns_where_the_daemon_is_full() -> None:
    admission = controller(LimitsConfig(global_max_inflight=1))
    running = reserve(admission, "runs", "r1")
    plain = [reserve(admission, f"plain-{n}", f"s{n}") for n in range(3)]
    kimi = reserve(admission, "kimi", "k1", "provider:kimi")
    running.__exit__(None, None, None)
    (first,) = (place for place in (*plain, kimi) if place.is_granted)
    first.__exit__(None, None, None)
    (second,) = (place for place in (*plain, kimi) if place.is_granted and place is not first)
    assert {first.scope.scope, second.scope.scope} == {"", "provider:kimi"}


def test_who_waits_for_many_scopes_gets_no_more_turns_for_that() -> None:
    limits = LimitsConfig(global_max_inflight=1, session_max_inflight=9, session_max_waiting=20)
    admission = controller(limits)
    running = reserve(admission, "runs", "r1")
    waiting = [
        reserve(admission, f"{session}{n}-{scope}", session, scope)
        for session, scopes in (("a", (None, *SCOPES)), ("b", (None,)))
        for scope in scopes
        for n in range(3)
    ]
    order = ""
    while waiting:
        running.__exit__(None, None, None)
        (running,) = (place for place in waiting if is_granted(place))
        waiting.remove(running)
        order += running.owner[0]
    assert order == "abababaaaaaa"


class GrowingLimit(Limit):
    """One more permit for each success."""

    def __init__(self) -> None:
        self.permit_count = 1
        self.samples: list[ServiceSample] = []

    def observe(self, sample: ServiceSample) -> None:
        self.samples.append(sample)
        self.permit_count += sample.ending is Ending.SUCCESS


def test_a_limit_learns_from_what_comes_back_and_may_let_more_start() -> None:
    limit, clock = GrowingLimit(), HandClock()
    admission = AdmissionController(LIMITS, {"provider:kimi": limit}, clock)
    running = reserve(admission, "a", "a1", "provider:kimi")
    waiting = [reserve(admission, f"w{n}", f"{n}", "provider:kimi") for n in range(3)]
    clock.now += 2.5
    running.ending = Ending.SUCCESS
    running.__exit__(None, None, None)
    assert limit.samples == [ServiceSample(2.5, 1, Ending.SUCCESS)]
    assert [place.is_granted for place in waiting] == [True, True, False]
    waiting[0].__exit__(None, None, None)
    assert limit.samples[1].ending is Ending.IGNORED
    assert [place.is_granted for place in waiting] == [True, True, True]


def session_of(place: Place) -> str:
    (stand,) = place.stands
    return stand.session.session_id


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
            place = reserve(self.admission, f"call-{self.served}", session, scope)
        except QueueFull:
            waiting = [p for p in self.places if not p.is_granted]
            assert any(session_of(p) == session for p in waiting)
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
            expected[f"session:{session_of(place)}"] += 1
            if place.scope.scope:
                expected[place.scope.scope] += 1
        for pool in all_pools(self.admission):
            assert pool.in_use == expected[pool.scope] <= pool.limit

    @invariant()
    def no_head_of_a_line_waits_that_could_start(self) -> None:
        free = {p.scope: p.limit - p.in_use for p in all_pools(self.admission)}
        for place in self.places:
            if place.is_granted:
                continue
            needed = ["global", f"session:{session_of(place)}"]
            needed += [place.scope.scope] if place.scope.scope else []
            assert any(free[scope] == 0 for scope in needed)

    @invariant()
    def whoever_waits_is_counted(self) -> None:
        waiting = Counter(place.scope.scope for place in self.places if not place.is_granted)
        assert +Counter(self.admission.statistics().waiting_count) == waiting

    @invariant()
    def a_line_is_served_in_the_order_of_arrival(self) -> None:
        lines: dict[tuple[str, str], list[bool]] = {}
        for place in self.places:
            key = (session_of(place), place.scope.scope)
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


def test_limits_change_while_work_runs_and_waits() -> None:
    admission = controller()
    running, waiting = (reserve(admission, o, session=o, scope="provider:kimi") for o in "ab")
    assert (is_granted(running), is_granted(waiting)) == (True, False)
    admission.relimit({"provider:kimi": FixedLimit(2), "upstream:new": FixedLimit(1)})
    assert is_granted(waiting)
    assert is_granted(reserve(admission, "c", session="c", scope="upstream:new"))
    admission.relimit({"provider:kimi": FixedLimit(1)})
    late = reserve(admission, "d", session="d", scope="provider:kimi")
    admission.give_up(running)
    assert not is_granted(late)
    admission.give_up(waiting)
    assert is_granted(late)


def test_a_retired_scope_is_forgotten_when_nothing_is_left_in_it() -> None:
    admission = controller()
    running, waiting = (reserve(admission, o, session="s", scope="provider:kimi") for o in "ab")
    admission.relimit({}, retired=["provider:kimi"])
    admission.relimit({})
    assert "provider:kimi" in admission.statistics().waiting_count
    admission.give_up(running)
    assert is_granted(waiting)
    admission.give_up(waiting)
    late = reserve(admission, "c", session="s", scope="provider:kimi")  # it was on its way
    assert "provider:kimi" in admission.statistics().waiting_count
    admission.give_up(late)
    assert "provider:kimi" not in admission.statistics().waiting_count
    admission.relimit({})
    admission.relimit({"provider:kimi": FixedLimit(1)})
    assert is_granted(reserve(admission, "d", session="s", scope="provider:kimi"))
