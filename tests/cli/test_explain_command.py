"""`exai explain`, a process of its own, against a daemon that knows, and others that do not."""

import json
import re
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest

from exai.cli.call_story import story
from exai.cli.exit_codes import ExitCode
from exai.core.config import LimitsConfig, PrincipalConfig, Secret
from exai.core.explanation import CallStage, ExplainedCall, Explanation
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from exai.testing.scripted_tool import Gates, ScriptedTool
from tests.cli.exai_process import Ended, Shell, serving
from tests.cli.test_status_command import answering, http
from tests.journeys.wire import open_wire

__all__ = ["answering"]  # a fixture
OTHER_TOKEN = "token-of-somebody-else-01234"
MOMENT = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d, [\d.]+ m?s ago"


@pytest.fixture
def shell(home: Path) -> Shell:
    return Shell(home)


async def explain(shell: Shell, daemon: RunningDaemon, *arguments: str) -> Ended:
    shell.environ.setdefault("EXAI_WS_TOKEN", TOKEN)
    return await shell.run("explain", "--url", daemon.address.http_url, *arguments)


async def test_what_became_of_a_call_is_told_to_people_and_to_programs(shell: Shell) -> None:
    async with serving(shell) as (_, ready):
        token = (shell.home / ".local/state/exai/token").read_text().strip()
        async with open_wire(ready[1], token=token, says_bye=False) as wire:
            answer = await wire.call("echo", "req-7", arguments={"text": "in confidence"})
        for_people = await shell.run("explain", "req-7")
        for_programs = await shell.run("explain", answer["meta"]["call_id"], "-o", "json")
    assert (for_people.status, for_people.err) == (ExitCode.OK, "")
    assert "in confidence" not in for_people.out + for_programs.out
    first, *facts = for_people.out.splitlines()
    assert first == "req-7 succeeded"
    told = dict(re.split(r"  +", fact.strip(), maxsplit=1) for fact in facts)
    assert told["call"].startswith(f"{answer['meta']['call_id']} of session ")
    assert told["tool"] == "echo of exai"
    assert re.fullmatch(f"{MOMENT}, for at most 3 min", told["accepted"])
    assert re.fullmatch(r"\d+ ms", told["waited"])
    assert re.fullmatch(r"for \d+ ms, in the daemon's process \w+ \(this one\)", told["executed"])
    assert re.fullmatch(f"{MOMENT}: ok", told["settled"])
    assert told["result"].endswith("bytes, kept until it is acknowledged or expires")
    assert (for_programs.status, for_programs.out.count("\n")) == (ExitCode.OK, 1)
    (call,) = json.loads(for_programs.out)["calls"]
    assert (call["request_id"], call["state"]) == ("req-7", "settled")


async def test_what_waits_and_what_runs_says_so(shell: Shell, tmp_path: Path) -> None:
    gates = Gates()
    config = daemon_config(tmp_path / "state", limits=LimitsConfig(global_max_inflight=1))
    async with (
        running_daemon(config, [ScriptedTool("gate", gates)]) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        await wire.begin("gate", "r1")
        await gates.until_inside("g")
        await wire.begin("gate", "r2")
        runs, waits = await explain(shell, daemon, "r1"), await explain(shell, daemon, "r2")
        gates.open()
    assert runs.out.startswith("r1 runs\n")
    assert " so far, in the daemon's process " in runs.out
    assert waits.out.startswith("r2 waits\n")
    assert "place 1 in this session's line" in waits.out


async def test_an_unknown_call_and_anothers_are_answered_alike(
    shell: Shell, tmp_path: Path
) -> None:
    (shell.home / "exai.toml").write_text(
        f'[principals.a]\ntoken = "{TOKEN}"\n[principals.b]\ntoken = "{OTHER_TOKEN}"\n'
    )
    (shell.home / "exai.toml").chmod(0o600)
    principals = {
        "a": PrincipalConfig(token=Secret(TOKEN)),
        "b": PrincipalConfig(token=Secret(OTHER_TOKEN)),
    }
    async with (
        running_daemon(daemon_config(tmp_path / "state", principals=principals)) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        call_id = (await wire.call("echo", "mine", arguments={"text": "x"}))["meta"]["call_id"]
        options = ("--url", daemon.address.http_url, "--config", "exai.toml", "--as")
        own, anothers, anothers_id, nobodys = [
            await shell.run("explain", name, *options, who)
            for name, who in (("mine", "a"), ("mine", "b"), (call_id, "b"), ("none", "b"))
        ]
    assert own.status == ExitCode.OK
    assert (nobodys.status, nobodys.out) == (ExitCode.UNKNOWN, "")
    assert "nothing is known of none under this identity" in nobodys.err
    assert anothers == Ended(nobodys.status, "", nobodys.err.replace("none", "mine"))
    assert anothers_id == Ended(nobodys.status, "", nobodys.err.replace("none", call_id))


async def test_a_wrong_token_and_none_are_told(shell: Shell, tmp_path: Path) -> None:
    async with running_daemon(daemon_config(tmp_path / "state")) as daemon:
        none = await shell.run("explain", "r1", "--url", daemon.address.http_url)
        shell.environ["EXAI_WS_TOKEN"] = "a-token-of-somebody-else"
        wrong = await explain(shell, daemon, "r1")
    assert (none.status, none.out) == (ExitCode.UNAUTHORIZED, "")
    assert "no token: none in" in none.err
    assert (wrong.status, wrong.out) == (ExitCode.UNAUTHORIZED, "")
    assert "refused the token (EXAI_WS_TOKEN)" in wrong.err


@pytest.mark.parametrize("name", ["", "a b", "é", "x" * 129, "\x1b[2J"])
async def test_what_is_no_id_is_refused_before_anybody_is_asked(shell: Shell, name: str) -> None:
    end = await shell.run("explain", "--", name)
    assert (end.status, end.out) == (ExitCode.USAGE, "")
    assert "1 to 128 printable ASCII characters" in end.err


async def test_without_a_daemon_it_is_said_what_to_do(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
    end = await shell.run("explain", "r1", "--url", url)
    assert (end.status, end.out) == (ExitCode.CANNOT_CONNECT, "")
    assert "exai serve" in end.err


async def test_a_wrong_address_or_configuration_is_refused(shell: Shell) -> None:
    address = await shell.run("explain", "r1", "--url", "ws://127.0.0.1:8079/")
    assert (address.status, address.out) == (ExitCode.USAGE, "")
    assert "--url: expected an http://" in address.err
    (shell.home / "exai.toml").write_text("[server]\nprot = 1\n")
    config = await shell.run("explain", "r1", "--config", "exai.toml")
    assert (config.status, config.out) == (ExitCode.USAGE, "")


@pytest.mark.parametrize(
    ("answering", "word"),
    [
        (http(b'{"error":"Not Found"}', b"404 Not Found"), "answers with status 404"),
        (http(b'{"error":"the ledger is closed"}', b"503 X"), "the ledger is closed"),
        (http(b"<html>"), "explains nothing"),
        (http(b'{"id":5}'), "explains nothing"),
    ],
    indirect=["answering"],
)
async def test_whatever_answers_is_told_in_a_sentence(
    shell: Shell, answering: str, word: str
) -> None:
    end = await shell.run("explain", "r1", "--url", answering)
    assert (end.status, end.out) == (ExitCode.CANNOT_CONNECT, "")
    assert word in end.err
    assert "Traceback" not in end.err


def told(more_count: int = 0, **facts: Any) -> str:
    call = ExplainedCall(
        call_id="c1",
        request_id="r1",
        session_id=None,
        tool="chat",
        state=CallStage.SETTLED,
        idempotent=True,
        joined=False,
        cached=False,
        accepted_at=1000.0,
        timeout_s=60.0,
        is_under_way=False,
    )
    call = msgspec.structs.replace(call, **facts)
    explanation = Explanation(id="r1", t=9000.0, boot_id="b2", calls=[call], more_count=more_count)
    return "".join(story(explanation))


def test_each_end_of_a_call_is_told_in_words() -> None:
    assert told(state=CallStage.ARRIVING, is_under_way=True).startswith("r1 arrives")
    assert "r1 is left to the daemon's next start\n" in told(state=CallStage.RUNNING)
    interrupted = told(code="INTERRUPTED", attempts=2, boot_id="b1", settled_at=1800.0)
    assert interrupted.startswith("r1 failed: INTERRUPTED\n")
    assert "in attempt 2, in the daemon's process b1 (an earlier one)" in interrupted
    assert ", 2 h ago: INTERRUPTED" in interrupted
    assert "executed  never" in told(code="TIMEOUT")
    erased = told(state=CallStage.ERASED, erased_at=8990.0, erased_because="acknowledged")
    assert re.search(r"acknowledged  .*, 10.0 s ago: the result is gone", erased)


def test_whose_work_answered_a_call_is_told_in_words() -> None:
    assert "tool      chat of kimi, model k2\n" in told(provider="kimi", model="k2")
    assert "joined the work of an equal call" in told(joined=True)
    cached = told(cached=True, code="ok")
    assert "served from the result cache" in cached
    assert "executed  not by itself" in cached
    assert "follows   call c0, the same request by its key" in told(follows="c0")
    assert re.search("sent .*, or before", told(sent_at=8999.0))


def test_calls_stand_apart_and_older_ones_are_counted() -> None:
    assert told(more_count=3).endswith("\n\nand 3 older ones\n")
