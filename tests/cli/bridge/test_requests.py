"""What `exai bridge` makes of each request, before a scripted daemon."""

import asyncio
from typing import Any

import pytest

from exai.core.mcp_words import INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND
from tests.cli.bridge_process import (
    ENVELOPE,
    BridgeProcess,
    bridging,
    peak_bytes,
    reason_of,
)
from tests.cli.exai_process import Shell
from tests.client.scripted_daemon import Frame, Peer, ScriptedDaemon
from tests.processes.process_tree import until


async def agree(peer: Peer, call: Frame) -> None:
    await peer.ack(call)
    await peer.answer(call, "", structured={})


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

    daemon.tools |= {"work": work, "logging/setLevel": agree}
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
    set_level = next(f for f in daemon.heard if f.get("name") == "logging/setLevel")
    assert set_level["arguments"] == {"level": "warning"}


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
    shell: Shell, daemon: ScriptedDaemon
) -> None:
    async def refuse(peer: Peer, call: Frame) -> None:
        await peer.fail(call, "OVER_CAPACITY", "full", retryable=True, retry_after_s=1.5)

    async def unknown(peer: Peer, call: Frame) -> None:
        await peer.fail(call, "TOOL_NOT_FOUND", "there is no tool")

    daemon.tools |= {"refuse": refuse, "unknown": unknown}
    async with bridging(shell) as bridge:
        await bridge.shake_hands()
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
        for uri in ("c:d", "a:b", "a:b/part"):
            await peer.say("resource_updated", uri=uri)
        await peer.say("prompts_changed")
        await peer.say("resources_changed")
        daemon.tools.pop("hang", None)
        await peer.say("tools_changed")
        await peer.answer(call, "told")

    daemon.tools |= {"tell": tell, "resources/subscribe": agree}
    await bridge.ask("tools/list")
    assert (await bridge.ask("resources/subscribe", uri="a:b"))["result"] == {}
    await bridge.send("tools/call", 2, name="tell")
    assert await bridge.hear_of("notifications/resources/updated") == {"uri": "a:b"}
    assert await bridge.hear_of("notifications/resources/updated") == {"uri": "a:b/part"}
    await bridge.hear_of("notifications/prompts/list_changed")
    await bridge.hear_of("notifications/resources/list_changed")
    await bridge.hear_of("notifications/tools/list_changed")
    tools = (await bridge.ask("tools/list", 3))["result"]["tools"]
    assert "hang" not in [tool["name"] for tool in tools]


async def test_a_client_that_does_not_read_is_told_late_and_once_of_each_resource(
    bridge: BridgeProcess, daemon: ScriptedDaemon
) -> None:
    async def fill(peer: Peer, call: Frame) -> None:
        await peer.ack(call)
        await peer.answer(call, "x" * 6_000_000, meta={"call_id": "c"})

    async def tell(peer: Peer, call: Frame) -> None:
        await peer.ack(call)
        for number in range(500):
            await peer.say("resource_updated", uri=f"a:b/{number}")
            await peer.say("resource_updated", uri=f"c:d/{number}")
        await peer.say("prompts_changed")
        await peer.answer(call, "told", meta={"call_id": "d"})

    daemon.tools |= {"fill": fill, "tell": tell, "resources/subscribe": agree}
    await bridge.ask("resources/subscribe", uri="a:b")
    with bridge.unread():
        await bridge.send("tools/call", 2, name="fill")
        await daemon.heard_op("ack")
        await bridge.send("tools/call", 3, name="tell")
        await daemon.heard_op("ack", 2)
    heard = [await bridge.hear() for _ in range(4)]
    assert [message.get("id") for message in heard] == [2, 3, None, None]
    assert heard[2]["params"] == {"uri": "a:b"}
    assert heard[3]["method"] == "notifications/prompts/list_changed"


async def test_a_modern_client_hears_what_it_listens_to(
    shell: Shell, daemon: ScriptedDaemon
) -> None:
    async def tell(peer: Peer, call: Frame) -> None:
        await peer.ack(call)
        await peer.say("prompts_changed")
        await peer.say("resource_updated", uri="a:b")
        await peer.answer(call, "told")

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
