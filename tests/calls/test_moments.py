"""What happens when something comes at just the wrong moment: every moment is tried."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from exai.core.errors import ErrorCode
from exai.core.outcomes import Completed, Failed
from exai.core.requests import CallTool, CancelTool, GetResult
from tests.calls.call_path_world import Caller, World

MOMENTS = range(30)


@contextmanager
def world(seed: int | None = 3) -> Iterator[World]:
    opened = World(seed)
    yield opened
    opened.run_turns()
    opened.close()


def finish(world: World) -> None:
    for execution in world.live:
        execution.pull.set_result("finish")


def error_of(caller: Caller, request_id: str) -> tuple[ErrorCode, object]:
    (answer,) = caller.answers[request_id]
    assert isinstance(answer.outcome, Failed)
    return answer.outcome.error.code, answer.outcome.error.details


@pytest.mark.parametrize("turns", MOMENTS)
def test_a_key_is_followed_at_any_moment_of_its_call(turns: int) -> None:
    with world() as now:
        one, other = Caller("a", "a1"), Caller("a", "a2")
        now.say(one, CallTool("alone", "r1", {}, idempotency_key="k"))
        if turns >= 15:
            now.run_turns()
            finish(now)
        now.run_turns(turns % 15)
        now.say(other, CallTool("alone", "r2", {}, idempotency_key="k"))
        now.run_turns()
        finish(now)
        now.run_turns()
        (first,), (second,) = one.answers["r1"], other.answers["r2"]
        assert isinstance(first.outcome, Completed)
        assert first.outcome == second.outcome
        assert len(now.executions) == 1


@pytest.mark.parametrize("turns", MOMENTS)
def test_a_leader_may_take_its_call_back_at_any_moment(turns: int) -> None:
    with world() as now:
        one, other = Caller("a", "a1"), Caller("a", "a2")
        now.say(one, CallTool("pure", "r1", {}))
        now.run_turns(turns // 3)
        now.say(other, CallTool("pure", "r2", {}))
        now.run_turns(turns % 10)
        now.say(one, CancelTool("r1"))
        now.run_turns()
        finish(now)
        now.run_turns()
        assert error_of(one, "r1")[0] is ErrorCode.CANCELLED
        assert isinstance(other.answers["r2"][0].outcome, Completed)
        assert now.path.admission.owners() == frozenset()


@pytest.mark.parametrize("turns", MOMENTS)
def test_a_call_is_asked_about_at_any_moment(turns: int) -> None:
    with world() as now:
        caller = Caller("a", "a1")
        now.say(caller, CallTool("pure", "r1", {}))
        now.run_turns(turns)
        now.say(caller, GetResult("r1"))
        now.run_turns()
        assert len(caller.progress["r1"]) == 1
        assert not caller.out_of_order
        finish(now)
        now.run_turns()
        assert len(caller.answers["r1"]) == 1


def test_work_is_done_anew_once_for_who_has_time_left() -> None:
    with world(seed=None) as now:
        callers = [Caller("a", f"a{n}") for n in range(3)]
        for caller in callers:  # the tool may take 5 s
            now.say(caller, CallTool("short", "r", {}))
            now.run_turns()
            now.loop.now += 1.0
        now.executions[0].run.stream("in vain ")
        now.loop.now += 2.1
        now.run_turns()
        void = callers[2].progress["r"][-1]
        assert (void.delta, void.offset, void.attempt) == ("", 0, 2)
        assert error_of(callers[0], "r") == (ErrorCode.TIMEOUT, {"phase": "run"})
        assert [e.is_cancelled for e in now.executions] == [True, False]
        now.executions[1].run.stream("anew ")
        told = callers[2].progress["r"][-1]
        assert (told.delta, told.offset, told.attempt) == ("anew ", 0, 2)
        now.loop.now += 5.0
        now.run_turns()
        for caller in callers[1:]:
            assert error_of(caller, "r")[0] is ErrorCode.TIMEOUT
        assert len(now.executions) == 2


@pytest.mark.parametrize(("waited_s", "begins"), [(3.0, False), (1.5, True)])
def test_work_that_waited_begins_only_if_it_would_probably_end_in_time(
    waited_s: float, begins: bool
) -> None:
    with world(seed=None) as now:
        one, other = Caller("a", "a1"), Caller("b", "b1")
        for number in range(5):
            now.say(one, CallTool("one", f"measured-{number}", {"n": number}))
            now.run_turns()
            now.loop.now += 2.0
            finish(now)
            now.run_turns()
        now.say(one, CallTool("one", "first", {}))
        now.run_turns()
        now.say(other, CallTool("one", "waits", {"n": -1}, timeout_s=4.9))
        now.run_turns()
        now.loop.now += waited_s
        finish(now)
        now.run_turns()
        assert len(now.executions) == 6 + begins
        if begins:
            finish(now)
            now.run_turns()
            assert isinstance(other.answers["waits"][0].outcome, Completed)
        else:
            assert error_of(other, "waits") == (ErrorCode.TIMEOUT, {"phase": "queue"})
        now.say(one, CallTool("one", "next", {"n": 9}))
        now.run_turns()
        assert len(now.live) == 1
        finish(now)


def test_quick_work_is_not_taken_for_as_slow_as_what_it_waits_for() -> None:
    with world(seed=None) as now:
        callers, quick = [Caller("a", f"a{n}") for n in range(3)], Caller("b", "b1")
        for number in range(5):
            now.say(callers[0], CallTool("write", f"measured-{number}", {"n": number}))
            now.run_turns()
            now.loop.now += 10.0
            finish(now)
            now.run_turns()
        for number, caller in enumerate(callers):
            now.say(caller, CallTool("write", "slow", {"n": 10 + number}))
        now.say(quick, CallTool("read", "r", {}, timeout_s=12.0))
        now.run_turns()
        assert "r" in quick.acks
        for _ in range(2):
            finish(now)
            now.run_turns()
        assert isinstance(quick.answers["r"][0].outcome, Completed)


def test_the_same_request_by_its_key_is_not_done_anew() -> None:
    with world(seed=None) as now:
        callers = [Caller("a", f"a{n}") for n in range(2)]
        for caller in callers:  # the tool may take 5 s
            now.say(caller, CallTool("short", "r", {}, idempotency_key="k"))
            now.run_turns()
            now.loop.now += 3.0
        now.run_turns()
        for caller in callers:
            assert error_of(caller, "r") == (ErrorCode.TIMEOUT, {"phase": "run"})
        assert len(now.executions) == 1


def test_who_cannot_wait_for_the_work_to_be_done_anew_is_refused() -> None:
    with world(seed=None) as now:
        one, two = Caller("a", "a1"), Caller("b", "b1")
        for n in range(5):  # work of this kind takes 20 s
            now.say(one, CallTool("pure", f"p{n}", {}))
            now.run_turns()
            now.loop.now += 20.0
            now.executions[-1].pull.set_result("finish")
            now.run_turns()
        now.say(one, CallTool("short", "r", {}))
        now.run_turns()
        now.loop.now += 1.0
        now.say(two, CallTool("short", "r", {}))
        for n in range(2):  # its session is full
            now.say(two, CallTool("alone", f"r{n}", {"n": n}))
        now.run_turns()
        now.loop.now += 4.1
        now.run_turns()
        assert error_of(two, "r") == (ErrorCode.OVER_CAPACITY, {"scope": "session"})
        finish(now)
        now.run_turns()
        assert len(two.answers) == 3


@pytest.mark.parametrize("seed", range(30))
def test_what_was_read_before_a_write_began_is_not_joined_after_it(seed: int) -> None:
    for turns in range(10):
        with world(seed) as now:
            writer, reader, late = (Caller("a", f"a{n}") for n in range(3))
            now.say(writer, CallTool("write", "w", {}))
            now.run_turns(turns)
            now.say(reader, CallTool("read-all", "r1", {}))
            now.run_turns()
            now.say(late, CallTool("read-all", "r2", {}))
            now.run_turns()
            (write,) = (each for each in now.executions if each.tool.spec.name == "write")
            assert now.executions[-1] is not write
            assert now.executions[-1].began > write.began
            finish(now)
            now.run_turns()
            assert len(late.answers["r2"]) == 1


@pytest.mark.parametrize("seed", range(30))
def test_work_that_has_ended_is_not_done_anew_while_its_answers_are_stored(seed: int) -> None:
    for turns in range(10):
        with world(seed) as now:
            callers = [Caller("a", f"a{n}") for n in range(2)]
            for caller in callers:  # the tool may take 5 s
                now.say(caller, CallTool("short", "r", {}))
            now.run_turns()
            finish(now)
            now.run_turns(turns)
            now.loop.now += 6.0
            now.run_turns()
            assert len(now.executions) == 1
            assert all(len(caller.answers["r"]) == 1 for caller in callers)


@pytest.mark.parametrize("seed", range(30))
def test_a_key_of_a_call_that_is_served_from_the_cache_is_followed(seed: int) -> None:
    for turns in range(15):
        with world(seed) as now:
            first, second, third = (Caller("a", f"a{n}") for n in range(3))
            now.say(first, CallTool("read-all", "r", {}))
            now.run_turns()
            finish(now)
            now.run_turns()
            now.say(second, CallTool("read-all", "r", {}, idempotency_key="k"))
            now.run_turns(turns)
            now.say(third, CallTool("read-all", "r", {}, idempotency_key="k"))
            now.run_turns()
            assert isinstance(third.answers["r"][0].outcome, Completed)
            assert all(ack.timeout_s == 60.0 for ack in third.acks.get("r", ()))
            assert len(now.executions) == 1
