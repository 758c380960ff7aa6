"""The client's side of a session, against a scripted daemon over a real socket."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from exai.client.answers import CallResult, Progress
from exai.client.daemon_client import DaemonClient
from exai.client.errors import (
    ConnectionLost,
    DaemonUnreachable,
    HelloRefused,
    ProtocolBroken,
    RequestRefused,
    RequestTooLarge,
)
from tests.client.scripted_daemon import (
    PATIENCE_S,
    TOKEN,
    Frame,
    Peer,
    ScriptedDaemon,
    scripted_daemon,
)


@pytest.fixture
async def daemon() -> AsyncIterator[ScriptedDaemon]:
    async with scripted_daemon() as daemon:
        yield daemon


@pytest.fixture
async def client(daemon: ScriptedDaemon) -> AsyncIterator[DaemonClient]:
    async with asyncio.timeout(PATIENCE_S), DaemonClient(daemon.url, token=TOKEN) as client:
        yield client


async def test_a_call_returns_its_one_answer(client: DaemonClient) -> None:
    result = await client.call("echo", {"text": "hi"})
    assert (result.ok, result.accepted, result.text) == (True, True, '{"text": "hi"}')
    assert result.frame["op"] == "call_tool_res"


async def test_what_is_not_given_is_not_sent(client: DaemonClient, daemon: ScriptedDaemon) -> None:
    await client.call("echo")
    assert (await daemon.heard_op("call_tool")).keys() == {
        "op",
        "request_id",
        "name",
        "arguments",
        "cache",
    }


async def test_calls_side_by_side_get_their_own_answers(
    client: DaemonClient, daemon: ScriptedDaemon
) -> None:
    asked: list[Frame] = []

    async def answer_in_reverse(peer: Peer, call: Frame) -> None:
        asked.append(call)
        if len(asked) == 20:
            for earlier in reversed(asked):
                await peer.answer(earlier, str(earlier["arguments"]["n"]))

    daemon.tools["late"] = answer_in_reverse
    results = await asyncio.gather(*(client.call("late", {"n": n}) for n in range(20)))
    assert [result.text for result in results] == [str(n) for n in range(20)]


async def test_progress_reaches_the_caller_in_order(
    client: DaemonClient, daemon: ScriptedDaemon
) -> None:
    async def stream(peer: Peer, call: Frame) -> None:
        await peer.ack(call)
        await peer.progress(call, message="reads", progress=1, total=2)
        await peer.progress(call, delta="a", offset=0, attempt=1)
        await peer.progress(call, delta="b", offset=1, attempt=1)
        await peer.answer(call, "ab")

    daemon.tools["stream"] = stream
    seen: list[Progress] = []
    assert (await client.call("stream", on_progress=seen.append)).text == "ab"
    assert seen == [
        Progress(message="reads", progress=1, total=2),
        Progress(delta="a"),
        Progress(delta="b", offset=1),
    ]


async def test_a_refusal_is_told_from_a_failure(
    client: DaemonClient, daemon: ScriptedDaemon
) -> None:
    async def refuse(peer: Peer, call: Frame) -> None:
        await peer.fail(call, "OVER_CAPACITY", "full", retryable=True, retry_after_s=1.5)

    async def fail(peer: Peer, call: Frame) -> None:
        await peer.ack(call)
        await peer.fail(call, "A_CODE_OF_TOMORROW", "broken", details={"n": 1})

    daemon.tools |= {"refuse": refuse, "fail": fail}
    refused, failed = await client.call("refuse"), await client.call("fail")
    assert (refused.ok, refused.accepted) == (False, False)
    assert refused.error is not None
    assert refused.error.retry_after_s == 1.5
    assert (failed.ok, failed.accepted) == (False, True)
    assert failed.error is not None
    assert (failed.error.code, failed.error.details) == ("A_CODE_OF_TOMORROW", {"n": 1})


async def test_a_cancelled_caller_takes_its_call_back(
    client: DaemonClient, daemon: ScriptedDaemon
) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await client.call("hang", request_id="mine")
    assert (await daemon.heard_op("cancel_tool"))["request_id"] == "mine"
    assert (await client.call("echo")).ok


async def test_a_daemon_that_ignores_a_cancellation_does_not_hold_the_caller(
    client: DaemonClient, daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ignore(peer: Peer, frame: Frame) -> None:
        pass

    monkeypatch.setattr("exai.client.daemon_client._CANCEL_TIMEOUT_S", 0.05)
    daemon.ops["cancel_tool"] = ignore
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await client.call("hang")
    assert (await client.call("echo")).ok


async def test_an_error_in_the_callers_progress_takes_the_call_back_and_nothing_else(
    client: DaemonClient, daemon: ScriptedDaemon
) -> None:
    async def speak(peer: Peer, call: Frame) -> None:
        await peer.ack(call)
        await peer.progress(call, message="one")

    def raise_pipe_error(progress: Progress) -> None:
        raise BrokenPipeError

    daemon.tools["speak"] = speak
    with pytest.raises(BrokenPipeError):
        await client.call("speak", on_progress=raise_pipe_error)
    await daemon.heard_op("cancel_tool")
    assert (await client.call("echo")).ok


async def test_another_task_may_cancel_a_call(client: DaemonClient, daemon: ScriptedDaemon) -> None:
    async with asyncio.TaskGroup() as tasks:
        call = tasks.create_task(client.call("hang", request_id="mine"))
        await daemon.heard_op("call_tool")
        await client.cancel("mine", "too slow")
    result: CallResult = call.result()
    assert result.error is not None
    assert result.error.code == "CANCELLED"
    assert (await daemon.heard_op("cancel_tool"))["reason"] == "too slow"


async def test_all_who_wait_hear_that_the_connection_is_lost(
    client: DaemonClient, daemon: ScriptedDaemon
) -> None:
    async def die(peer: Peer, call: Frame) -> None:
        await peer.socket.close(1012, "service restart")

    daemon.tools["die"] = die
    waiting = (client.call("hang"), client.call("hang"), client.call("die"))
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ConnectionLost] * 3
    assert "1012 service restart" in str(outcomes[0])
    with pytest.raises(ConnectionLost):
        await client.call("echo")


async def test_a_request_id_under_way_is_not_sent_twice(
    client: DaemonClient, daemon: ScriptedDaemon
) -> None:
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(client.call("hang", request_id="mine"))
        await daemon.heard_op("call_tool")
        with pytest.raises(ValueError, match="under way"):
            await client.call("echo", request_id="mine")
        await client.cancel("mine")
    assert not first.result().ok


async def test_tools_and_health_are_asked_for_while_a_call_runs(
    client: DaemonClient, daemon: ScriptedDaemon
) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(client.call("hang", request_id="mine"))
        await daemon.heard_op("call_tool")
        assert [tool["name"] for tool in await client.list_tools()] == ["echo", "hang"]
        first, second = await asyncio.gather(client.health(), client.health())
        assert first == second == {"status": "ok"}
        await client.cancel("mine")


async def test_a_refused_listing_says_why(client: DaemonClient, daemon: ScriptedDaemon) -> None:
    async def refuse(peer: Peer, frame: Frame) -> None:
        error = {"code": "RATE_LIMITED", "message": "slower", "retryable": True}
        await peer.say("error", request_id=frame["request_id"], error=error)

    daemon.ops["list_tools"] = refuse
    with pytest.raises(RequestRefused, match="slower") as refusal:
        await client.list_tools()
    assert refusal.value.code == "RATE_LIMITED"


@pytest.mark.parametrize(
    "nonsense",
    ["no json", "[1]", '{"op":"error","request_id":null,"error":{"code":"PROTOCOL_ERROR"}}'],
)
async def test_a_daemon_that_talks_nonsense_ends_the_session_and_nobody_hangs(
    client: DaemonClient, daemon: ScriptedDaemon, nonsense: str
) -> None:
    async def talk(peer: Peer, call: Frame) -> None:
        await peer.socket.send(nonsense)

    daemon.tools["talk"] = talk
    with pytest.raises(ProtocolBroken):
        await client.call("talk")
    with pytest.raises(ProtocolBroken):
        await client.health()


async def test_frames_of_tomorrow_are_ignored(client: DaemonClient, daemon: ScriptedDaemon) -> None:
    async def surprise(peer: Peer, call: Frame) -> None:
        await peer.say("tools_changed")
        await peer.say("of_tomorrow", request_id=["odd"])
        await peer.say("of_tomorrow", request_id=call["request_id"])
        await peer.answer(call, "done", novelty=1)

    daemon.tools["surprise"] = surprise
    assert (await client.call("surprise")).text == "done"


async def test_leaving_says_bye(daemon: ScriptedDaemon) -> None:
    async with asyncio.timeout(PATIENCE_S):
        async with DaemonClient(daemon.url, token=TOKEN, client_name="tester"):
            pass
        await daemon.heard_op("bye")
    assert daemon.heard[0]["client"] == {"name": "tester"}


async def test_an_error_inside_the_session_leaves_as_it_is(daemon: ScriptedDaemon) -> None:
    with pytest.raises(KeyError):
        async with asyncio.timeout(PATIENCE_S), DaemonClient(daemon.url, token=TOKEN):
            raise KeyError


async def test_a_wrong_token_is_refused_with_its_code(daemon: ScriptedDaemon) -> None:
    with pytest.raises(HelloRefused, match="unauthorized") as refusal:
        async with asyncio.timeout(PATIENCE_S), DaemonClient(daemon.url, token="wrong"):
            pass
    assert refusal.value.code == 4003


async def test_without_a_token_none_is_sent(daemon: ScriptedDaemon) -> None:
    daemon.token = None
    async with asyncio.timeout(PATIENCE_S), DaemonClient(daemon.url):
        assert "token" not in daemon.heard[0]


async def test_nobody_listening_is_said_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(DaemonUnreachable, match=f"127.0.0.1:{port}"):
        async with asyncio.timeout(PATIENCE_S), DaemonClient(f"ws://127.0.0.1:{port}/"):
            pass


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "ws://[::1", "ws://127.0.0.1:99999/", ""])
async def test_an_odd_address_is_unreachable(url: str) -> None:
    with pytest.raises(DaemonUnreachable):
        async with asyncio.timeout(PATIENCE_S), DaemonClient(url):
            pass


async def test_a_redirect_does_not_take_the_token_elsewhere(daemon: ScriptedDaemon) -> None:
    def redirect(socket: ServerConnection, request: Request) -> Response:
        response = socket.respond(302, "")
        response.headers["Location"] = daemon.url
        return response

    async with serve(daemon.serve, "127.0.0.1", 0, process_request=redirect) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        with pytest.raises(DaemonUnreachable, match="302"):
            async with asyncio.timeout(PATIENCE_S), DaemonClient(f"ws://127.0.0.1:{port}/"):
                pass
    assert daemon.heard == []


async def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with asyncio.timeout(PATIENCE_S), DaemonClient(daemon.url, token=TOKEN) as client:
        assert (await client.call("echo")).ok


async def test_a_server_that_is_no_daemon_is_told_from_one() -> None:
    async def parrot(socket: ServerConnection) -> None:
        async for message in socket:
            await socket.send(message)

    async with serve(parrot, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        with pytest.raises(ProtocolBroken, match="no EXAI daemon"):
            async with asyncio.timeout(PATIENCE_S), DaemonClient(f"ws://127.0.0.1:{port}/"):
                pass


async def test_a_daemon_that_never_greets_is_given_up(
    daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ignore(peer: Peer, frame: Frame) -> None:
        pass

    monkeypatch.setattr("exai.client.link.HELLO_TIMEOUT_S", 0.05)
    daemon.ops["hello"] = ignore
    with pytest.raises(DaemonUnreachable, match="hello"):
        async with asyncio.timeout(PATIENCE_S), DaemonClient(daemon.url, token=TOKEN):
            pass


async def test_outside_of_its_context_a_client_answers_nobody(daemon: ScriptedDaemon) -> None:
    client = DaemonClient(daemon.url, token=TOKEN)
    with pytest.raises(ConnectionLost, match="was not opened"):
        await client.call("echo")
    async with client:
        waiting = asyncio.ensure_future(client.call("hang"))
        await daemon.heard_op("call_tool")
    with pytest.raises(ConnectionLost, match="was closed"):
        await waiting
    with pytest.raises(ConnectionLost, match="was closed"):
        await client.health()


@pytest.mark.parametrize("request_id", ["a b", "ä", "x" * 129, "\n"])
async def test_a_request_id_that_is_none_is_refused_here(
    client: DaemonClient, daemon: ScriptedDaemon, request_id: str
) -> None:
    with pytest.raises(ValueError, match="is not 1 to 128"):
        await client.call("echo", request_id=request_id)
    await client.cancel(request_id)
    await client.health()
    assert [frame["op"] for frame in daemon.heard] == ["hello", "health"]


async def test_arguments_that_no_daemon_takes_are_refused_here(
    client: DaemonClient, daemon: ScriptedDaemon
) -> None:
    deep: list[object] = []
    for _ in range(70):
        deep = [deep]
    for arguments in ({"deep": deep}, {"many": [0] * 100_001}):
        with pytest.raises(RequestTooLarge):
            await client.call("echo", arguments)
    assert (await client.call("echo")).ok


async def test_a_result_that_was_erased_is_that_of_an_accepted_call(
    client: DaemonClient, daemon: ScriptedDaemon
) -> None:
    async def has_run(peer: Peer, call: Frame) -> None:
        details = {"reason": "acknowledged", "ok": True}
        await peer.fail(call, "RESULT_UNKNOWN", "the result was erased", details=details)

    async def never_heard_of(peer: Peer, call: Frame) -> None:
        await peer.fail(call, "RESULT_UNKNOWN", "nothing is known")

    daemon.tools |= {"ran": has_run, "unknown": never_heard_of}
    assert (await client.call("ran")).accepted
    assert not (await client.call("unknown")).accepted


async def test_a_connection_that_drops_before_the_hello_is_answered_is_no_refusal(
    daemon: ScriptedDaemon,
) -> None:
    async def drop(peer: Peer, hello: Frame) -> None:
        peer.socket.transport.abort()

    daemon.ops["hello"] = drop
    with pytest.raises(DaemonUnreachable, match="drops us"):
        async with DaemonClient(daemon.url, token=TOKEN):
            pass
