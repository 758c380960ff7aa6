"""The chaos of the bench brings what it promises, and its checker finds what must not be."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bench.chaos.checker import findings_in
from bench.chaos.figures import figures_of
from bench.chaos.plan import plan_clients, plan_deaths
from bench.chaos.profile import PROFILES
from bench.chaos.record import (
    Answer,
    CallHistory,
    DatabaseState,
    Death,
    Execution,
    Record,
)
from bench.chaos.results import read_chaos
from bench.chaos.story import story_of

ROOT = Path(__file__).parent.parent
PATIENCE_S = 55
EXECUTION = "0123456789abcdef"


def test_the_seed_decides_every_choice() -> None:
    profile = PROFILES["kill"]
    for plan in (plan_deaths, lambda *args: plan_clients(*args, mean=True)):
        assert plan(profile, 7) == plan(profile, 7) != plan(profile, 8)
    assert sum(death.target == "daemon" for death in plan_deaths(profile, 7)) == profile.deaths


def answer(**changes: object) -> Answer:
    text = f"{EXECUTION} r1 ".ljust(100, ".")
    plain = Answer(at=12.0, digest="d", outcome_digest="o", text=text, text_bytes=100)
    return msgspec.structs.replace(plain, **changes)


def failure(code: str, **changes: object) -> Answer:
    return answer(**{"code": code, "text": "", "text_bytes": 0, **changes})


def call(*answers: Answer, **changes: object) -> CallHistory:
    plain = CallHistory(
        request_id="r1",
        client="c",
        tag="r1",
        upstream="alpha",
        tool="append",
        idempotent=False,
        work_s=0.1,
        size_bytes=100,
        fails=False,
        sent_at=10.0,
        accepted_because="acked",
        answers=list(answers),
    )
    return msgspec.structs.replace(plain, **changes)


def executed(*ids: str) -> list[Execution]:
    return [Execution(each, "r1", "alpha", 11.0, 11.5) for each in ids or (EXECUTION,)]


def record(*calls: CallHistory, **changes: object) -> Record:
    database = DatabaseState(
        integrity=["ok"],
        unsettled=[],
        call_count=1,
        result_bytes=0,
        file_bytes=4096,
        odd={"two of one key": []},
        rows={"r1": ["state=erased"]},
    )
    plain = Record(
        profile="kill",
        seed=1,
        duration_s=1.0,
        calls=list(calls),
        executions=executed(),
        deaths=[],
        waits=[],
        lost_sessions=[],
        orphans=[],
        defects=[],
        database=database,
    )
    return msgspec.structs.replace(plain, **changes)


def kinds(found: Record) -> list[str]:
    return [finding.kind for finding in findings_in(found)]


KILL = Death("daemon", "kill", 11.2, 11.8)
TERM = Death("daemon", "term", 11.2, 11.8)


def test_a_run_without_a_fault_has_none() -> None:
    assert kinds(record(call(answer(), answer(at=13.0)))) == []
    interrupted = failure("INTERRUPTED")
    assert kinds(record(call(interrupted), deaths=[KILL])) == []
    twice = executed(EXECUTION, "fedcba9876543210")
    assert kinds(record(call(answer(), idempotent=True), executions=twice, deaths=[KILL])) == []
    assert kinds(record(call(is_given_up=True, accepted_because=""), executions=[])) == []
    refused = failure("SERVICE_UNAVAILABLE", at=11.5, refused=True)
    assert kinds(record(call(answer(), refusals=[refused]), deaths=[TERM])) == []


PLANTED: dict[str, tuple[str, Record]] = {
    "an answer that never came": ("lost", record(call())),
    "a call that was forgotten": ("lost", record(call(answer(), missing="not pending"))),
    "work done twice": (
        "executed_again",
        record(call(answer()), executions=executed(EXECUTION, "fedcba9876543210")),
    ),
    "repeatable work done three times": (
        "executed_thrice",
        record(call(answer(), idempotent=True), executions=executed(EXECUTION, "f" * 16, "e" * 16)),
    ),
    "another answer": ("changed", record(call(answer(), answer(digest="other")))),
    "two outcomes of one key": (
        "changed",
        record(
            call(answer(), key="k"),
            call(answer(outcome_digest="other"), key="k", request_id="r2"),
        ),
    ),
    "an empty success": ("empty", record(call(answer(text="", text_bytes=0)))),
    "an answer of nobody": ("wrong", record(call(answer(text="f" * 16 + " r1 ")))),
    "an answer that was cut": ("wrong", record(call(answer(text_bytes=99)))),
    "a failure told as a success": ("wrong", record(call(answer(), fails=True))),
    "an interruption without a crash": (
        "unexplained",
        record(call(failure("INTERRUPTED")), deaths=[TERM]),
    ),
    "repeatable work that one crash ends": (
        "unexplained",
        record(call(failure("INTERRUPTED"), idempotent=True), deaths=[KILL]),
    ),
    "a refusal of a daemon that serves": (
        "unexplained",
        record(call(answer(), refusals=[failure("SERVICE_UNAVAILABLE", refused=True)])),
    ),
    "a restart that the client library does not hide": (
        "unexplained",
        record(
            call(
                answer(),
                refusals=[failure("SERVICE_UNAVAILABLE", at=11.5, refused=True)],
                is_of_library=True,
            ),
            deaths=[TERM],
        ),
    ),
    "work that was begun, called safe to repeat": (
        "misled",
        record(call(failure("INTERRUPTED", retryable=True)), deaths=[KILL]),
    ),
    "an answer told unasked": ("unasked", record(call(answer(), unasked_count=1))),
    "work of a call that was not accepted": (
        "phantom",
        record(call(is_given_up=True, accepted_because="")),
    ),
    "a session lost": ("sessions", record(call(answer()), lost_sessions=["c"])),
    "a server left behind": ("orphans", record(call(answer()), orphans=[17])),
    "a defect in the log": ("defects", record(call(answer()), defects=["daemon.failed"])),
}


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_fault_is_found_and_told_with_its_history(what: str) -> None:
    kind, planted = PLANTED[what]
    found = findings_in(planted)
    assert {finding.kind for finding in found} == {kind}
    assert figures_of(planted, found).findings[kind] == len(found)
    assert f"FAULT {kind}" in "\n".join(story_of(planted, found))


@pytest.mark.parametrize(
    "change",
    [
        {"integrity": ["row 1 missing from index"]},
        {"unsettled": ["r1"]},
        {"odd": {"two of one key": ["r1"]}},
        {"result_bytes": 1},
        {"file_bytes": 10**9},
    ],
)
def test_a_fault_of_the_database_is_found(change: dict[str, object]) -> None:
    sound = record(call(answer()))
    sound.database = msgspec.structs.replace(sound.database, **change)
    assert kinds(sound) == ["database"]


@pytest.mark.slow
def test_a_small_run_is_without_a_fault_and_in_the_report(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.chaos", "--profile", "smoke", "--into", str(tmp_path)]
    told = subprocess.run(
        command, cwd=ROOT, check=False, timeout=PATIENCE_S, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stdout + told.stderr
    (run,) = read_chaos(tmp_path)
    assert run.figures.calls >= 60
    assert run.figures.deaths["daemon kill"] >= 2
    assert run.figures.executions > 0
    assert run.command in (tmp_path / "REPORT.md").read_text()
