"""A server's lives, and every way in which a call of its tools may end."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from exai.core.config import UpstreamConfig
from exai.core.errors import ResultTooLarge, ToolFailed, UpstreamFailed
from exai.core.events import UpstreamDied, UpstreamGaveUp, UpstreamSpoke, UpstreamStarted
from exai.upstream.server_state import ServerState
from tests.upstream.loop_time import loop_time
from tests.upstream.running_server import (
    BOUND_S,
    EAGER,
    Run,
    Running,
    is_alive,
    running,
    scripted,
    until,
)

MAX_BYTES = 1_000_000


async def test_a_result_arrives_with_all_that_the_server_said() -> None:
    blocks = [
        {
            "type": "text",
            "text": "ä \u2028",
            "annotations": {"audience": ["user"]},
            "_meta": {"a": 1},
        },
        {"type": "image", "data": "AAAA", "mimeType": "image/png", "unheard": [1.0, 10**30]},
        {"type": "hologram", "depth": None},
    ]
    structured = {"n": 2**60, "x": {"y": [True, None]}}
    async with running(scripted()) as srv:
        completed = await srv.call(
            "result", content=blocks, structuredContent=structured, _meta={"own/key": {"k": "v"}}
        )
    assert completed.outputs == blocks
    assert completed.structured == structured
    assert completed.result_meta == {"own/key": {"k": "v"}}
    assert completed.facts.provider == "srv"


async def test_a_tool_that_says_it_failed_fails_with_what_it_said() -> None:
    async with running(scripted()) as srv:
        with pytest.raises(ToolFailed, match="no such file") as failed:
            await srv.call(
                "result",
                content=[{"type": "text", "text": "no such file"}],
                isError=True,
                structuredContent={"errno": 2},
            )
    assert failed.value.outputs == [{"type": "text", "text": "no such file"}]
    assert failed.value.structured == {"errno": 2}


async def test_an_error_answer_is_the_tools_failure() -> None:
    async with running(scripted()) as srv:
        with pytest.raises(ToolFailed, match="bad zone") as failed:
            await srv.call("message", error={"code": -32602, "message": "bad zone"})
    assert failed.value.describe().details == {"jsonrpc_code": -32602}


@pytest.mark.parametrize(
    "answer",
    [
        {"result": "text"},
        {"result": {"content": "text"}},
        {"result": {"content": [{"type": "text"}]}},
        {"result": {"content": ["text"]}},
        {"result": {"resultType": "input_required", "inputRequests": {}}},
        {"error": "oops"},
        {},
    ],
)
async def test_an_answer_that_is_none_breaks_the_protocol(answer: dict[str, Any]) -> None:
    async with running(scripted()) as srv:
        with pytest.raises(UpstreamFailed, match="broke the protocol") as failed:
            await srv.call("message", **answer)
        assert failed.value.describe().details == {"may_have_run": True}
        assert await srv.say("echo", text="still there") == "still there"


@pytest.mark.parametrize(
    "line",
    [
        '{"jsonrpc":"2.0","id":ID,"result":{"content":[}',
        '{"id":ID,"result":' + "[" * 5000,
        '{"result":{"x":nan},"jsonrpc":"2.0","id":ID}',
    ],
)
async def test_an_unreadable_answer_fails_its_call_only(line: str) -> None:
    async with running(scripted()) as srv:
        with pytest.raises(UpstreamFailed, match="no valid JSON"):
            await srv.call("line", line=line)
        assert await srv.say("echo", text="still there") == "still there"


async def test_half_a_character_is_mended() -> None:
    line = '{"jsonrpc":"2.0","id":ID,"result":{"content":[{"type":"text","text":"%s"}]}}'
    async with running(scripted()) as srv:
        assert await srv.say("line", line=line % r"a\ud83d\ude00 b\ud83d c\\ud83d") == (
            "a\U0001f600 b\ufffd c\\ud83d"
        )


async def test_nothing_of_an_unreadable_answer_is_shown() -> None:
    line = '{"jsonrpc":"2.0","id":ID,"result":{"content":[{"text":"SECRET"}],"x":NaN}}'
    async with running(scripted()) as srv:
        with pytest.raises(UpstreamFailed, match="no valid JSON"):
            await srv.call("line", line=line)
        spoken = [event.line for event in srv.events.of(UpstreamSpoke)]
    assert not any("SECRET" in line for line in spoken)
    assert any("unreadable JSON" in line for line in spoken)


async def test_garbage_on_stdout_is_shown_and_otherwise_ignored() -> None:
    async with running(scripted()) as srv:
        await srv.call("flood", stream="stdout", count=1, text="Loading \x1b[31mplugins…\n\n[1]\n")
        spoken = [event.line for event in srv.events.of(UpstreamSpoke)]
    assert r"Loading \x1b[31mplugins…" in spoken
    assert "[1]" in spoken


async def test_progress_is_reported_in_order_and_not_after_the_answer() -> None:
    run = Run()
    async with running(scripted()) as srv:
        await srv.call("progress", run, steps=50)
        await srv.say("echo")
    assert run.reports == [(f"step {done}", done, 50) for done in range(1, 51)]


async def test_a_server_is_offered_a_pulse_and_nothing_else() -> None:
    async with running(scripted()) as srv:
        assert json.loads(await srv.say("ask", method="ping")) == {"result": {}}
        refused = json.loads(await srv.say("ask", method="sampling/createMessage"))
    assert refused["error"]["code"] == -32601


@pytest.mark.parametrize(
    ("head", "tail"),
    [
        ('{"jsonrpc":"2.0","id":ID,"result":{"content":[{"type":"text","text":"', '"}]}}'),
        ('{"result":{"content":[{"type":"text","text":"', '"}]},"jsonrpc":"2.0","id":ID}'),
        ('{ "result" : {"id": 1, "x":"', '"}, "id" : ID , "jsonrpc":"2.0" }'),
        ('{"result":{"x":"', '"},"id":ID,"_other":1}'),
    ],
    ids=["id-first", "id-last", "spaces", "id-hidden"],
)
async def test_a_result_over_the_limit_fails_its_call_and_the_server_stays(
    head: str, tail: str
) -> None:
    async with running(scripted(), max_result_bytes=MAX_BYTES) as srv:
        pid = srv.server.statistics().pid
        with pytest.raises(ResultTooLarge) as failed:
            await srv.call("long_line", head=head, tail=tail, size_bytes=2 * MAX_BYTES)
        assert failed.value.describe().details == {"max_bytes": MAX_BYTES}
        assert await srv.say("echo", text="still there") == "still there"
        assert srv.server.statistics().pid == pid


async def test_a_long_line_that_is_no_answer_disturbs_nobody() -> None:
    async with running(scripted(), max_result_bytes=MAX_BYTES) as srv, asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(srv.call("wait", when_cancelled_s=0))
        head = '{"jsonrpc":"2.0","method":"notifications/message","params":{"data":"'
        await srv.call(
            "long_line", head=head, tail='"}}\n{"id":ID,"result":{}}', size_bytes=2 * MAX_BYTES
        )
        assert not waiting.done()
        waiting.cancel()


async def test_a_line_of_100_mib_holds_neither_the_loop_nor_memory() -> None:
    head = '{"jsonrpc":"2.0","id":ID,"result":{"content":[{"type":"text","text":"'
    async with running(scripted()) as srv:
        before_kib = _resident_kib()
        with loop_time() as held, pytest.raises(ResultTooLarge):
            await srv.call("long_line", head=head, tail='"}]}}', size_bytes=100 * 2**20)
        assert held.longest_s < 0.05, held.name
        assert _resident_kib() - before_kib < 64 * 1024
        assert await srv.say("echo", text="still there") == "still there"


async def test_a_result_of_millions_of_values_is_too_large() -> None:
    async with running(scripted()) as srv:
        with loop_time() as held, pytest.raises(ResultTooLarge, match="values"):
            await srv.call("many_values", value="[]", count=3_000_000)
    assert held.longest_s < 0.05, held.name


async def test_much_text_is_not_taken_for_many_values() -> None:
    text = "a,b,[c],{d}\n" * 100_000
    async with running(scripted()) as srv:
        assert await srv.say("echo", text=text) == text


@pytest.mark.parametrize("stream", ["stderr", "stdout"])
async def test_a_flood_neither_holds_the_loop_nor_becomes_a_flood_of_events(stream: str) -> None:
    async with running(scripted()) as srv:
        with loop_time() as held:
            await srv.call("flood", stream=stream, count=50_000, text="help!\n")
        spoken = srv.events.of(UpstreamSpoke)
        assert 0 < len(spoken) < 200
        assert held.longest_s < 0.05, held.name


async def test_a_flood_of_tiny_lines_lets_others_run() -> None:
    async with running(scripted()) as srv:
        with loop_time() as held:
            await srv.call("flood", stream="stdout", count=100_000, text="{}\n")
    assert held.longest_s < 0.05, held.name


async def test_a_server_that_asks_for_ever_and_never_listens_is_given_up() -> None:
    async with running(scripted()) as srv:
        with pytest.raises(UpstreamFailed, match="does not read its input"):
            await srv.call("ask_for_ever")
        await srv.events.wait_for(UpstreamStarted, 2)


async def test_a_death_in_mid_call_fails_all_running_calls_at_once() -> None:
    async with running(scripted()) as srv:
        async with asyncio.TaskGroup() as tasks:
            calls = [tasks.create_task(_failure_of(srv.call("wait"))) for _ in range(5)]
            await _until_waiting(srv, 5)
            started_s = time.monotonic()
            await _failure_of(srv.call("be_killed"))
        assert time.monotonic() - started_s < 2
        for call in calls:
            error = call.result().describe()
            assert error.message == "srv was killed by SIGKILL"
            assert (error.retryable, error.details) == (False, {"may_have_run": True})


@pytest.mark.parametrize(
    ("tool", "arguments", "how"),
    [
        ("close_output", {}, "closed its output"),
        ("be_killed", {"signal": signal.SIGSEGV}, "was killed by SIGSEGV"),
        ("be_killed", {"signal": 40}, "was killed by signal 40"),
        ("exit", {"status": 0}, "exited with status 0"),
    ],
)
async def test_how_it_ended_is_said(tool: str, arguments: dict[str, int], how: str) -> None:
    async with running(scripted()) as srv:
        assert str(await _failure_of(srv.server.call(tool, arguments, Run()))) == f"srv {how}"


async def test_a_server_that_closes_its_input_is_given_up() -> None:
    async with running(scripted()) as srv:
        assert str(await _failure_of(srv.call("close_input"))) == "srv closed its input"
        assert await srv.say("echo", text="back") == "back"
        assert srv.server.statistics().start_count == 2


async def test_structured_content_that_is_no_object_is_told_as_text() -> None:
    async with running(scripted()) as srv:
        completed = await srv.call("result", content=[], structuredContent=[1, "two"])
    assert completed.structured is None
    assert completed.outputs == [{"type": "text", "text": '[1,"two"]'}]


async def test_an_idempotent_call_may_be_tried_again_after_a_death() -> None:
    async with running(scripted()) as srv:
        with pytest.raises(UpstreamFailed) as failed:
            await srv.server.call("exit", {"status": 7}, Run(), idempotent=True)
    assert failed.value.describe().retryable
    assert "exited with status 7" in str(failed.value)


async def test_what_was_answered_before_the_end_still_counts() -> None:
    async with running(scripted()) as srv:
        assert len(await srv.say("answer_and_exit", size_bytes=500_000)) == 500_000


async def test_a_server_that_died_is_started_again_and_waited_for() -> None:
    async with running(scripted()) as srv:
        first_pid = srv.server.statistics().pid
        await _failure_of(srv.call("exit"))
        assert await srv.say("echo", text="back") == "back"
        assert srv.server.statistics().pid != first_pid
        assert srv.server.statistics().start_count == 2
        (died,) = srv.events.of(UpstreamDied)
        assert died.reason == "exited with status 1"


async def test_a_call_that_waits_for_the_next_start_has_not_begun() -> None:
    async with running(scripted()) as srv:
        await _failure_of(srv.call("exit"))
        run = Run()
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(srv.call("echo", run, text="x"))
            await asyncio.sleep(0)
            assert not run.may_have_begun
            await waiting
        assert run.may_have_begun


async def test_a_grandchild_that_holds_stdout_does_not_hide_the_death() -> None:
    async with running(scripted()) as srv:
        known = int(await srv.say("leave_orphan"))
        disguised = int(await srv.say("leave_orphan", in_disguise=True))
        started_s = time.monotonic()
        await _failure_of(srv.call("exit"))
        assert time.monotonic() - started_s < 2
        await until(lambda: not is_alive(known))
        assert is_alive(disguised)
        assert await srv.say("echo", text="back") == "back"
    assert not is_alive(disguised)


async def test_a_crash_loop_is_given_up_and_says_when_it_is_tried_again() -> None:
    async with running(scripted("--crash", "3")) as srv:
        with pytest.raises(UpstreamFailed, match="exited with status 3") as failed:
            await srv.call("echo")
        assert failed.value.describe().retryable
        await srv.events.wait_for(UpstreamGaveUp)
        assert srv.server.statistics().state is ServerState.GAVE_UP
        assert srv.server.statistics().start_count == EAGER.give_up_after
        with pytest.raises(UpstreamFailed) as failed:
            await srv.call("echo")
        retry_after_s = failed.value.describe().retry_after_s
        assert isinstance(retry_after_s, float)
        assert 40 < retry_after_s < 80


async def test_a_command_that_is_not_there_is_named() -> None:
    async with running(UpstreamConfig(command="no-such-program")) as srv:
        with pytest.raises(UpstreamFailed, match="No such file or directory: no-such-program"):
            await srv.call("echo")


async def test_a_server_that_never_answers_the_handshake_is_given_its_time_only() -> None:
    async with running(scripted("--mute", start_timeout_s=0.3)) as srv:
        with pytest.raises(UpstreamFailed, match="did not become ready"):
            await srv.call("echo")


async def test_a_call_waits_for_a_start_under_way() -> None:
    async with running(scripted(), wait=False) as srv:
        assert srv.server.statistics().state is ServerState.STARTING
        assert await srv.say("echo", text="patience") == "patience"


async def test_a_waiting_call_that_is_cancelled_leaves_nothing_behind() -> None:
    async with running(scripted("--mute"), wait=False) as srv:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await srv.call("echo")
        assert srv.server.statistics().running_count == 0


async def test_cancelling_tells_the_server_and_waits_for_its_late_answer() -> None:
    async with running(scripted(), cancel_grace_s=BOUND_S) as srv, asyncio.TaskGroup() as tasks:
        call = tasks.create_task(srv.call("wait", when_cancelled_s=0.3))
        await _until_waiting(srv, 1)
        call.cancel()
        started_s = time.monotonic()
        await asyncio.wait([call])
        assert call.cancelled()
        assert 0.25 < time.monotonic() - started_s < 5
        assert await srv.say("what_waits") == "[]"


async def test_cancelling_waits_no_longer_than_the_grace() -> None:
    async with running(scripted(), cancel_grace_s=0.2) as srv, asyncio.TaskGroup() as tasks:
        call = tasks.create_task(srv.call("wait"))
        await _until_waiting(srv, 1)
        call.cancel()
        started_s = time.monotonic()
        await asyncio.wait([call])
        assert 0.15 < time.monotonic() - started_s < 2
        assert srv.server.statistics().running_count == 0


async def test_a_second_cancelling_waits_for_nothing() -> None:
    async with running(scripted(), cancel_grace_s=BOUND_S) as srv, asyncio.TaskGroup() as tasks:
        call = tasks.create_task(srv.call("wait"))
        await _until_waiting(srv, 1)
        call.cancel()
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call], timeout=2)
        assert call.cancelled()


async def test_the_servers_death_ends_the_wait_after_cancelling() -> None:
    async with running(scripted(), cancel_grace_s=BOUND_S) as srv, asyncio.TaskGroup() as tasks:
        call = tasks.create_task(srv.call("wait"))
        await _until_waiting(srv, 1)
        call.cancel()
        await _failure_of(srv.call("exit"))
        await asyncio.wait([call], timeout=2)
        assert call.cancelled()


async def test_an_answer_in_the_turn_of_the_cancelling_ends_the_wait() -> None:
    class Leaving(Run):
        def report(self, *args: Any, **kwargs: Any) -> None:
            call.cancel()

    async with running(scripted(), cancel_grace_s=BOUND_S) as srv, asyncio.TaskGroup() as tasks:
        call = tasks.create_task(srv.call("progress_and_end", Leaving()))
        await asyncio.wait([call], timeout=2)
        assert call.cancelled()


async def test_a_late_answer_is_not_taken_for_anothers() -> None:
    async with running(scripted(), cancel_grace_s=0.01) as srv, asyncio.TaskGroup() as tasks:
        call = tasks.create_task(srv.call("wait", when_cancelled_s=0.1))
        await _until_waiting(srv, 1)
        call.cancel()
        await asyncio.wait([call])
        assert [await srv.say("echo", text=str(n)) for n in range(20)] == list(map(str, range(20)))


async def test_twenty_calls_at_once_get_their_own_answers() -> None:
    async with running(scripted()) as srv:
        texts = [str(n) for n in range(20)]
        assert await asyncio.gather(*(srv.say("echo", text=t) for t in texts)) == texts


async def test_a_server_that_reads_nothing_holds_up_its_own_calls_only() -> None:
    servers = {"deaf": scripted("--deaf"), "well": scripted()}
    async with running(servers, cancel_grace_s=0.1) as both:
        deaf, well = both.pool.servers["deaf"], both.pool.servers["well"]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await deaf.call("echo", {"text": "x" * 1_000_000}, Run())
        assert (await well.call("echo", {"text": "y"}, Run())).outputs[0]["text"] == "y"


async def test_a_new_tool_is_listed_when_the_server_says_so() -> None:
    async with running(scripted()) as srv:
        tool = {"name": "new", "inputSchema": {"type": "object"}}
        await srv.call("add_tool", tool=tool)
        await until(lambda: "new" in srv.listings["srv"][-1])
        assert srv.server.statistics().tool_count == len(srv.listings["srv"][-1])


async def test_a_new_listing_that_cannot_be_used_changes_nothing() -> None:
    async with running(scripted()) as srv:
        await srv.call("break_listings")
        while await srv.say("count_listings") != "2":
            pass
        assert await srv.say("echo", text="unmoved") == "unmoved"
        assert len(srv.listings["srv"]) == 1
        assert srv.server.statistics().start_count == 1


async def test_a_server_that_dies_of_being_discovered_is_not_discovered_again() -> None:
    async with running(scripted("--old")) as srv:
        await srv.events.wait_for(UpstreamStarted)
        assert await srv.say("echo", text="as ever") == "as ever"
        assert srv.server.statistics().start_count == 2


async def test_nothing_piles_up_before_a_server_that_does_not_read() -> None:
    async with running(scripted("--deaf"), cancel_grace_s=0.01) as srv:
        before_kib = _resident_kib()
        for _ in range(20):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await srv.call("echo", text="x" * 5_000_000)
        assert _resident_kib() - before_kib < 32 * 1024


async def test_a_request_that_was_never_written_may_be_tried_again() -> None:
    async with running(scripted("--deaf")) as srv, asyncio.TaskGroup() as tasks:
        first = tasks.create_task(_failure_of(srv.call("echo", text="x" * 5_000_000)))
        second = tasks.create_task(_failure_of(srv.call("echo")))
        await until(lambda: srv.server.statistics().running_count == 2)
        os.kill(srv.server.statistics().pid or 0, signal.SIGKILL)
        await asyncio.wait([first, second])
        assert not first.result().describe().retryable
        assert second.result().describe().retryable


async def test_a_server_gets_a_safe_environment_and_its_own_variables() -> None:
    base = {
        "PATH": os.environ["PATH"],
        "HOME": "/home/me",
        "LC_TIME": "C",
        "EXAI_WS_TOKEN": "secret",
        "KIMI_API_KEY": "secret",
        "HTTPS_PROXY": "http://proxy:3128",
        "HTTP_PROXY": "http://me:secret@proxy:3128",
    }
    config = scripted(env={"MINE": "1", "HOME": "/elsewhere"})
    async with running(config, base_environment=base) as srv:
        environment = json.loads(await srv.say("environment"))
    del environment["PROCESS_GUARD_MARK"]
    environment.pop("LC_CTYPE", None)  # Python's own
    assert environment == {
        "PATH": base["PATH"],
        "HOME": "/elsewhere",
        "LC_TIME": "C",
        "HTTPS_PROXY": "http://proxy:3128",
        "MINE": "1",
    }


async def test_a_server_works_in_its_directory(tmp_path: Path) -> None:
    code = "import os, sys; print(os.getcwd(), file=sys.stderr)"
    config = UpstreamConfig(command=sys.executable, args=("-c", code), cwd=tmp_path)
    async with running(config, restart=EAGER) as srv:
        await srv.events.wait_for(UpstreamSpoke)
        assert srv.events.of(UpstreamSpoke)[0].line == str(tmp_path)


async def test_stopping_ends_even_a_server_that_will_not() -> None:
    async with running(scripted("--stubborn")) as srv:
        pid = srv.server.statistics().pid
        orphan = int(await srv.say("leave_orphan"))
        assert pid is not None
        assert is_alive(pid)
        assert is_alive(orphan)
    assert not is_alive(pid)
    assert not is_alive(orphan)


async def test_calls_fail_when_the_pool_is_closed() -> None:
    async with asyncio.TaskGroup() as tasks:
        async with running(scripted()) as srv:
            call = tasks.create_task(_failure_of(srv.call("wait")))
            await _until_waiting(srv, 1)
        assert isinstance(call.result(), UpstreamFailed)
        assert srv.server.statistics().state is ServerState.STOPPED
        with pytest.raises(UpstreamFailed, match="was stopped"):
            await srv.call("echo")


async def _failure_of(call: Awaitable[object]) -> UpstreamFailed:
    with pytest.raises(UpstreamFailed) as failed:
        await call
    return failed.value


async def _until_waiting(srv: Running, count: int) -> None:
    while len(json.loads(await srv.say("what_waits"))) < count:
        pass


def _resident_kib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
