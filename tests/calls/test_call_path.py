"""The whole call path as a state machine: whatever happens, in whatever order.

50,000 steps of it:
EXAI_LONG=1 make test ARGS="tests/calls/test_call_path.py -o faulthandler_timeout=900"
"""

import os
from collections import Counter
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from exai.core.errors import ErrorCode
from exai.core.outcomes import Completed, Failed, text_of
from exai.core.replies import CallAnswered
from exai.core.requests import CallTool, CancelTool, GetResult
from tests.calls.call_path_world import SCOPES, Caller, Execution, World

TOOLS = [
    "read", "read-all", "read-session", "write", "pure", "alone", "one", "short", "talk",
    "consensus",
]  # fmt: skip
SHARED_WITHIN = {
    "read": "principal", "read-all": "all", "read-session": "session", "write": "principal",
    "pure": "principal", "one": "principal", "short": "all", "talk": "principal",
}  # fmt: skip
SESSIONS = ["a1", "a2", "b1", "b2", "c1"]


class Sent:
    """One request as it was first sent, and how often it was asked for."""

    def __init__(self, caller: Caller, request: CallTool, turn: int) -> None:
        self.caller = caller
        self.request = request
        self.turn = turn
        self.may_be_answered = 1

    @property
    def request_id(self) -> str:
        return self.request.request_id or ""

    @property
    def answers(self) -> list[CallAnswered]:
        return self.caller.answers.get(self.request_id, [])

    @property
    def is_waiting(self) -> bool:
        return self.request_id in self.caller.acks and not self.answers


class CallPathMachine(RuleBasedStateMachine):
    """Callers come, go, repeat themselves; executions end, fail, unwind; time passes."""

    @initialize(
        seed=st.none() | st.integers(0, 1000),
        tools=st.lists(st.sampled_from(TOOLS), min_size=1, max_size=3, unique=True),
    )
    def open_world(self, seed: int | None, tools: list[str]) -> None:
        self.tools = [*tools, "write"] if "read" in tools[0] else tools
        self.world = World(seed)
        self.callers = {name: Caller(name[0], name) for name in SESSIONS}
        self.sent: list[Sent] = []
        self.refreshed: set[tuple[str, str]] = set()
        self.is_idle = True

    def step(self, turns: int | None) -> None:
        """Let the world go on: until nothing moves, or for some turns only."""
        self.is_idle = turns is None
        if turns is None:
            self.world.run_turns()
        else:
            self.world.run_turns(turns)

    some_turns = st.none() | st.integers(0, 6)

    @rule(
        session=st.sampled_from(SESSIONS),
        data=st.data(),
        n=st.sampled_from([0, 0, 0, 1]),
        cache=st.sampled_from(["use", "use", "use", "refresh", "off"]),
        slow=st.sampled_from([False, False, True]),
        timeout_s=st.sampled_from([None, None, 3.0, 20.0]),
        turns=some_turns,
    )
    def call(
        self,
        session: str,
        data: st.DataObject,
        n: int,
        cache: Any,
        slow: bool,
        timeout_s: Any,
        turns: Any,
    ) -> None:
        name = data.draw(st.sampled_from(self.tools))
        arguments: dict[str, Any] = {"n": n}
        if slow:
            arguments["slow"] = True
        self.send(session, name, arguments, turns, cache=cache, timeout_s=timeout_s)

    @rule(
        sessions=st.lists(st.sampled_from(SESSIONS), min_size=2, max_size=5),
        data=st.data(),
        turns=st.sampled_from([None, 0, 1, 3, 8]),
    )
    def call_alike(self, sessions: list[str], data: st.DataObject, turns: int | None) -> None:
        name = data.draw(st.sampled_from(self.tools))
        for session in sessions:
            self.send(session, name, {"n": 0}, turns)

    @rule(
        session=st.sampled_from(SESSIONS),
        data=st.data(),
        turns=st.integers(0, 12),
        then=st.sampled_from([None, 0, 1, 2]),
    )
    def call_and_cancel(
        self, session: str, data: st.DataObject, turns: int, then: int | None
    ) -> None:
        self.send(session, data.draw(st.sampled_from(self.tools)), {"n": 0}, turns)
        sent = self.sent[-1]
        sent.may_be_answered += 1
        self.world.say(sent.caller, CancelTool(sent.request_id))
        self.step(then)

    @precondition(lambda self: self.world.live)
    @rule()
    def end_all(self) -> None:
        for execution in list(self.world.live):
            self.let_go(execution, "finish")
        self.step(None)

    @rule(
        session=st.sampled_from(SESSIONS),
        key=st.sampled_from(["k1", "k2", "t1", "t2"]),
        turns=some_turns,
    )
    def call_with_key(self, session: str, key: str, turns: int | None) -> None:
        name, arguments = ("alone", {}) if key[0] == "k" else ("talk", {"talk": "t", "n": 0})
        self.send(session, name, {"key": key, **arguments}, turns, idempotency_key=key)

    def send(
        self, session: str, name: str, arguments: dict[str, Any], turns: int | None, **fields: Any
    ) -> None:
        if name == "talk" and not arguments["n"]:
            arguments["talk"] = "t"
        request_id = f"r{len(self.sent)}"
        request = CallTool(name, request_id, arguments, **fields)
        self.world.turn += 1
        self.sent.append(Sent(self.callers[session], request, self.world.turn))
        if request.cache != "use":
            self.refreshed.add((name, str(arguments)))
        self.world.say(self.callers[session], request)
        self.step(turns)

    def of_open_sessions(self) -> list[Sent]:
        return [sent for sent in self.sent if sent.caller in self.callers.values()]

    @precondition(lambda self: self.of_open_sessions())
    @rule(
        data=st.data(),
        what=st.sampled_from(["repeat", "repeat", "cancel", "fetch"]),
        turns=some_turns,
    )
    def say_again(self, data: st.DataObject, what: str, turns: int | None) -> None:
        sent = data.draw(st.sampled_from(self.of_open_sessions()))
        sent.may_be_answered += 1
        requests = {
            "repeat": sent.request,
            "cancel": CancelTool(sent.request_id),
            "fetch": GetResult(sent.request_id),
        }
        self.world.say(sent.caller, requests[what])
        self.step(turns)

    @precondition(lambda self: self.world.live)
    @rule(
        data=st.data(),
        how=st.sampled_from([*["finish"] * 7, "fail", "congested", "crash"]),
        turns=some_turns,
    )
    def end_execution(self, data: st.DataObject, how: str, turns: int | None) -> None:
        self.let_go(data.draw(st.sampled_from(self.world.live)), how)
        self.step(turns)

    def let_go(self, execution: Execution, how: str) -> None:
        for (number, _), leg in self.world.legs.items():
            if number == execution.number and not leg.done():
                leg.set_result(None)
                return
        for future, result in ((execution.unwound, None), (execution.pull, how)):
            if not future.done() and (future is execution.pull or execution.is_cancelled):
                future.set_result(result)  # type: ignore[arg-type]
                return

    @precondition(lambda self: self.world.live)
    @rule(data=st.data())
    def stream(self, data: st.DataObject) -> None:
        execution = data.draw(st.sampled_from(self.world.live))
        if not execution.is_cancelled and not execution.pull.done():
            execution.told += "word "
            execution.run.stream("word ")

    @rule(seconds=st.sampled_from([0.5, 0.5, 2.0, 2.0, 10.0, 70.0]), turns=some_turns)
    def pass_time(self, seconds: float, turns: int | None) -> None:
        self.world.loop.now += seconds
        self.step(turns)

    @rule(session=st.sampled_from(SESSIONS), really=st.sampled_from([False, False, False, True]))
    def bye(self, session: str, really: bool) -> None:
        if not really:
            return
        old = self.callers[session]
        self.step(None)
        self.world.end_session(old)
        self.callers[session] = Caller(old.principal.name, f"{session}-{len(self.sent)}")
        for sent in self.sent:
            if sent.caller is old:
                assert sent.answers
        self.is_idle = True

    @invariant()
    def no_limit_is_passed(self) -> None:
        now = self.world.path.admission.statistics()
        for pool in (*now.pools, *now.session_pools):
            assert 0 <= pool.in_use <= pool.limit
        for scope, limit in SCOPES.items():
            assert self.world.in_use[scope] <= limit
        talks = [(e.run.principal.name, e.arguments["talk"]) for e in self.talking()]
        assert len(talks) == len(set(talks))

    def talking(self) -> list[Execution]:
        return [execution for execution in self.world.live if "talk" in execution.arguments]

    @invariant()
    def every_permit_has_a_living_owner(self) -> None:
        if self.is_idle:
            running = {execution.run.call_id for execution in self.world.live}
            owners = self.world.path.admission.owners()
            assert {owner.removesuffix("/anew") for owner in owners} == running
            assert len(owners) == len(self.world.live)
            in_use = {p.scope: p.in_use for p in self.world.path.admission.statistics().pools}
            assert {scope: self.world.in_use[scope] for scope in SCOPES}.items() <= in_use.items()

    @invariant()
    def nobody_waits_who_could_start(self) -> None:
        if not self.is_idle:
            return
        now = self.world.path.admission.statistics()
        free = {p.scope: p.limit - p.in_use for p in (*now.pools, *now.session_pools)}
        running = {(e.tool.spec.name, str(e.arguments)) for e in self.world.live}
        blocked: dict[tuple[str, Any], bool] = {}
        in_talk = {(e.run.principal.name, e.arguments["talk"]) for e in self.talking()}
        for sent in self.sent:
            request, caller = sent.request, sent.caller
            work = (request.name, str(request.arguments))
            talk = (caller.principal.name, request.arguments.get("talk"))
            if not sent.is_waiting or work in running or talk in in_talk:
                continue
            tool = self.world.tools.require_tool(request.name, caller.principal)
            scope = getattr(tool, "scope", None)
            session = f"session:{caller.session_id}"
            needed = ["global", session, *([scope] if scope else [])]
            is_blocked = any(free.get(each, 1) == 0 for each in needed)
            if talk[1] is None:
                assert is_blocked, (sent.request, free)
            else:  # its turns come in order, whatever the next one waits for
                blocked[talk] = blocked.get(talk, False) or is_blocked
        assert all(blocked.values())

    @invariant()
    def each_request_is_answered_once_and_in_order(self) -> None:
        for sent in self.sent:
            assert len(sent.answers) <= sent.may_be_answered
            assert not sent.caller.out_of_order
            first = next((a.outcome for a in sent.answers if not is_about_the_id(a)), None)
            for answer in sent.answers:
                assert is_about_the_id(answer) or not answer.meta or answer.outcome == first
            if self.is_idle and not sent.answers:
                assert sent.request_id in sent.caller.acks

    @invariant()
    def nothing_crosses_identities_and_reads_see_writes(self) -> None:
        led_by = {
            ack.call_id: caller
            for caller in {sent.caller for sent in self.sent}
            for acks in caller.acks.values()
            for ack in acks
        }
        for sent in self.sent:
            for answer in sent.answers[:1]:
                if isinstance(answer.outcome, Completed):
                    self.check_source(sent, self.execution_behind(answer), led_by)

    def execution_behind(self, answer: CallAnswered) -> Execution:
        assert isinstance(answer.outcome, Completed)
        return self.world.executions[int(text_of(answer.outcome.outputs).split()[-1])]

    def check_source(self, sent: Sent, source: Execution, led_by: dict[str, Caller]) -> None:
        name, share = sent.request.name, SHARED_WITHIN.get(sent.request.name, "none")
        assert source.tool.spec.name == name
        assert source.arguments == sent.request.arguments
        if share != "all":
            assert source.run.principal == sent.caller.principal
        leader = led_by.get(source.run.call_id)
        if share == "session" and leader is not None:
            assert leader is sent.caller
        if name.startswith("read"):
            for write in self.world.executions:
                if write.tool.spec.name == "write":
                    for outdated in (write.began, write.ended):
                        if outdated is not None and outdated < sent.turn:
                            assert source.began > outdated

    @invariant()
    def equal_work_runs_once_at_a_time(self) -> None:
        running = Counter(
            (e.tool.spec.name, str(e.arguments), e.run.principal.name)
            for e in self.world.live
            if e.tool.spec.name in {"pure", "one"} and not e.is_cancelled
        )
        for (name, arguments, _), count in running.items():
            assert count == 1 or (name, arguments) in self.refreshed
        for key in ("k1", "k2", "t1", "t2"):
            keyed = Counter(
                e.run.principal.name for e in self.world.executions if e.arguments.get("key") == key
            )
            assert all(count == 1 for count in keyed.values())

    @invariant()
    def deltas_fit_together(self) -> None:
        for sent in self.sent:
            texts: dict[int, str] = {}
            for told in sent.caller.progress.get(sent.request_id, []):
                if told.delta is not None:
                    assert told.offset == len(texts.get(told.attempt, ""))
                    texts[told.attempt] = texts.get(told.attempt, "") + told.delta
            outcome = sent.answers[0].outcome if sent.answers else None
            if texts and isinstance(outcome, Completed):
                assert text_of(outcome.outputs).startswith(texts[max(texts)])

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        for _ in range(400):
            self.step(None)
            if not self.world.live and not any(sent.is_waiting for sent in self.sent):
                break
            for execution in list(self.world.live):
                self.let_go(execution, "finish")
        for caller in self.callers.values():
            self.world.end_session(caller)
        assert all(sent.answers for sent in self.sent)
        now = self.world.path.admission.statistics()
        assert {pool.in_use for pool in now.pools} == {0}
        assert now.session_pools == []
        assert set(now.waiting_count.values()) == {0}
        assert now.conversation_count == 0
        assert len(self.world.path.sharing) == 0
        assert all(isinstance(defect, ZeroDivisionError) for defect in self.world.defects)
        self.world.close()


def is_about_the_id(answer: CallAnswered) -> bool:
    """Tell whether an answer says only that it cannot be the request's own."""
    return isinstance(answer.outcome, Failed) and answer.outcome.error.code in {
        ErrorCode.REQUEST_ID_CONFLICT,
        ErrorCode.RESULT_UNKNOWN,
        ErrorCode.OVER_CAPACITY,
    }


LONG = bool(os.environ.get("EXAI_LONG"))
# A failure is shown as it was found: shrinking one takes longer than a test may.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)


TestCallPath = CallPathMachine.TestCase
TestCallPath.settings = settings(
    max_examples=1200 if LONG else 60, stateful_step_count=50, phases=PHASES
)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900 if LONG else 60)]
