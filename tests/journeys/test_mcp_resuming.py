"""An answer over HTTP finds its client, whatever became of the connection, or of the daemon."""

import asyncio
import base64
import json
import signal
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from exai.core.config import LimitsConfig, ServerConfig
from exai.core.events import CallAccepted, CallFailedInside, CallSettled, DaemonStopped
from exai.core.outcomes import Completed, text_block
from exai.core.tool import ToolRun
from exai.testing.running_daemon import daemon_config, running_daemon
from exai.testing.scripted_tool import Gates, ScriptedTool
from tests.cli.exai_process import PATIENCE_S
from tests.journeys.mcp_by_hand import INITIALIZE, LIST, call, http_client
from tests.journeys.unhurried_daemon import TOKEN as RESTARTED_TOKEN
from tests.journeys.unhurried_daemon import UnhurriedDaemon, end
from tests.processes.process_tree import until

VERSION = "2025-11-25"


@pytest.fixture
def gates() -> Gates:
    return Gates()


async def long_text(arguments: dict[str, Any], run: ToolRun) -> Completed:
    return Completed([text_block("x" * 700_000)])


async def test_an_answer_is_picked_up_where_the_connection_broke(
    tmp_path: Path, gates: Gates
) -> None:
    tools = [ScriptedTool("gate", gates)]
    async with running_daemon(daemon_config(tmp_path), tools) as daemon, http_client(daemon) as me:
        await me.initialize(VERSION)
        async with me.posting(call("a")) as stream:
            last_event_id = await stream.event_id()
            await gates.until_inside("a")
        async with me.listening(last_event_id) as early:
            gates.open("a")
            answer = await early.message()
            assert await early.message() is None
        assert answer["id"] == 2
        assert answer["result"]["content"][0]["text"] == "through a"
        assert await me.resume(last_event_id) == answer
    assert gates.cancelled == []


async def test_an_answer_that_was_not_read_is_there_after_a_restart(
    tmp_path: Path, gates: Gates
) -> None:
    config, tools = daemon_config(tmp_path), [ScriptedTool("gate", gates)]
    gates.open("a")
    async with running_daemon(config, tools) as daemon, http_client(daemon) as me:
        await me.initialize(VERSION)
        async with me.posting(call("a", "two")) as stream:
            last_event_id = await stream.event_id()
            answer = await stream.message()
    async with running_daemon(config, tools) as daemon, http_client(daemon) as again:
        again.headers = me.headers
        assert await again.resume(last_event_id) == answer
        assert await again.resume(last_event_id) == answer
    assert answer["id"] == "two"
    assert gates.runs == ["a"]


@pytest.mark.parametrize("meta", [{}, {"exai/idempotencyKey": "key-1"}], ids=["plain", "keyed"])
async def test_what_waits_when_the_daemon_stops_is_done_by_the_next(
    tmp_path: Path, gates: Gates, meta: dict[str, str]
) -> None:
    config = daemon_config(tmp_path, limits=LimitsConfig(global_max_inflight=1))
    tools = [ScriptedTool("gate", gates)]
    waiting = call("b", 3)
    waiting["params"]["_meta"] = meta
    async with running_daemon(config, tools) as daemon, http_client(daemon) as me:
        await me.initialize(VERSION)
        async with me.posting(call("a")) as runs:
            await gates.until_inside("a")
            async with me.posting(waiting) as waits:
                last_event_id = await waits.event_id()
                await daemon.events.wait_for(CallAccepted, 2)
                daemon.stop.set()
                gates.open("a")
                assert (await runs.message())["result"]["isError"] is False
                assert await waits.message() is None
    async with running_daemon(config, tools) as daemon, http_client(daemon) as again:
        again.headers = me.headers
        async with again.listening(last_event_id) as resumed:
            await gates.until_inside("b")
            gates.open("b")
            answer = await resumed.message()
        assert (answer["id"], answer["result"]["isError"]) == (3, False)
        assert answer["result"]["content"][0]["text"] == "through b"
    assert gates.runs == ["a", "b"]


@pytest.mark.parametrize("when", ["before", "meanwhile", "afterwards"])
async def test_a_call_that_is_picked_up_can_be_cancelled_at_any_moment(
    tmp_path: Path, gates: Gates, when: str
) -> None:
    config = daemon_config(tmp_path, limits=LimitsConfig(global_max_inflight=1))
    tools = [ScriptedTool("gate", gates)]
    cancellation = {
        "jsonrpc": "2.0",
        "method": "notifications/cancelled",
        "params": {"requestId": 3},
    }
    async with running_daemon(config, tools) as daemon, http_client(daemon) as me:
        await me.initialize(VERSION)
        async with me.posting(call("a")), me.posting(call("b", 3)) as waits:
            last_event_id = await waits.event_id()
            await daemon.events.wait_for(CallAccepted, 2)
            daemon.stop.set()
            gates.open("a")
            assert await waits.message() is None
    async with running_daemon(config, tools) as daemon, http_client(daemon) as again:
        again.headers = me.headers
        await gates.until_inside("b")
        if when == "before":
            await again.post(cancellation)
        async with again.listening(last_event_id) as resumed:
            if when == "meanwhile":
                assert (await again.post(call("c", 3))).status_code == 400
                await again.post(cancellation)
            if when != "afterwards":
                answer = await resumed.message()
        if when == "afterwards":
            await again.post(cancellation)
            answer = await again.resume(last_event_id)
        assert answer["result"]["_meta"]["exai/error"]["code"] == "CANCELLED"
        await gates.until_cancelled("b")
        assert await again.resume(last_event_id) == answer


async def test_an_answer_too_long_to_be_held_twice_is_found_in_the_ledger(tmp_path: Path) -> None:
    tools = [ScriptedTool("gate", long_text)]
    async with running_daemon(daemon_config(tmp_path), tools) as daemon, http_client(daemon) as me:
        await me.initialize(VERSION)
        events = {}
        for number in (1, 2, 3):
            async with me.posting(call(str(number), number)) as stream:
                events[number] = await stream.event_id()
                assert (await stream.message())["id"] == number
        for number, event_id in events.items():
            answer = await me.resume(event_id)
            assert answer["id"] == number
            assert len(answer["result"]["content"][0]["text"]) == 700_000


async def test_what_another_session_asked_for_is_unknown(tmp_path: Path, gates: Gates) -> None:
    gates.open("a")
    tools = [ScriptedTool("gate", gates)]
    async with (
        running_daemon(daemon_config(tmp_path), tools) as daemon,
        http_client(daemon) as me,
        http_client(daemon) as other,
    ):
        await me.initialize(VERSION)
        await other.initialize(VERSION)
        async with me.posting(call("a")) as stream:
            event_id = await stream.event_id()
            await stream.message()
        answer = await other.resume(event_id)
        assert answer["result"]["_meta"]["exai/error"]["code"] == "RESULT_UNKNOWN"


async def test_a_request_that_is_no_call_is_to_be_sent_again(tmp_path: Path, gates: Gates) -> None:
    config, tools = daemon_config(tmp_path), [ScriptedTool("gate", gates)]
    async with running_daemon(config, tools) as daemon, http_client(daemon) as me:
        await me.initialize(VERSION)
        async with me.posting(LIST) as stream:
            event_id = await stream.event_id()
    async with running_daemon(config, tools) as daemon, http_client(daemon) as again:
        again.headers = me.headers
        answer = await again.resume(event_id)
        assert (answer["id"], answer["error"]["data"]["exai/error"]["code"]) == (
            1,
            "RESULT_UNKNOWN",
        )


async def test_an_id_in_use_is_refused(tmp_path: Path, gates: Gates) -> None:
    tools = [ScriptedTool("gate", gates)]
    async with running_daemon(daemon_config(tmp_path), tools) as daemon, http_client(daemon) as me:
        await me.initialize(VERSION)
        async with me.posting(call("a", 7)) as stream:
            await gates.until_inside("a")
            for request_id in (7, "7"):
                refused = await me.post(call("b", request_id))
                assert refused.status_code == 400
                assert "is under way" in refused.json()["error"]["message"]
            gates.open("a")
            assert (await stream.message())["result"]["content"][0]["text"] == "through a"
        gates.open("c")
        async with me.posting(call("c", 7)) as stream:
            assert (await stream.message())["result"]["content"][0]["text"] == "through c"
    assert gates.runs == ["a", "c"]


@pytest.mark.parametrize("oddity", ['"params":{"requestId":1e400}', '"params":null', '"method":""'])
async def test_an_id_in_use_is_refused_whatever_the_message(
    tmp_path: Path, gates: Gates, oddity: str
) -> None:
    tools = [ScriptedTool("gate", gates)]
    async with running_daemon(daemon_config(tmp_path), tools) as daemon, http_client(daemon) as me:
        await me.initialize(VERSION)
        async with me.posting(call("a", 7)) as stream:
            await gates.until_inside("a")
            body = f'{{"jsonrpc":"2.0","id":7,"method":"tools/call",{oddity}}}'
            headers = me.headers | {"Content-Type": "application/json"}
            answer = await me.http.post(me.url, content=body, headers=headers)
            assert answer.status_code == 400
            gates.open("a")
            assert (await stream.message())["result"]["content"][0]["text"] == "through a"


async def test_an_id_of_what_was_refused_is_free(tmp_path: Path, gates: Gates) -> None:
    gates.open("a")
    tools = [ScriptedTool("gate", gates)]
    async with running_daemon(daemon_config(tmp_path), tools) as daemon, http_client(daemon) as me:
        await me.initialize(VERSION)
        assert (await me.post(call("a", 7), Accept="text/plain")).status_code == 406
        async with me.posting(call("a", 7)) as stream:
            assert (await stream.message())["result"]["isError"] is False


@pytest.mark.parametrize("event_id", ["7", "garbage", "a.b.c", "aaaa.1.W10=", "..."])
async def test_an_unknown_event_is_listened_on_from(
    tmp_path: Path, gates: Gates, event_id: str
) -> None:
    async with running_daemon(daemon_config(tmp_path)) as daemon, http_client(daemon) as me:
        await me.initialize(VERSION)
        async with me.listening(event_id) as stream:
            daemon.daemon.tools.replace("more", [ScriptedTool("more", gates)])
            assert (await stream.message())["method"] == "notifications/tools/list_changed"


async def test_news_are_heard_on_after_a_restart(tmp_path: Path, gates: Gates) -> None:
    config = daemon_config(tmp_path)
    async with running_daemon(config) as daemon, http_client(daemon) as me:
        await me.initialize(VERSION)
        async with me.listening() as stream:
            daemon.daemon.tools.replace("more", [ScriptedTool("more", gates)])
            await stream.message()
    async with running_daemon(config) as daemon, http_client(daemon) as again:
        again.headers = me.headers
        async with again.listening(stream.last_event_id) as stream:
            daemon.daemon.tools.replace("more", [ScriptedTool("more", gates)])
            assert (await stream.message())["method"] == "notifications/tools/list_changed"


async def test_a_defect_in_one_session_ends_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_daemon(daemon_config(tmp_path)) as daemon, http_client(daemon) as me:
        await me.initialize(VERSION)

        async def fail(*_: Any, **__: Any) -> None:
            raise ZeroDivisionError("a defect of a test")

        with monkeypatch.context() as patched:
            patched.setattr("exai.transports.mcp_http_session.serve_connection", fail)
            async with http_client(daemon) as unlucky:
                with pytest.raises(httpx2.RemoteProtocolError):
                    await unlucky.post(INITIALIZE)
        defect = await daemon.events.first_of(CallFailedInside)
        assert isinstance(defect.exception, ExceptionGroup | ZeroDivisionError)
        assert (await me.post(LIST)).status_code == 200


async def test_an_answer_that_nobody_comes_back_for_is_erased_in_time(
    tmp_path: Path, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exai.connections.handed_over._COMES_BACK_WITHIN_S", 0.2)
    monkeypatch.setattr("exai.connections.handed_over._LOOKS_EVERY_S", 0.01)
    gates.open("a")
    tools = [ScriptedTool("gate", gates)]
    async with running_daemon(daemon_config(tmp_path), tools) as daemon, http_client(daemon) as me:
        session_id, calls = await me.initialize(VERSION), daemon.daemon.stores.calls
        for request_id in range(30):
            assert (await me.post(call("a", request_id))).status_code == 200
        assert (await calls.usage(session_id)).result_count > 0
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if (await calls.usage(session_id)).result_count == 0:
                    break
                await asyncio.sleep(0.01)


async def test_an_answer_whose_stream_broke_is_kept(
    tmp_path: Path, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exai.connections.handed_over._COMES_BACK_WITHIN_S", 0.01)
    config, tools = daemon_config(tmp_path), [ScriptedTool("gate", gates)]
    async with running_daemon(config, tools) as daemon, http_client(daemon) as me:
        await me.initialize(VERSION)
        async with me.posting(call("a")) as stream:
            last_event_id = await stream.event_id()
            await gates.until_inside("a")
        async with asyncio.timeout(PATIENCE_S):
            while daemon.daemon._mcp._owed_count:  # noqa: ASYNC110, SLF001
                await asyncio.sleep(0.01)
        gates.open("a")
        await daemon.events.wait_for(CallSettled, 1)
        await asyncio.sleep(0.3)
    async with running_daemon(config, tools) as daemon, http_client(daemon) as again:
        again.headers = me.headers
        answer = await again.resume(last_event_id)
        assert answer["result"]["content"][0]["text"] == "through a"


async def test_who_waits_for_an_answer_again_does_not_hold_up_a_drain(
    tmp_path: Path, gates: Gates
) -> None:
    config = daemon_config(
        tmp_path,
        limits=LimitsConfig(global_max_inflight=1),
        server=ServerConfig(drain_s=0.2, close_timeout_s=PATIENCE_S),
    )
    tools = [ScriptedTool("gate", gates)]
    async with running_daemon(config, tools) as daemon, http_client(daemon) as me:
        await me.initialize(VERSION)
        async with me.posting(call("a")), me.posting(call("b", 3)), me.posting(call("c", 4)) as c:
            last_event_id = await c.event_id()
            await daemon.events.wait_for(CallAccepted, 3)
            daemon.stop.set()
            gates.open("a")
            assert await c.message() is None
    async with (
        asyncio.timeout(PATIENCE_S / 2),
        running_daemon(config, tools) as daemon,
        http_client(daemon) as again,
    ):
        again.headers = me.headers
        async with again.listening(last_event_id) as one, again.listening(last_event_id) as other:
            await gates.until_inside("b")
            daemon.stop.set()
            assert await one.message() is None
            assert await other.message() is None
            await daemon.events.wait_for(DaemonStopped, 1)
    gates.open("c")
    async with running_daemon(config, tools) as daemon, http_client(daemon) as again:
        again.headers = me.headers
        answer = await again.resume(last_event_id)
        assert answer["result"]["content"][0]["text"] == "through c"
    assert gates.runs == ["a", "b", "c"]


async def test_a_stream_that_was_picked_up_brings_no_answer_of_a_call_that_is_left_to_the_next(
    tmp_path: Path, gates: Gates
) -> None:
    config = daemon_config(tmp_path, limits=LimitsConfig(global_max_inflight=1))
    tools = [ScriptedTool("gate", gates)]
    async with running_daemon(config, tools) as daemon, http_client(daemon) as me:
        await me.initialize(VERSION)
        async with me.posting(call("a")), me.posting(call("b", 3)) as waits:
            last_event_id = await waits.event_id()
            await daemon.events.wait_for(CallAccepted, 2)
            async with me.listening(last_event_id) as resumed:
                daemon.stop.set()
                gates.open("a")
                assert await resumed.message() is None
    gates.open("b")
    async with running_daemon(config, tools) as daemon, http_client(daemon) as again:
        again.headers = me.headers
        answer = await again.resume(last_event_id)
        assert answer["result"]["content"][0]["text"] == "through b"
    assert gates.runs == ["a", "b"]


async def test_a_daemon_that_fails_tells_nobody_that_the_call_has(
    tmp_path: Path, gates: Gates
) -> None:
    async def fail() -> None:
        raise ZeroDivisionError("a defect of a test")

    config, tools = daemon_config(tmp_path), [ScriptedTool("gate", gates)]
    told = last_event_id = None
    with pytest.raises(ExceptionGroup):
        async with running_daemon(config, tools) as daemon, http_client(daemon) as me:
            await me.initialize(VERSION)
            async with me.posting(call("a")) as stream:
                last_event_id = await stream.event_id()
                await gates.until_inside("a")
                daemon.daemon._tasks.create_task(fail())  # noqa: SLF001
                with suppress(httpx2.HTTPError):
                    told = await stream.message()
    assert told is None
    assert last_event_id is not None
    async with running_daemon(config, tools) as daemon, http_client(daemon) as again:
        again.headers = me.headers
        answer = await again.resume(last_event_id)
        assert answer["result"]["_meta"]["exai/error"]["code"] == "INTERRUPTED"


async def test_who_does_not_read_a_stream_loses_it_and_not_the_answer(tmp_path: Path) -> None:
    async def talk(arguments: dict[str, Any], run: ToolRun) -> Completed:
        for number in range(60):
            run.log({"level": "info", "data": f"{number}{'x' * 1_000_000}"})
            await asyncio.sleep(0.01)
        return Completed([text_block("said all")])

    config = daemon_config(tmp_path, server=ServerConfig(slow_consumer_s=0.3))
    tools = [ScriptedTool("gate", talk)]
    async with running_daemon(config, tools) as daemon, http_client(daemon) as me:
        await me.initialize(VERSION)
        level = {"method": "logging/setLevel", "params": {"level": "debug"}}
        await me.post({"jsonrpc": "2.0", "id": 1, **level})
        async with me.posting(call("a")) as stream:
            last_event_id = await stream.event_id()
            await daemon.events.wait_for(CallSettled, 2)
            assert (await me.post(LIST)).status_code == 200
            with pytest.raises(httpx2.HTTPError):
                while await stream.message() is not None:
                    pass
        async with me.listening(last_event_id) as again:
            while "method" in (answer := await again.message()):
                pass
        assert answer["result"]["content"][0]["text"] == "said all"


ODD_IDS = ["null", "true", "7.0", "1e400", "[]", '"_GET_stream"', f'"{"x" * 257}"', "9" * 300]


@pytest.mark.parametrize("id_", ODD_IDS, ids=lambda id_: id_[:12])
async def test_what_cannot_name_a_stream_is_no_id(tmp_path: Path, gates: Gates, id_: str) -> None:
    tools = [ScriptedTool("gate", gates)]
    async with running_daemon(daemon_config(tmp_path), tools) as daemon, http_client(daemon) as me:
        await me.initialize(VERSION)
        body = json.dumps(call("a", "ID")).replace('"ID"', id_)
        headers = me.headers | {"Content-Type": "application/json"}
        answer = await me.http.post(me.url, content=body, headers=headers)
        assert answer.status_code == 400
    assert gates.runs == []


async def test_a_message_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    async with running_daemon(daemon_config(tmp_path)) as daemon, http_client(daemon) as me:
        await me.initialize(VERSION)
        deep = "[" * 5000 + "]" * 5000
        body = json.dumps(LIST).replace("{", f'{{"beside":{deep},', 1)
        headers = me.headers | {"Content-Type": "application/json"}
        answer = await me.http.post(me.url, content=body, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32700)
        asked = f'[1,"tools/call","gate","r",{deep}]'.encode()
        event_id = f"aaaa.1.{base64.urlsafe_b64encode(asked).decode()}"
        async with me.listening(event_id) as stream:
            daemon.daemon.tools.replace("more", [ScriptedTool("more", Gates())])
            assert (await stream.message())["method"] == "notifications/tools/list_changed"


@pytest.mark.slow
async def test_callers_of_the_sdk_do_not_see_that_the_daemon_was_killed(tmp_path: Path) -> None:
    daemon, headers = UnhurriedDaemon(tmp_path), {"Authorization": f"Bearer {RESTARTED_TOKEN}"}
    async with AsyncExitStack() as stack, asyncio.timeout(PATIENCE_S):
        process, _ = await stack.enter_async_context(daemon.serving())
        http = await stack.enter_async_context(httpx2.AsyncClient(headers=headers, timeout=20))
        transport = streamable_http_client(
            daemon.mcp_url, http_client=http, terminate_on_close=False
        )
        async with Client(transport, mode="legacy") as client, asyncio.TaskGroup() as tasks:
            await client.list_tools()
            calls = [
                tasks.create_task(client.call_tool(tool, {"what": f"w{number}", "after_s": 0.5}))
                for number, tool in enumerate(["box__again"] * 3 + ["box__once"])
            ]
            await until(lambda: daemon.begun_count == 4)
            await end(process, signal.SIGKILL)
            await stack.enter_async_context(daemon.serving())
        *again, once = [(await each).model_dump(by_alias=True) for each in calls]
        assert [each["content"][0]["text"] for each in again] == ["w0", "w1", "w2"]
        assert once["_meta"]["exai/error"]["code"] == "INTERRUPTED"
    assert daemon.record.read_text().count("begun w3") == 1
