"""What was accepted is answered, whatever became of the daemon in between."""

import asyncio
import json
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from exai.testing.scripted_provider import ScriptedProvider, answers
from tests.cli.exai_process import Shell, ended
from tests.cli.exai_process import serving as serving_process
from tests.journeys.wire import Frame, Wire, open_wire
from tests.processes.process_tree import until
from tests.upstream.running_server import SCRIPTED

pytestmark = pytest.mark.slow

TOKEN = "token-of-the-restarts-0123456789"
SERVER = Path(__file__).parent / "servers" / "remembering.py"


class House:
    """A place where one daemon after the other lives."""

    def __init__(self, home: Path) -> None:
        self.shell = Shell(home)
        self.record = home / "record"
        self.gate = home / "gate"
        self.record.touch()
        self.session: Frame = {}
        self.shell.environ |= {
            "EXAI_WS_TOKEN": TOKEN,
            "EXAI_LOCAL_ENABLED": "false",
            "EXAI_SERVER_DRAIN_S": "0.2",
            "EXAI_WS_CLOSE_TIMEOUT": "0.2",
            "EXAI_MCP_CONFIG": str(home / "mcp.json"),
        }
        self.servers = home / "mcp.json"
        self.set_servers(box={})

    def set_servers(self, **exai: dict[str, Any]) -> None:
        arguments = ["-I", "-S", str(SERVER), str(self.record)]
        servers = {
            name: {"command": sys.executable, "args": arguments, "exai": settings}
            for name, settings in exai.items()
        }
        self.servers.write_text(json.dumps({"mcpServers": servers}))

    def name_provider(self, provider: ScriptedProvider) -> None:
        config = self.shell.home / "exai.toml"
        config.write_text(
            f'[providers.scripted]\nbase_url = "{provider.base_url}"\nmodels = ["m"]\n'
        )
        self.shell.environ["EXAI_CONFIG"] = str(config)

    def hold_back_server(self, name: str) -> None:
        """Have a server start only once `let_server_start` says so."""
        path = Path(self.shell.environ["EXAI_MCP_CONFIG"])
        servers = json.loads(path.read_text())["mcpServers"]
        directly = [servers[name]["command"], *servers[name]["args"]]
        os.mkfifo(self.gate)
        servers[name] |= {
            "command": "/bin/sh",
            "args": ["-c", 'read go < "$0"; exec "$@"', str(self.gate), *directly],
        }
        path.write_text(json.dumps({"mcpServers": servers}))

    def have_server_die(self, name: str) -> None:
        """Have a server end whenever it is started."""
        path = Path(self.shell.environ["EXAI_MCP_CONFIG"])
        path.write_text(json.dumps({"mcpServers": {name: {"command": "/bin/false"}}}))

    def let_server_start(self) -> None:
        self.gate.write_text("go\n")

    @asynccontextmanager
    async def daemon(self, *options: str) -> AsyncIterator[tuple[Process, str]]:
        async with serving_process(self.shell, *options) as (process, ready):
            yield process, ready[1]

    @asynccontextmanager
    async def session_with(self, url: str, *, fresh: bool = False) -> AsyncIterator[Wire]:
        """Open a connection to the one session, which outlives it, and the daemon."""
        resume = None
        if self.session and not fresh:
            resume = {key: self.session[key] for key in ("session_id", "resume_token")}
        async with open_wire(url, greet=False, says_bye=False) as wire:
            ack = await wire.hello(token=TOKEN, acks=True, resume=resume)
            if not fresh:
                assert ack["resumed"] is (resume is not None)
                self.session = ack
            yield wire

    def executions(self, what: str) -> int:
        return self.record.read_text().splitlines().count(f"begun {what}")

    async def until_begun(self, what: str, count: int = 1) -> None:
        await until(lambda: self.executions(what) >= count)

    async def until_offered(self, wire: Wire, tool: str) -> None:
        while tool not in [
            each["name"] for each in (await wire.ask("list_tools", "list_tools_res"))["tools"]
        ]:
            await wire.hear_op("tools_changed")


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


async def kill(process: Process) -> None:
    process.kill()
    await process.wait()


async def test_an_idempotent_call_that_ran_runs_again_once(house: House) -> None:
    async with house.daemon() as (process, url), house.session_with(url) as wire:
        await house.until_offered(wire, "box__again")
        await wire.begin("box__again", arguments={"what": "a"})
        await house.until_begun("a")
        await kill(process)
    async with house.daemon() as (_, url), house.session_with(url) as wire:
        assert house.session["pending"] == ["r1"]
        answer = await wire.result()
        assert (answer["ok"], answer["text"]) == (True, "a 2")
        assert answer["meta"]["attempts"] == 2
        again = await wire.call("box__again", arguments={"what": "a"})
        assert (again["text"], again["meta"]["replayed"]) == ("a 2", True)
    assert house.executions("a") == 2


async def test_a_second_crash_while_it_runs_again_settles_it(house: House) -> None:
    house.record.write_text("begun other\n")
    async with house.daemon() as (process, url), house.session_with(url) as wire:
        await house.until_offered(wire, "box__again")
        await wire.begin("box__again", arguments={"what": "a"})
        await house.until_begun("a")
        await kill(process)
    house.record.write_text("")  # so that the second execution does not answer either
    async with house.daemon() as (process, url):
        await house.until_begun("a")
        await kill(process)
    async with house.daemon() as (_, url), house.session_with(url) as wire:
        error = (await wire.result())["error"]
        assert (error["code"], error["retryable"]) == ("INTERRUPTED", True)
        assert house.executions("a") == 1


async def test_a_call_that_may_not_be_repeated_is_interrupted(house: House) -> None:
    async with house.daemon() as (process, url), house.session_with(url) as wire:
        await house.until_offered(wire, "box__once")
        await wire.begin("box__once", arguments={"what": "o"}, idempotency_key="k")
        await house.until_begun("o")
        await kill(process)
    async with house.daemon() as (_, url), house.session_with(url) as wire:
        error = (await wire.result())["error"]
        assert (error["code"], error["retryable"]) == ("INTERRUPTED", False)
        assert error["details"] == {"may_have_run": True}
        async with house.session_with(url, fresh=True) as other:
            arguments = {"what": "o"}
            same = await other.call("box__once", arguments=arguments, idempotency_key="k")
            assert same["error"] == error
    assert house.executions("o") == 1


async def test_what_waited_runs_and_what_came_first_comes_first(house: House) -> None:
    house.set_servers(box={"max_inflight": 1})
    async with house.daemon() as (process, url), house.session_with(url) as wire:
        await house.until_offered(wire, "box__once")
        await wire.begin("box__once", "first", arguments={"what": "f"})
        await house.until_begun("f")
        for n in range(3):
            await wire.begin("box__now", f"r{n}", arguments={"what": f"w{n}"})
        await kill(process)
    async with house.daemon() as (_, url), house.session_with(url) as wire:
        assert house.session["pending"] == ["first", "r0", "r1", "r2"]
        assert (await wire.result("first"))["error"]["code"] == "INTERRUPTED"
        for n in range(3):
            answer = await wire.result(f"r{n}")
            assert (answer["text"], answer["meta"]["attempts"]) == (f"w{n} 1", 1)
    assert house.record.read_text().split("\n")[1:4] == ["begun w0", "begun w1", "begun w2"]


async def test_a_call_and_its_followers_run_again_together(house: House) -> None:
    async with house.daemon() as (process, url), house.session_with(url) as wire:
        await house.until_offered(wire, "box__again")
        for request_id in ("r1", "r2"):
            arguments = {"what": "a"}
            await wire.begin("box__again", request_id, arguments=arguments, idempotency_key="k")
        await house.until_begun("a")
        await kill(process)
    async with house.daemon() as (_, url), house.session_with(url) as wire:
        answers_ = [await wire.result(request_id) for request_id in ("r1", "r2")]
    assert [answer["text"] for answer in answers_] == ["a 2", "a 2"]
    assert [answer["meta"]["joined"] for answer in answers_] == [False, True]


async def test_a_deadline_that_passes_while_the_daemon_is_down_is_a_time_out(house: House) -> None:
    house.set_servers(box={"max_inflight": 1})
    async with house.daemon() as (process, url), house.session_with(url) as wire:
        await house.until_offered(wire, "box__once")
        accepted_at = time.monotonic()
        await wire.begin("box__once", "runs", arguments={"what": "o"}, timeout_s=1.0)
        await house.until_begun("o")
        await wire.begin("box__now", "waits", arguments={"what": "w"}, timeout_s=1.0)
        await kill(process)
    await until(lambda: time.monotonic() - accepted_at > 1.0)
    async with house.daemon() as (_, url), house.session_with(url) as wire:
        runs, waits = [(await wire.result(each))["error"] for each in ("runs", "waits")]
    assert (runs["code"], runs["details"]["phase"]) == ("TIMEOUT", "run")
    assert (runs["retryable"], runs["details"]["may_have_run"]) == (False, True)
    assert (waits["code"], waits["details"]["phase"]) == ("TIMEOUT", "queue")
    assert waits["retryable"] is True
    assert house.executions("w") == 0


async def test_results_tombstones_and_keys_outlive_the_daemon(house: House) -> None:
    echo = {"text": "kept"}
    async with house.daemon() as (process, url), house.session_with(url) as wire:
        told = await wire.call("echo", "kept", arguments=echo, idempotency_key="k")
        await wire.call("echo", "acked", arguments={"text": "x"})
        await wire.say("ack", request_ids=["acked"])
        await wire.call("echo", "later", arguments={"text": "x"})
        await kill(process)
    async with house.daemon() as (_, url), house.session_with(url) as wire:
        assert house.session["pending"] == ["kept", "later"]
        replayed = await wire.result("kept")
        assert replayed.pop("meta") == told.pop("meta") | {"replayed": True}
        assert replayed == told
        gone = await wire.call("echo", "acked", arguments={"text": "x"})
        assert gone["error"]["details"] == {"reason": "acknowledged", "ok": True}
        conflict = await wire.call("echo", "kept", arguments={"text": "other"})
        assert conflict["error"]["code"] == "REQUEST_ID_CONFLICT"
        async with house.session_with(url, fresh=True) as other:
            same = await other.call("echo", arguments=echo, idempotency_key="k")
            assert (same["text"], same["meta"]["replayed"]) == ("kept", True)


async def test_a_wrong_resume_token_is_no_better_after_a_restart(house: House) -> None:
    async with house.daemon() as (process, url), house.session_with(url) as wire:
        await wire.call("echo", arguments={"text": "x"})
        await kill(process)
    resume = {"session_id": house.session["session_id"], "resume_token": "0" * 22}
    async with house.daemon() as (_, url), open_wire(url, greet=False) as wire:
        ack = await wire.hello(token=TOKEN, resume=resume)
        assert (ack["resumed"], ack["resume_error"]) == (False, "unknown_session")
        state = b"".join(path.read_bytes() for path in house.shell.home.rglob("ledger.*"))
        assert house.session["resume_token"].encode() not in state


async def test_what_said_goodbye_does_not_come_back(house: House) -> None:
    house.set_servers(box={"max_inflight": 1})
    async with house.daemon() as (process, url):
        async with house.session_with(url) as wire:
            await house.until_offered(wire, "box__once")
            await wire.begin("box__once", arguments={"what": "o"})
            await house.until_begun("o")
            await wire.begin("box__now", "r2", arguments={"what": "w"})
            await wire.say("bye")
            await wire.closed()
        await kill(process)
    async with house.daemon() as (_, url), open_wire(url, token=TOKEN) as other:
        resume = {key: house.session[key] for key in ("session_id", "resume_token")}
        async with open_wire(url, greet=False) as wire:
            assert not (await wire.hello(token=TOKEN, resume=resume))["resumed"]
        await house.until_offered(other, "box__now")
        await other.call("box__now", arguments={"what": "end"})
    assert house.executions("w") == 0


async def test_a_tool_that_is_gone_is_told_and_one_that_may_come_is_waited_for(
    house: House,
) -> None:
    house.set_servers(box={"max_inflight": 1}, old={"max_inflight": 1})
    async with house.daemon() as (process, url), house.session_with(url) as wire:
        for name in ("box", "old"):
            await house.until_offered(wire, f"{name}__once")
            await wire.begin(f"{name}__once", f"{name}0", arguments={"what": name})
            await house.until_begun(name)
            await wire.begin(f"{name}__now", name, arguments={"what": f"{name}-waits"})
        await kill(process)
    house.set_servers(box={"max_inflight": 1})
    async with house.daemon() as (_, url), house.session_with(url) as wire:
        assert (await wire.result("old"))["error"]["code"] == "TOOL_NOT_FOUND"
        assert (await wire.result("box"))["text"] == "box-waits 1"


async def test_a_stopped_daemon_leaves_to_the_next_what_it_did_not_begin_or_may_repeat(
    house: House,
) -> None:
    house.set_servers(box={"max_inflight": 2})
    house.shell.environ["EXAI_SERVER_DRAIN_S"] = "1"
    async with house.daemon() as (process, url), house.session_with(url) as wire:
        await house.until_offered(wire, "box__once")
        await wire.begin("box__once", "once", arguments={"what": "o"})
        await wire.begin("box__again", "again", arguments={"what": "a"})
        await house.until_begun("a")
        await wire.begin("box__now", "waits", arguments={"what": "w"}, idempotency_key="k")
        process.send_signal(signal.SIGTERM)
        await wire.hear_op("going_away")
        await wire.say("get_result", request_id="waits")
        message = "waiting for the daemon's restart"
        await wire.hear_op("progress", request_id="waits", message=message)
        joined = await wire.ask(
            "call_tool",
            "call_tool_ack",
            name="box__now",
            request_id="waits",
            arguments={"what": "w"},
        )
        assert joined["joined"] is True
        same = {"arguments": {"what": "w"}, "idempotency_key": "k"}
        refused = await wire.call("box__now", "other", **same)
        assert refused["error"]["code"] == "SERVICE_UNAVAILABLE"
        assert (await wire.result("once"))["error"]["code"] == "INTERRUPTED"
        assert await wire.closed() == (1012, "service restart")
        assert (await ended(process)).status == 0
    async with house.daemon() as (_, url), house.session_with(url) as wire:
        assert house.session["pending"] == ["once", "again", "waits"]
        assert (await wire.result("again"))["text"] == "a 2"
        assert (await wire.result("waits"))["text"] == "w 1"
        assert (await wire.result("once"))["meta"]["replayed"] is True


async def test_what_waits_for_its_server_does_not_keep_the_daemon_and_waits_on_in_the_next(
    house: House,
) -> None:
    house.set_servers(box={"max_inflight": 1})
    async with house.daemon() as (process, url), house.session_with(url) as wire:
        await house.until_offered(wire, "box__once")
        await wire.begin("box__once", arguments={"what": "o"}, idempotency_key="o")
        await house.until_begun("o")
        await wire.begin("box__now", "w1", arguments={"what": "w"}, idempotency_key="w")
        await kill(process)
    mute = {"command": sys.executable, "args": ["-I", "-S", str(SCRIPTED), "--mute"]}
    house.servers.write_text(json.dumps({"mcpServers": {"box": mute}}))
    async with house.daemon() as (process, url), house.session_with(url) as wire:
        assert (await wire.result("r1"))["error"]["code"] == "INTERRUPTED"
        same = {"arguments": {"what": "w"}, "idempotency_key": "w"}
        await wire.say("call_tool", name="box__now", request_id="w2", **same)
        await wire.ask("health", "health_res")
        process.send_signal(signal.SIGTERM)
        assert (await wire.result("w2"))["error"]["code"] == "SERVICE_UNAVAILABLE"
        assert (await ended(process)).status == 0
    house.set_servers(box={})
    async with house.daemon() as (_, url), house.session_with(url) as wire:
        assert house.session["pending"] == ["r1", "w1"]
        assert (await wire.result("w1"))["text"] == "w 1"


async def test_text_that_was_streamed_is_void_where_the_call_runs_again(house: House) -> None:
    async with ScriptedProvider() as provider:
        house.name_provider(provider)
        provider.script(answers("half of it", asyncio.Event()))
        async with house.daemon() as (process, url), house.session_with(url) as wire:
            await wire.begin("chat", arguments={"prompt": "hello", "model": "m"})
            await wire.hear_op("progress", delta="half of it", offset=0, attempt=1)
            await kill(process)
        may_answer = asyncio.Event()
        provider.script(answers(may_answer, "all of it"))
        async with house.daemon() as (_, url), house.session_with(url) as wire:
            await wire.hear_op("progress", delta="", offset=0, attempt=2)
            may_answer.set()
            answer = await wire.result()
            assert (answer["text"], answer["meta"]["attempts"]) == ("all of it", 2)


async def test_who_calls_a_server_that_does_not_start_may_try_again(house: House) -> None:
    house.have_server_die("box")
    async with house.daemon() as (_, url), house.session_with(url) as wire:
        error = (await wire.call("box__now", arguments={"what": "w"}))["error"]
        assert (error["code"], error["retryable"]) == ("UPSTREAM_ERROR", True)
        error = (await wire.call("bag__now", arguments={"what": "w"}))["error"]
        assert error["code"] == "TOOL_NOT_FOUND"


async def test_who_comes_before_a_server_is_up_waits_for_it(house: House) -> None:
    house.hold_back_server("box")
    async with house.daemon() as (_, url), house.session_with(url) as wire:
        await wire.say("call_tool", name="box__now", request_id="r1", arguments={"what": "w"})
        await wire.ask("health", "health_res")
        house.let_server_start()
        assert (await wire.result())["text"] == "w 1"


async def test_a_request_joins_by_its_key_what_waits_for_its_server(house: House) -> None:
    fields: Frame = {"arguments": {"what": "a"}, "idempotency_key": "k"}
    async with house.daemon() as (process, url), house.session_with(url) as wire:
        await house.until_offered(wire, "box__again")
        await wire.begin("box__again", **fields)
        await house.until_begun("a")
        await kill(process)
    house.hold_back_server("box")
    async with house.daemon() as (_, url), house.session_with(url) as wire:
        await wire.say("call_tool", name="box__again", request_id="r2", **fields)
        await wire.ask("health", "health_res")
        house.let_server_start()
        assert [(await wire.result(name))["text"] for name in ("r1", "r2")] == ["a 2", "a 2"]
    assert house.executions("a") == 2


async def test_a_stopping_daemon_takes_no_request_by_a_key_that_it_leaves_to_the_next(
    house: House,
) -> None:
    house.set_servers(box={"max_inflight": 1})
    house.shell.environ["EXAI_SERVER_DRAIN_S"] = "5"
    fields: Frame = {"arguments": {"what": "w"}, "idempotency_key": "k"}
    async with house.daemon() as (process, url), house.session_with(url) as wire:
        await house.until_offered(wire, "box__once")
        await wire.begin("box__once", "runs", arguments={"what": "o"})
        await house.until_begun("o")
        await wire.begin("box__now", "waits", **fields)
        process.send_signal(signal.SIGTERM)
        await wire.hear_op("going_away")
        await wire.say("call_tool", name="box__now", request_id="same", **fields)
        refusal = await wire.hear_op("call_tool_res", request_id="same")
        assert (refusal["error"]["code"], "meta" in refusal) == ("SERVICE_UNAVAILABLE", False)
        await kill(process)
    async with house.daemon() as (_, url), house.session_with(url) as wire:
        assert house.session["pending"] == ["runs", "waits"]
        assert (await wire.call("box__now", "same", **fields))["text"] == "w 1"
    assert house.executions("w") == 1


async def test_a_conversation_goes_on_after_a_crash(house: House) -> None:
    async with ScriptedProvider() as provider:
        house.name_provider(provider)
        provider.script(answers("blue"))
        async with house.daemon() as (process, url), house.session_with(url) as wire:
            told = await wire.call("chat", arguments={"prompt": "colour?", "model": "m"})
            conversation = told["structured"]["continuation_id"]
            await kill(process)
        provider.script(answers("still blue"))
        async with house.daemon() as (_, url), house.session_with(url) as wire:
            more = {"prompt": "sure?", "continuation_id": conversation}
            answer = await wire.call("chat", "r2", arguments=more)
            assert answer["text"] == "still blue"
            assert answer["structured"]["turns_told"] == 1


async def test_the_store_in_memory_forgets_and_says_so(house: House) -> None:
    async with house.daemon("--store", "memory") as (process, url):
        async with house.session_with(url) as wire:
            assert house.session["durable"] is False
            await wire.call("echo", arguments={"text": "x"})
        await kill(process)
    assert not list(house.shell.home.rglob("ledger.*"))
    async with house.daemon("--store", "memory") as (_, url), open_wire(url, greet=False) as wire:
        resume = {key: house.session[key] for key in ("session_id", "resume_token")}
        assert not (await wire.hello(token=TOKEN, resume=resume))["resumed"]


async def test_a_session_of_nobody_ends(house: House) -> None:
    async with house.daemon() as (process, url), house.session_with(url) as wire:
        await house.until_offered(wire, "box__once")
        await wire.begin("box__once", arguments={"what": "o"})
        await house.until_begun("o")
        await kill(process)
    config = house.shell.home / "exai.toml"
    config.write_text('[principals.other]\ntoken = "env:OTHER"\n')
    house.shell.environ |= {"EXAI_CONFIG": str(config), "OTHER": TOKEN}
    del house.shell.environ["EXAI_WS_TOKEN"]
    async with house.daemon() as (_, url), open_wire(url, greet=False) as wire:
        resume = {key: house.session[key] for key in ("session_id", "resume_token")}
        assert not (await wire.hello(token=TOKEN, resume=resume))["resumed"]
        health = (await wire.ask("health", "health_res"))["health"]
        assert health["sessions"] == 1
