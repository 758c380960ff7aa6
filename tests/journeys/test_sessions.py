"""Sessions outlive their connections: they come back, are taken over, and end in time."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from exai.core.config import LimitsConfig, PrincipalConfig, Secret, ServerConfig
from exai.core.events import SessionDetached, SessionEnded, SessionResumed
from exai.core.outcomes import Completed, text_block
from exai.core.tool import ToolRun
from exai.testing.raw_peer import raw_peer, said
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from exai.testing.scripted_tool import Gates, ScriptedTool
from tests.journeys.wire import Frame, Wire, open_wire

OTHER_TOKEN = "token-of-somebody-else-0123456789"
LIMITS = LimitsConfig(session_max_unacked=3, principal_max_detached_sessions=3)


class Teller:
    """Streams a word whenever a test asks for one."""

    def __init__(self) -> None:
        self.words: asyncio.Queue[str | None] = asyncio.Queue()
        self.told: asyncio.Queue[str] = asyncio.Queue()

    async def __call__(self, arguments: dict[str, Any], run: ToolRun) -> Completed:
        text = ""
        while (word := await self.words.get()) is not None:
            run.stream(word)
            text += word
            self.told.put_nowait(word)
        return Completed([text_block(text)])

    async def tell(self, word: str) -> None:
        self.words.put_nowait(word)
        assert await self.told.get() == word


@pytest.fixture
def gates() -> Gates:
    return Gates()


@pytest.fixture
def teller() -> Teller:
    return Teller()


@pytest.fixture
async def daemon(tmp_path: Path, gates: Gates, teller: Teller) -> AsyncIterator[RunningDaemon]:
    async def large(arguments: dict[str, Any], run: ToolRun) -> Completed:
        return Completed([text_block("x" * 1_000_000)])

    config = daemon_config(
        tmp_path,
        limits=LIMITS,
        server=ServerConfig(outbox_bytes=2_500_000),
        principals={
            "default": PrincipalConfig(token=Secret(TOKEN), max_connections=2),
            "other": PrincipalConfig(token=Secret(OTHER_TOKEN)),
        },
    )
    tools = [
        ScriptedTool("gate", gates),
        ScriptedTool("tell", teller),
        ScriptedTool("large", large),
    ]
    async with running_daemon(config, tools) as running:
        yield running
        gates.open()
        teller.words.put_nowait(None)


def key_of(ack: Frame) -> dict[str, str]:
    return {"session_id": ack["session_id"], "resume_token": ack["resume_token"]}


async def cut(daemon: RunningDaemon, wire: Wire) -> None:
    """Lose a connection, and wait until the daemon has noticed."""
    count = len(daemon.events.of(SessionDetached))
    wire.socket.transport.abort()
    await daemon.events.wait_for(SessionDetached, count + 1)


async def resumed(wire: Wire, key: dict[str, str], **fields: Any) -> Frame:
    return await wire.hello(**{"token": TOKEN, "resume": key, **fields})


async def test_a_call_goes_on_without_its_connection_and_its_answer_waits(
    daemon: RunningDaemon, gates: Gates
) -> None:
    async with open_wire(daemon.url, greet=False) as first:
        key = key_of(await first.hello(token=TOKEN, acks=True))
        await first.begin("gate", "settles", arguments={"gate": "a"})
        await first.begin("gate", "runs", arguments={"gate": "b"})
        await gates.until_inside("a", "b")
        await cut(daemon, first)
    gates.open("a")
    async with open_wire(daemon.url, greet=False) as second:
        ack = await resumed(second, key, acks=True)
        assert (ack["resumed"], "resume_error" in ack) == (True, False)
        assert key_of(ack) == key
        assert ack["pending"] == ["settles", "runs"]
        assert (await second.result("settles"))["text"] == "through a"
        gates.open("b")
        live = await second.result("runs")
        assert (live["text"], live["meta"]["replayed"]) == ("through b", False)
        await second.say("ack", request_ids=["settles", "runs"])
        await second.ask("health", "health_res")
        await cut(daemon, second)
    async with open_wire(daemon.url, greet=False) as third:
        assert (await resumed(third, key))["pending"] == []
    assert gates.runs == ["a", "b"]
    assert [event.owed_count for event in daemon.events.of(SessionResumed)] == [2, 0]


async def test_what_was_sent_and_not_acknowledged_is_sent_again(daemon: RunningDaemon) -> None:
    async with open_wire(daemon.url, greet=False) as first:
        key = key_of(await first.hello(token=TOKEN, acks=True))
        answer = await first.call("echo", "r1", arguments={"text": "once"})
        await cut(daemon, first)
    async with open_wire(daemon.url, greet=False) as second:
        await resumed(second, key, acks=True)
        again = await second.result("r1")
    assert again["meta"].pop("replayed") is True
    assert answer["meta"].pop("replayed") is False
    assert again == answer


async def test_a_newer_connection_takes_the_session_over(
    daemon: RunningDaemon, gates: Gates
) -> None:
    async with (
        open_wire(daemon.url, greet=False, says_bye=False) as old,
        open_wire(daemon.url, token=TOKEN),
        open_wire(daemon.url, greet=False) as new,
    ):
        key = key_of(await old.hello(token=TOKEN))
        await old.begin("gate", "r1")
        ack = await resumed(new, key)  # a third connection, where two are allowed
        assert (ack["resumed"], ack["pending"]) == (True, ["r1"])
        assert await old.closed() == (4004, "session taken over")
        gates.open()
        assert (await new.result("r1"))["ok"]


async def test_an_older_connection_neither_reads_nor_writes_any_more(
    daemon: RunningDaemon, gates: Gates
) -> None:
    port = urlsplit(daemon.url).port or 0
    async with raw_peer(port) as old, open_wire(daemon.url, greet=False) as new:
        await old.upgrade()
        await old.send(said("hello", token=TOKEN))
        key = key_of(json.loads((await old.receive())[1]))
        await old.send(said("call_tool", name="gate", request_id="r1"))
        await gates.until_inside("g")
        await resumed(new, key)
        await old.send(*(said("list_tools", request_id=f"late-{n}") for n in range(50)))
        await old.send(said("call_tool", name="gate", request_id="late"))
        gates.open()
        heard = [json.loads((await old.receive())[1])["op"]]  # that of r1; then the goodbye
        assert heard == ["call_tool_ack"]
        assert await old.close_code() == 4004
        await old.end()
        assert (await new.result("r1"))["ok"]
        await new.say("get_result", request_id="late")
        assert (await new.result("late"))["error"]["code"] == "RESULT_UNKNOWN"
    assert gates.runs == ["g"]


async def test_who_comes_back_hears_the_text_from_its_beginning(
    daemon: RunningDaemon, teller: Teller
) -> None:
    async with open_wire(daemon.url, greet=False) as first:
        key = key_of(await first.hello(token=TOKEN))
        await first.begin("tell", "r1")
        await teller.tell("Once ")
        await cut(daemon, first)
    await teller.tell("upon ")
    async with open_wire(daemon.url, greet=False) as second:
        await resumed(second, key)
        told = await second.hear_op("progress")
        assert (told["delta"], told["offset"]) == ("Once upon ", 0)
        await teller.tell("a time")
        told = await second.hear_op("progress")
        assert (told["delta"], told["offset"]) == ("a time", 10)
        teller.words.put_nowait(None)
        assert (await second.result("r1"))["text"] == "Once upon a time"


@pytest.mark.parametrize("wrong", ["session_id", "resume_token"])
async def test_what_cannot_be_resumed_is_a_fresh_session(daemon: RunningDaemon, wrong: str) -> None:
    async with open_wire(daemon.url, greet=False) as first:
        key = key_of(await first.hello(token=TOKEN))
        await cut(daemon, first)
    async with open_wire(daemon.url, greet=False) as second:
        ack = await resumed(second, {**key, wrong: "wrong"})
    assert (ack["resumed"], ack["resume_error"]) == (False, "unknown_session")
    assert ack["pending"] == []
    assert ack["session_id"] != key["session_id"]


async def test_anothers_session_looks_like_none(daemon: RunningDaemon, gates: Gates) -> None:
    async with open_wire(daemon.url, greet=False) as first:
        key = key_of(await first.hello(token=TOKEN))
        await first.begin("gate", "r1")
        await cut(daemon, first)
        async with open_wire(daemon.url, greet=False) as thief:
            ack = await resumed(thief, key, token=OTHER_TOKEN)
            assert (ack["resumed"], ack["resume_error"]) == (False, "unknown_session")
            unknown = await thief.ask("get_result", "call_tool_res", request_id="r1")
            assert unknown["error"]["code"] == "RESULT_UNKNOWN"
        gates.open()
        async with open_wire(daemon.url, greet=False) as owner:
            assert (await resumed(owner, key))["resumed"]
            assert (await owner.result("r1"))["ok"]


async def test_bye_ends_a_session_at_once(daemon: RunningDaemon, gates: Gates) -> None:
    async with open_wire(daemon.url, greet=False, says_bye=False) as wire:
        key = key_of(await wire.hello(token=TOKEN))
        await wire.begin("gate", "r1")
        await gates.until_inside("g")
        await wire.say("bye")
        assert await wire.closed() == (1000, "bye")
    await gates.until_cancelled()
    async with open_wire(daemon.url, greet=False) as again:
        assert (await resumed(again, key))["resume_error"] == "unknown_session"


async def test_results_beyond_the_bound_refuse_new_calls_of_who_acknowledges(
    daemon: RunningDaemon,
) -> None:
    async with open_wire(daemon.url, greet=False) as wire:
        await wire.hello(token=TOKEN, acks=True)
        for n in range(LIMITS.session_max_unacked):
            assert (await wire.call("echo", f"r{n}", arguments={"text": "x"}))["ok"]
        refused = await wire.call("echo", "over", arguments={"text": "x"})
        assert refused["error"]["code"] == "OVER_CAPACITY"
        assert refused["error"]["details"] == {"scope": "results"}
        assert refused["error"]["retry_after_s"] > 0
        await wire.say("ack", request_ids=["r1"])
        assert (await wire.call("echo", "over", arguments={"text": "x"}))["ok"]
        for n in (0, 2):
            again = await wire.ask("get_result", "call_tool_res", request_id=f"r{n}")
            assert again["ok"], "nothing is dropped to make room"


async def test_one_identity_has_only_so_much_room_over_all_its_sessions(tmp_path: Path) -> None:
    limits = LimitsConfig(principal_max_result_bytes=1000)
    config = daemon_config(tmp_path, limits=limits)
    async with (
        running_daemon(config) as daemon,
        open_wire(daemon.url, token=TOKEN) as one,
        open_wire(daemon.url, token=TOKEN) as other,
    ):
        assert (await one.call("echo", "large", arguments={"text": "x" * 1000}))["ok"]
        refused = await other.call("echo", arguments={"text": "x"})
        assert refused["error"]["code"] == "OVER_CAPACITY"
        assert refused["error"]["details"] == {"scope": "results"}
        await one.say("ack", request_ids=["large"])
        await one.ask("get_result", "call_tool_res", request_id="large")
        assert (await other.call("echo", arguments={"text": "x"}))["ok"]


async def test_who_does_not_acknowledge_has_a_window_of_results(daemon: RunningDaemon) -> None:
    async with open_wire(daemon.url, greet=False) as first:
        key = key_of(await first.hello(token=TOKEN))
        for n in range(5):
            assert (await first.call("echo", f"r{n}", arguments={"text": "x"}))["ok"]
        await first.ask("health", "health_res")
        await cut(daemon, first)
    async with open_wire(daemon.url, greet=False) as second:
        pending = (await resumed(second, key))["pending"]
        assert pending == ["r2", "r3", "r4"]
        await second.say("get_result", request_id="r0")
        gone = await second.result("r0")
        assert gone["error"]["details"] == {"reason": "expired", "ok": True}


async def test_the_window_moves_also_while_there_is_always_more_to_send(
    tmp_path: Path,
) -> None:
    async def large(arguments: dict[str, Any], run: ToolRun) -> Completed:
        return Completed([text_block("x" * 100_000)])

    config = daemon_config(tmp_path, limits=LimitsConfig(session_max_unacked=3))
    async with (
        running_daemon(config, [ScriptedTool("large", large)]) as daemon,
        open_wire(daemon.url, token=TOKEN, max_queue=1) as wire,
    ):
        asked = 0
        for n in range(200):
            while asked < min(n + 50, 200):  # of which the daemon always has more than is read
                await wire.say("call_tool", name="large", request_id=f"r{asked}")
                asked += 1
            await wire.result(f"r{n}")
            await asyncio.sleep(0.002)
            if n == 120:
                health = await wire.ask("health", "health_res")
        # the window, those on their way, and those that were sent and not noted yet
        assert health["health"]["store"]["result_bytes"] < 101_000 * (3 + 50 + 20)


async def test_what_was_never_sent_is_kept_beyond_the_window(
    daemon: RunningDaemon, gates: Gates
) -> None:
    async with open_wire(daemon.url, greet=False) as first:
        key = key_of(await first.hello(token=TOKEN))
        for n in range(6):
            await first.begin("gate", f"r{n}")
        await cut(daemon, first)
    gates.open()
    async with open_wire(daemon.url, greet=False) as second:
        assert len((await resumed(second, key))["pending"]) == 6
        assert all([(await second.result(f"r{n}"))["ok"] for n in range(6)])


async def test_more_than_an_outbox_holds_is_sent_again_as_fast_as_it_is_read(
    daemon: RunningDaemon,
) -> None:
    async with open_wire(daemon.url, greet=False) as first:
        key = key_of(await first.hello(token=TOKEN, acks=True))
        for n in range(3):
            await first.call("large", f"r{n}")  # each 2 MB as a frame
        await cut(daemon, first)
    async with open_wire(daemon.url, greet=False) as second:
        assert len((await resumed(second, key, acks=True))["pending"]) == 3
        assert [len((await second.result(f"r{n}"))["text"]) for n in range(3)] == [1_000_000] * 3


async def test_a_draining_daemon_sends_all_that_it_had_begun_to_send_again(
    daemon: RunningDaemon,
) -> None:
    async with open_wire(daemon.url, greet=False) as first:
        key = key_of(await first.hello(token=TOKEN, acks=True))
        for n in range(3):
            await first.call("large", f"r{n}")
        await cut(daemon, first)
    async with open_wire(daemon.url, greet=False, says_bye=False, max_queue=1) as second:
        await resumed(second, key, acks=True)
        daemon.stop.set()
        await second.hear_op("going_away")
        assert [len((await second.result(f"r{n}"))["text"]) for n in range(3)] == [1_000_000] * 3
        assert await second.closed() == (1012, "service restart")


async def test_of_too_many_detached_sessions_the_oldest_ends_that_is_owed_nothing(
    daemon: RunningDaemon, gates: Gates
) -> None:
    keys = []
    for n in range(5):
        async with open_wire(daemon.url, greet=False) as wire:
            keys.append(key_of(await wire.hello(token=TOKEN)))
            if n == 0:
                await wire.begin("gate", "r1")
            await cut(daemon, wire)
    await daemon.events.wait_for(SessionEnded, 2)
    ended = {event.session_id for event in daemon.events.of(SessionEnded)}
    assert ended == {keys[1]["session_id"], keys[2]["session_id"]}
    async with open_wire(daemon.url, greet=False) as back:
        assert (await resumed(back, keys[0]))["pending"] == ["r1"]


async def test_a_session_expires_when_its_window_is_over_and_not_while_a_call_runs(
    tmp_path: Path, gates: Gates
) -> None:
    limits = LimitsConfig(resume_window_s=0.05, session_cleanup_interval_s=0.01)
    config = daemon_config(tmp_path, limits=limits)
    async with (
        running_daemon(config, [ScriptedTool("gate", gates)]) as daemon,
        open_wire(daemon.url, greet=False) as busy,
        open_wire(daemon.url, greet=False) as idle,
        open_wire(daemon.url, token=TOKEN) as open_one,
    ):
        busy_id = (await busy.hello(token=TOKEN))["session_id"]
        idle_id = (await idle.hello(token=TOKEN))["session_id"]
        await busy.begin("gate", "r1")
        await cut(daemon, busy)
        await cut(daemon, idle)
        first = await daemon.events.first_of(SessionEnded)
        assert (first.session_id, first.reason) == (idle_id, "expired")
        gates.open()
        await daemon.events.wait_for(SessionEnded, 2)
        assert daemon.events.of(SessionEnded)[1].session_id == busy_id
        assert (await open_one.call("echo", arguments={"text": "x"}))["ok"]


async def test_a_draining_daemon_still_lets_a_session_with_a_call_come_back(
    daemon: RunningDaemon, gates: Gates
) -> None:
    keys = []
    for name in ("busy", "idle"):
        async with open_wire(daemon.url, greet=False) as wire:
            keys.append(key_of(await wire.hello(token=TOKEN)))
            if name == "busy":
                await wire.begin("gate", "r1")
                await gates.until_inside("g")
            await cut(daemon, wire)
    async with open_wire(daemon.url, token=TOKEN, says_bye=False) as witness:
        daemon.stop.set()
        await witness.hear_op("going_away")
        async with open_wire(daemon.url, greet=False, says_bye=False) as refused:
            await refused.say("hello", token=TOKEN, resume=keys[1])
            assert await refused.closed() == (1012, "service restart")
        async with open_wire(daemon.url, greet=False, says_bye=False) as back:
            assert (await resumed(back, keys[0]))["pending"] == ["r1"]
            gates.open()
            assert (await back.result("r1"))["ok"]
            assert (await back.closed())[0] == 1012
