"""`exai bridge`, a process of its own, before a scripted daemon: what an IDE sees of it."""

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from exai.cli.exit_codes import ExitCode
from exai.protocols.mcp_messages import INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND
from tests.cli.bridge_process import ENVELOPE, BridgeProcess, bridging, fix_ports, is_alive
from tests.cli.exai_process import PATIENCE_S, Shell
from tests.client.scripted_daemon import TOKEN, Frame, Peer, ScriptedDaemon, scripted_daemon
from tests.processes.process_tree import until

ERROR = "exai/error"


@pytest.fixture
async def daemon() -> AsyncIterator[ScriptedDaemon]:
    async with scripted_daemon() as daemon:
        yield daemon


@pytest.fixture
def shell(daemon: ScriptedDaemon, home: Path) -> Shell:
    shell = Shell(home)
    shell.environ |= {"EXAI_WS_TOKEN": TOKEN, "EXAI_WS_PORT": daemon.url[:-1].rpartition(":")[2]}
    return shell


@pytest.fixture
async def bridge(shell: Shell) -> AsyncIterator[BridgeProcess]:
    """Return a bridge whose client has shaken hands."""
    async with bridging(shell) as bridge:
        await bridge.shake_hands()
        yield bridge


def reason_of(answer: dict[str, Any]) -> dict[str, Any]:
    """Return why a tool call failed."""
    assert answer["result"]["isError"] is True, answer
    reason: dict[str, Any] = answer["result"]["_meta"][ERROR]
    return reason


async def has_listed(shell: Shell, daemon: ScriptedDaemon) -> None:
    """Have a bridge know the daemon's tools."""
    async with bridging(shell) as bridge:
        await bridge.shake_hands()
        await bridge.ask("tools/list")
        bridge.close_stdin()
        await bridge.end()


async def test_a_call_is_answered_with_what_the_tool_says(bridge: BridgeProcess) -> None:
    answer = await bridge.call("echo", text="hi")
    assert answer["result"] == {
        "content": [{"type": "text", "text": '{"text": "hi"}'}],
        "isError": False,
    }


async def test_a_modern_client_needs_no_handshake(shell: Shell) -> None:
    async with bridging(shell) as bridge:
        found = (await bridge.ask("server/discover", 1, _meta=ENVELOPE))["result"]
        assert found["supportedVersions"] == ["2026-07-28"]
        assert (found["resultType"], found["ttlMs"], found["cacheScope"]) == (
            "complete",
            0,
            "private",
        )
        answer = await bridge.ask(
            "tools/call", "a", name="echo", arguments={"text": "hi"}, _meta=ENVELOPE
        )
        assert answer["result"]["resultType"] == "complete"
        assert answer["result"]["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "exai"
        late = await bridge.ask("initialize", 2, protocolVersion="2025-11-25")
        assert late["error"]["data"]["supported"] == ["2026-07-28"]


async def test_a_client_of_another_future_may_still_shake_hands(shell: Shell) -> None:
    future = ENVELOPE | {"io.modelcontextprotocol/protocolVersion": "2030-01-01"}
    async with bridging(shell) as bridge:
        refused = await bridge.ask("server/discover", 1, _meta=future)
        assert refused["error"]["data"] == {
            "supported": ["2026-07-28"],
            "requested": "2030-01-01",
        }
        assert "result" in await bridge.shake_hands()


async def test_calls_run_side_by_side_and_are_told_apart_by_their_ids(
    bridge: BridgeProcess, daemon: ScriptedDaemon
) -> None:
    go_on = asyncio.Event()

    async def wait(peer: Peer, call: Frame) -> None:
        await peer.ack(call)
        await go_on.wait()
        await peer.answer(call, call["arguments"]["what"])

    daemon.tools["wait"] = wait
    ids: list[Any] = [7, "7", 0, "", -1, "ü" * 500, 2**53]
    for id_ in ids:
        await bridge.send("tools/call", id_, name="wait", arguments={"what": repr(id_)})
    await daemon.heard_op("call_tool", len(ids))
    assert (await bridge.ask("ping", "p"))["result"] == {}
    twice = await bridge.ask("tools/call", "", name="echo")
    assert twice["error"]["code"] == INVALID_REQUEST
    go_on.set()
    for id_ in ids:
        answer = await bridge.answer_to(id_)
        assert answer["result"]["content"][0]["text"] == repr(id_)


async def test_progress_numbers_grow_and_logs_are_heard_from_the_level_that_was_set(
    bridge: BridgeProcess, daemon: ScriptedDaemon
) -> None:
    async def work(peer: Peer, call: Frame) -> None:
        await peer.ack(call)
        await peer.progress(call, message="waits")
        await peer.progress(call, log={"level": "info", "data": "not heard"})
        await peer.progress(call, log={"level": "error", "data": {"a": 1}, "logger": "box"})
        await peer.progress(call, progress=1, total=2, message="half")
        await peer.progress(call, progress=2, total=2)
        await peer.answer(call, "done")

    daemon.tools["work"] = work
    assert (await bridge.ask("logging/setLevel", "l", level="warning"))["result"] == {}
    await bridge.send("tools/call", 1, name="work", _meta={"progressToken": "t"})
    heard = [await bridge.hear() for _ in range(5)]
    assert [message.get("method") for message in heard] == [
        "notifications/progress",
        "notifications/message",
        "notifications/progress",
        "notifications/progress",
        None,
    ]
    assert heard[1]["params"] == {"level": "error", "data": {"a": 1}, "logger": "box"}
    told = [heard[index]["params"] for index in (0, 2, 3)]
    assert [params.get("message") for params in told] == ["waits", "half", None]
    assert told[0]["progress"] < told[1]["progress"] < told[2]["progress"]
    assert {params["progressToken"] for params in told} == {"t"}
    assert (await daemon.heard_op("call_tool"))["name"] in ("work", "logging/setLevel")


async def test_a_modern_request_hears_the_logs_that_it_asked_for(
    shell: Shell, daemon: ScriptedDaemon
) -> None:
    async def work(peer: Peer, call: Frame) -> None:
        await peer.ack(call)
        await peer.progress(call, log={"level": "error", "data": "of " + call["arguments"]["what"]})
        await peer.answer(call, "done")

    daemon.tools["work"] = work
    asks = ENVELOPE | {"io.modelcontextprotocol/logLevel": "info"}
    async with bridging(shell) as bridge:
        for id_, meta in ((1, ENVELOPE), (2, asks)):
            arguments = {"what": str(id_)}
            await bridge.send("tools/call", id_, name="work", arguments=arguments, _meta=meta)
            await daemon.heard_op("call_tool", id_)
        assert (await bridge.hear_of("notifications/message"))["data"] == "of 2"


async def test_a_cancelled_call_is_taken_back_and_never_answered(
    bridge: BridgeProcess, daemon: ScriptedDaemon
) -> None:
    await bridge.send("tools/call", 5, name="hang")
    call = await daemon.heard_op("call_tool")
    await bridge.send("notifications/cancelled", requestId="5")
    assert (await daemon.heard_op("cancel_tool"))["request_id"] == call["request_id"]
    answer = await bridge.call("echo", 5, text="again")
    assert answer["result"]["isError"] is False


async def test_what_a_request_carries_goes_along(
    bridge: BridgeProcess, daemon: ScriptedDaemon
) -> None:
    meta = {
        "exai/idempotencyKey": "invoice-7",
        "traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01",
        "box/page": 3,
        "progressToken": 1,
    }
    await bridge.ask(
        "tools/call",
        name="echo",
        arguments={"text": "x"},
        _meta=meta,
        inputResponses={"a": {"action": "accept"}},
        requestState="s",
    )
    call = await daemon.heard_op("call_tool")
    assert call["idempotency_key"] == "invoice-7"
    assert call["traceparent"] == meta["traceparent"]
    assert call["meta"] == {"traceparent": meta["traceparent"], "box/page": 3}
    assert call["input"] == {"inputResponses": {"a": {"action": "accept"}}, "requestState": "s"}
    bad = await bridge.ask("tools/call", name="echo", _meta={"exai/idempotencyKey": "a b"})
    assert bad["error"]["code"] == INVALID_PARAMS


async def test_blocks_structure_and_meta_of_a_result_arrive_as_they_are(
    bridge: BridgeProcess, daemon: ScriptedDaemon
) -> None:
    outputs = [
        {"type": "image", "data": "aGk=", "mimeType": "image/png", "_meta": {"x": 1}},
        {"type": "resource_link", "uri": "a:b", "name": "n"},
    ]

    async def show(peer: Peer, call: Frame) -> None:
        await peer.ack(call)
        await peer.say(
            "call_tool_res",
            request_id=call["request_id"],
            ok=True,
            outputs=outputs,
            text="",
            structured={"a": [1]},
            _meta={"box/k": 1},
        )

    daemon.tools["show"] = show
    assert (await bridge.call("show"))["result"] == {
        "content": outputs,
        "isError": False,
        "structuredContent": {"a": [1]},
        "_meta": {"box/k": 1},
    }


async def test_a_refusal_is_a_result_and_an_unknown_tool_an_error(
    bridge: BridgeProcess, daemon: ScriptedDaemon
) -> None:
    async def refuse(peer: Peer, call: Frame) -> None:
        await peer.fail(call, "OVER_CAPACITY", "full", retryable=True, retry_after_s=1.5)

    async def unknown(peer: Peer, call: Frame) -> None:
        await peer.fail(call, "TOOL_NOT_FOUND", "there is no tool")

    daemon.tools |= {"refuse": refuse, "unknown": unknown}
    await bridge.ask("tools/list", "l")
    refused = await bridge.call("refuse")
    assert refused["result"]["content"] == [{"type": "text", "text": "OVER_CAPACITY: full"}]
    assert reason_of(refused) == {
        "code": "OVER_CAPACITY",
        "message": "full",
        "retryable": True,
        "retry_after_s": 1.5,
    }
    assert refused["result"]["structuredContent"] == reason_of(refused)
    assert (await bridge.call("unknown"))["error"] == {
        "code": INVALID_PARAMS,
        "message": "Unknown tool: unknown",
    }


async def test_another_method_is_a_call_whose_structure_is_the_result(
    bridge: BridgeProcess, daemon: ScriptedDaemon
) -> None:
    async def read(peer: Peer, call: Frame) -> None:
        await peer.ack(call)
        contents = [{"uri": call["arguments"]["uri"], "text": "t"}]
        await peer.answer(call, "", structured={"contents": contents, "ttlMs": 5})

    async def refuse(peer: Peer, call: Frame) -> None:
        details = {"jsonrpc_code": -32002, "jsonrpc_data": {"uri": "a:b"}}
        await peer.fail(call, "TOOL_EXECUTION_ERROR", "not found", details=details)

    async def unknown(peer: Peer, call: Frame) -> None:
        await peer.fail(call, "TOOL_NOT_FOUND", "there is no tool")

    daemon.tools |= {"resources/read": read, "prompts/get": refuse, "prompts/list": unknown}
    answer = await bridge.ask("resources/read", uri="a:b", _meta={"box/k": 1})
    assert answer["result"] == {"contents": [{"uri": "a:b", "text": "t"}]}
    assert (await daemon.heard_op("call_tool"))["meta"] == {"box/k": 1}
    assert (await bridge.ask("prompts/get", name="p"))["error"] == {
        "code": -32002,
        "message": "not found",
        "data": {"uri": "a:b"},
    }
    assert (await bridge.ask("prompts/list"))["error"]["code"] == METHOD_NOT_FOUND


@pytest.mark.parametrize("method", ["tasks/list", "sampling/createMessage", "server/discover"])
async def test_what_it_cannot_do_is_refused_by_the_protocols_own_error(
    bridge: BridgeProcess, method: str
) -> None:
    assert (await bridge.ask(method))["error"]["code"] == METHOD_NOT_FOUND


async def test_a_tool_that_asks_for_more_can_do_so_in_the_modern_era_alone(
    shell: Shell, daemon: ScriptedDaemon
) -> None:
    asked = {"inputRequests": {"a": {"method": "roots/list"}}, "requestState": "s"}

    async def ask(peer: Peer, call: Frame) -> None:
        await peer.ack(call)
        await peer.answer(call, "", input_required=asked)

    daemon.tools["ask"] = ask
    async with bridging(shell) as bridge:
        result = (await bridge.ask("tools/call", name="ask", _meta=ENVELOPE))["result"]
        assert {"resultType": "input_required", **asked}.items() <= result.items()
    async with bridging(shell) as bridge:
        await bridge.shake_hands()
        assert reason_of(await bridge.call("ask"))["code"] == "TOOL_EXECUTION_ERROR"


async def test_news_become_notifications(bridge: BridgeProcess, daemon: ScriptedDaemon) -> None:
    async def tell(peer: Peer, call: Frame) -> None:
        await peer.ack(call)
        for uri in ("c:d", "a:b"):
            await peer.say("resource_updated", uri=uri)
        await peer.say("prompts_changed")
        await peer.say("resources_changed")
        daemon.tools.pop("hang", None)
        await peer.say("tools_changed")
        await peer.answer(call, "told")

    async def agree(peer: Peer, call: Frame) -> None:
        await peer.ack(call)
        await peer.answer(call, "", structured={})

    daemon.tools |= {"tell": tell, "resources/subscribe": agree}
    await bridge.ask("tools/list")
    assert (await bridge.ask("resources/subscribe", uri="a:b"))["result"] == {}
    await bridge.send("tools/call", 2, name="tell")
    assert await bridge.hear_of("notifications/resources/updated") == {"uri": "a:b"}
    await bridge.hear_of("notifications/prompts/list_changed")
    await bridge.hear_of("notifications/resources/list_changed")
    await bridge.hear_of("notifications/tools/list_changed")
    tools = (await bridge.ask("tools/list", 3))["result"]["tools"]
    assert "hang" not in [tool["name"] for tool in tools]


async def test_a_modern_client_hears_what_it_listens_to(
    shell: Shell, daemon: ScriptedDaemon
) -> None:
    async def tell(peer: Peer, call: Frame) -> None:
        await peer.ack(call)
        await peer.say("prompts_changed")
        await peer.say("resource_updated", uri="a:b")
        await peer.answer(call, "told")

    async def agree(peer: Peer, call: Frame) -> None:
        await peer.ack(call)
        await peer.answer(call, "", structured={})

    daemon.tools |= {"tell": tell, "resources/subscribe": agree, "resources/unsubscribe": agree}
    async with bridging(shell) as bridge:
        wanted = {"toolsListChanged": True, "resourceSubscriptions": ["a:b"]}
        await bridge.send("subscriptions/listen", "s", notifications=wanted, _meta=ENVELOPE)
        opening = await bridge.hear_of("notifications/subscriptions/acknowledged")
        meta = {"io.modelcontextprotocol/subscriptionId": "s"}
        assert opening == {"notifications": wanted, "_meta": meta}
        await until(lambda: "resources/subscribe" in [f.get("name") for f in daemon.heard])
        await bridge.send("tools/call", 2, name="tell", _meta=ENVELOPE)
        message = await bridge.hear()
        assert message["params"] == {"uri": "a:b", "_meta": meta}
        await bridge.answer_to(2)
        await bridge.send("notifications/cancelled", requestId="s")
        await until(lambda: "resources/unsubscribe" in [f.get("name") for f in daemon.heard])


async def test_what_is_no_message_is_refused_and_does_no_harm(bridge: BridgeProcess) -> None:
    lines: list[tuple[bytes, Any]] = [
        (b"hello\n", None),
        (b"\xff\xfe{}\n", None),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]\n', None),
        (b'{"jsonrpc":"2.0","id":4,"method":"ping"\n', 4),
        (b'{"jsonrpc":"2.0","id":5,"method":"ping","params":[1]}\n', 5),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}\n', None),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}\n', None),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}\n', None),
        (b'{"jsonrpc":"2.0","id":{"a":1},"method":"ping"}\n', None),
        (b"[" * 100_000 + b"\n", None),
        (b'{"jsonrpc":"2.0","id":6,"method":"ping","params":' + b'{"a":' * 5000 + b"\n", 6),
    ]
    for line, id_ in lines:
        await bridge.write(line)
        refusal = await bridge.hear()
        assert refusal["id"] == id_, line[:80]
        assert refusal["error"]["code"] in (-32700, INVALID_REQUEST, INVALID_PARAMS), line[:80]
    await bridge.write(b"\n  \r\n")
    await bridge.write(b'{"jsonrpc":"2.0","id":9,"result":{}}\n')
    await bridge.write(b'{"jsonrpc":"2.0","id":7,"method":"ping"}\r\n')
    assert (await bridge.hear()) == {"jsonrpc": "2.0", "id": 7, "result": {}}


async def test_a_half_character_does_not_lose_a_call(bridge: BridgeProcess) -> None:
    call = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":'
    await bridge.write(call + b'{"text":"\\ud83d"}}}\n')
    assert (await bridge.answer_to(1))["result"]["isError"] is False


async def test_a_line_that_never_ends_is_dropped_and_its_request_refused(
    bridge: BridgeProcess,
) -> None:
    await bridge.write(b'{"jsonrpc":"2.0","id":8,"method":"ping","params":{"x":"')
    for _ in range(100):
        await bridge.write(b"x" * 1_048_576)
    await bridge.write(b'"}}\n')
    refusal = await bridge.answer_to(8)
    assert refusal["error"]["code"] == INVALID_REQUEST
    assert peak_bytes(bridge) < 250_000_000
    assert (await bridge.ask("ping", 9))["result"] == {}


def peak_bytes(bridge: BridgeProcess) -> int:
    status = Path(f"/proc/{bridge.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


async def test_it_ends_with_its_input_and_what_runs_is_taken_back(
    bridge: BridgeProcess, daemon: ScriptedDaemon
) -> None:
    await bridge.send("tools/call", 1, name="hang")
    await daemon.heard_op("call_tool")
    bridge.close_stdin()
    end = await bridge.end()
    assert (end.status, end.out) == (ExitCode.OK, "")
    await daemon.heard_op("bye")


async def test_what_stands_before_the_end_of_the_input_is_answered(shell: Shell) -> None:
    async with bridging(shell) as bridge:
        await bridge.write(
            b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n{"jsonrpc":"2.0","id":2,"method":"ping"}'
        )
        bridge.close_stdin()
        end = await bridge.end()
    assert [json.loads(line)["id"] for line in end.out.splitlines()] == [1, 2]


async def test_it_ends_with_the_process_that_started_it_though_its_input_stays_open(
    shell: Shell, daemon: ScriptedDaemon
) -> None:
    script = 'exec 3<&0; "$0" -m exai bridge <&3 & echo $!; read forever'
    ide = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", script, sys.executable),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env=shell.environ,
        cwd=shell.home,
    )
    assert ide.stdout is not None
    pid = int(await ide.stdout.readline())
    await daemon.heard_op("list_tools")
    ide.kill()
    await until(lambda: not is_alive(pid))
    await daemon.heard_op("bye")
    await ide.communicate()


async def test_a_wrong_token_is_told_at_once(shell: Shell, daemon: ScriptedDaemon) -> None:
    shell.environ["EXAI_WS_TOKEN"] = "another-token-of-some-length"
    async with bridging(shell) as bridge:
        assert "result" in await bridge.shake_hands()
        async with asyncio.timeout(5):
            end = await bridge.end()
    assert end.status == ExitCode.UNAUTHORIZED
    assert end.err == f"exai: the daemon at {daemon.url} refused the token (EXAI_WS_TOKEN)\n"


async def test_without_a_daemon_it_answers_what_it_knows_and_waits_for_one(
    shell: Shell, daemon: ScriptedDaemon
) -> None:
    await has_listed(shell, daemon)
    known = [*daemon.tools]
    daemon.token = None  # it lets nobody in
    fix_ports(shell)
    async with bridging(shell, "--patience", "0.5") as bridge:
        await bridge.shake_hands()
        reason = reason_of(await bridge.call("echo"))
        assert (reason["code"], reason["retryable"]) == ("SERVICE_UNAVAILABLE", True)
        assert "nobody answers at" in reason["message"]
        await bridge.send("tools/list", 2)
        assert (await bridge.ask("ping", 3))["result"] == {}
        bridge.close_stdin()
        assert (await bridge.end()).status == ExitCode.OK
    assert known


async def test_the_last_known_list_is_told_at_once_and_its_change_afterwards(
    shell: Shell, daemon: ScriptedDaemon
) -> None:
    await has_listed(shell, daemon)
    go_on = asyncio.Event()

    async def greet_late(peer: Peer, hello: Frame) -> None:
        await go_on.wait()
        await peer.say("hello_ack", ok=True, protocol="exai.v1", session_id="s2")

    daemon.ops["hello"] = greet_late
    daemon.tools.pop("hang")
    async with bridging(shell) as bridge:
        await bridge.shake_hands()
        first = (await bridge.ask("tools/list"))["result"]["tools"]
        assert [tool["name"] for tool in first] == ["echo", "hang"]
        go_on.set()
        await bridge.hear_of("notifications/tools/list_changed")
        second = (await bridge.ask("tools/list", 2))["result"]["tools"]
        assert [tool["name"] for tool in second] == ["echo"]


async def test_the_list_of_one_identity_is_not_shown_to_another(
    shell: Shell, daemon: ScriptedDaemon
) -> None:
    await has_listed(shell, daemon)
    files = list((shell.home / ".local/state/exai/bridge").iterdir())
    assert [oct(path.stat().st_mode & 0o777) for path in files] == ["0o600"]
    assert TOKEN not in files[0].name + files[0].read_text()
    shell.environ["EXAI_WS_TOKEN"] = daemon.token = "another-token-of-some-length"
    daemon.ops["hello"] = lambda peer, hello: asyncio.sleep(0)
    async with bridging(shell) as bridge:
        await bridge.shake_hands()
        await bridge.send("tools/list", 1)
        assert (await bridge.ask("ping", 2))["result"] == {}
        bridge.close_stdin()
        assert '"id":1' not in (await bridge.end()).out


async def test_a_client_that_does_not_read_is_not_written_to_without_end(
    bridge: BridgeProcess, daemon: ScriptedDaemon
) -> None:
    said = asyncio.Event()

    async def shout(peer: Peer, call: Frame) -> None:
        await peer.ack(call)
        for number in range(3000):
            await peer.progress(call, progress=number, message="x" * 10_000)
        said.set()
        await peer.answer(call, "done")

    daemon.tools["shout"] = shout
    await bridge.ask("tools/list", "l")
    transport: Any = bridge.process.stdout._transport  # type: ignore[union-attr]  # noqa: SLF001
    transport.pause_reading()
    await bridge.send("tools/call", 1, name="shout", _meta={"progressToken": 1})
    async with asyncio.timeout(PATIENCE_S):
        await said.wait()
    assert peak_bytes(bridge) < 80_000_000
    transport.resume_reading()
    assert (await bridge.answer_to(1))["result"]["content"][0]["text"] == "done"


async def test_it_ends_though_nobody_reads_and_its_input_is_closed_meanwhile(
    bridge: BridgeProcess, daemon: ScriptedDaemon
) -> None:
    async def fill(peer: Peer, call: Frame) -> None:
        await peer.ack(call)
        await peer.answer(call, "x" * 6_000_000, meta={"call_id": "c"})

    daemon.tools["fill"] = fill
    transport: Any = bridge.process.stdout._transport  # type: ignore[union-attr]  # noqa: SLF001
    transport.pause_reading()
    await bridge.send("tools/call", 1, name="fill")
    await daemon.heard_op("ack")
    for number in range(50):
        await bridge.send("ping", number + 2)
    bridge.close_stdin()
    async with asyncio.timeout(PATIENCE_S):
        await daemon.heard_op("bye")
    transport.resume_reading()
    assert (await bridge.end()).status == ExitCode.OK


async def test_it_ends_when_nobody_can_read_any_more(
    bridge: BridgeProcess, daemon: ScriptedDaemon
) -> None:
    await daemon.heard_op("list_tools")
    transport: Any = bridge.process.stdout._transport  # type: ignore[union-attr]  # noqa: SLF001
    transport.close()
    async with asyncio.timeout(PATIENCE_S):
        assert await bridge.process.wait() == ExitCode.OK


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it(bridge: BridgeProcess, number: signal.Signals) -> None:
    bridge.process.send_signal(number)
    assert (await bridge.end()).status == 128 + number


async def test_a_file_may_be_its_input(shell: Shell) -> None:
    (shell.home / "in").write_bytes(b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
    with (shell.home / "in").open() as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "exai", "bridge"),
            stdin=file,
            stdout=PIPE,
            stderr=PIPE,
            env=shell.environ,
            cwd=shell.home,
        )
    out, _ = await process.communicate()
    assert json.loads(out)["id"] == 1


async def test_it_is_there_soon_and_stays_small(shell: Shell, daemon: ScriptedDaemon) -> None:
    loop = asyncio.get_running_loop()
    begun_at = loop.time()
    async with bridging(shell) as bridge:
        await bridge.shake_hands()
        took_s = loop.time() - begun_at
        await bridge.call("echo", text="x")
        assert took_s < 2.0  # 0.13 s where nothing else runs
        assert peak_bytes(bridge) < 50_000_000
