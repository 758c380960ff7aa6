"""What a session's own server asks the client of its calls, in both eras of MCP."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from exai.core.client_side import AskFailed
from exai.core.config import UpstreamConfig
from exai.core.errors import ToolFailed, UpstreamFailed
from exai.core.outcomes import text_of
from exai.testing.scripted_client import ScriptedClient
from tests.upstream.running_server import Run, Running, personal, running, scripted, until

TESTS = Path(__file__).parent.parent
FORM = {
    "mode": "form",
    "message": "Who are you?",
    "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}},
}
LINK = {
    "mode": "url",
    "message": "Go there.",
    "url": "https://example.com/",
    "elicitationId": "e1",
}
SAMPLE = {"messages": [], "maxTokens": 5}
TOOLED = {**SAMPLE, "tools": [{"name": "t", "inputSchema": {"type": "object"}}]}
ANSWERS: dict[str, dict[str, Any] | AskFailed] = {
    "elicitation/create": {"action": "accept", "content": {"name": "Ann"}},
    "sampling/createMessage": {
        "role": "assistant",
        "content": {"type": "text", "text": "hello"},
        "model": "m",
        "stopReason": "endTurn",
    },
    "roots/list": {"roots": [{"uri": "file:///home", "name": "home"}]},
}
QUESTIONS = [("elicitation/create", FORM), ("sampling/createMessage", SAMPLE), ("roots/list", {})]
MODERN: dict[str, Any] = {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}

each_question = pytest.mark.parametrize(("method", "params"), QUESTIONS)


@pytest.mark.slow
@each_question
async def test_a_server_of_2025_asks_in_mid_call(method: str, params: dict[str, Any]) -> None:
    client = ScriptedClient(ANSWERS)
    async with running(personal("--legacy")) as srv:
        said = await srv.say("ask", Run(client=client), method=method, params=params)
    assert json.loads(said) == ANSWERS[method]
    ((asked, with_params),) = client.asked
    assert asked == method
    assert params.items() <= with_params.items()


@pytest.mark.slow
@each_question
async def test_a_server_of_2026_is_told_and_called_again(
    method: str, params: dict[str, Any]
) -> None:
    client = ScriptedClient(ANSWERS)
    async with running(personal()) as srv:
        run = Run(client=client)
        said = await srv.say("ask", run, method=method, params=params, rounds=3)
    assert json.loads(said) == [{"q0": ANSWERS[method]}] * 3
    assert [asked for asked, _ in client.asked] == [method] * 3


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--legacy"]], ids=["2026", "2025"])
async def test_a_server_is_told_what_the_client_of_its_first_call_declared(
    options: list[str],
) -> None:
    declared = {"sampling": {"tools": {}}, "roots": {"listChanged": True}}
    client = ScriptedClient(capabilities={**declared, "experimental": {"x": {}}})
    async with running(personal(*options)) as srv:
        assert json.loads(await srv.say("capabilities", Run("s1", client))) == declared
        assert json.loads(await srv.say("capabilities", Run("s2"))) == {}


@pytest.mark.parametrize(
    ("declared", "method", "params", "code"),
    [
        ({}, "elicitation/create", FORM, -32601),
        ({"roots": {}}, "sampling/createMessage", SAMPLE, -32601),
        ({"sampling": {}}, "roots/list", {}, -32601),
        ({"elicitation": {}}, "elicitation/create", LINK, -32602),
        ({"elicitation": {"url": {}}}, "elicitation/create", FORM, -32602),
        ({"sampling": {}}, "sampling/createMessage", TOOLED, -32602),
    ],
)
async def test_what_is_not_declared_is_refused_as_the_protocol_says(
    declared: dict[str, Any], method: str, params: dict[str, Any], code: int
) -> None:
    client = ScriptedClient(ANSWERS, capabilities=declared)
    async with running(scripted(instance="session")) as srv:
        said = await srv.say("ask", Run(client=client), method=method, params=params)
    assert json.loads(said)["error"]["code"] == code
    assert not client.asked


async def test_what_no_client_is_asked_is_refused() -> None:
    async with running(scripted(instance="session")) as srv:
        run = Run(client=ScriptedClient(ANSWERS))
        refused = json.loads(await srv.say("ask", run, method="tasks/list"))
    assert refused["error"]["code"] == -32601


@pytest.mark.parametrize("instance", ["shared", "principal"])
async def test_a_server_of_many_is_offered_no_client(instance: str) -> None:
    client = ScriptedClient(ANSWERS)
    async with running(scripted(instance=instance)) as srv:
        refused = json.loads(await srv.say("ask", Run(client=client), method="roots/list"))
    assert refused["error"]["code"] == -32601
    assert not client.asked


async def test_how_the_client_refuses_reaches_the_server_untouched() -> None:
    refusal = AskFailed(-1, "the user said no", {"why": "busy"})
    client = ScriptedClient({"sampling/createMessage": refusal})
    async with running(scripted(instance="session")) as srv:
        said = await srv.say("ask", Run(client=client), method="sampling/createMessage")
    error = {"code": -1, "message": "the user said no", "data": {"why": "busy"}}
    assert json.loads(said) == {"error": error}


async def test_the_client_of_the_call_under_way_is_asked_not_that_of_one_that_ended() -> None:
    first, second = ScriptedClient(), ScriptedClient(ANSWERS)
    async with running(scripted(instance="session")) as srv, asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(srv.call("wait", Run(client=first)))
        await until(lambda: srv.server.statistics().running_count == 1)
        assert await srv.say("count", Run(client=second)) == "1"
        await srv.call("tell", id="own-1", method="roots/list")
        await first.wait_asked()
        assert not second.asked
        waiting.cancel()


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--legacy"]], ids=["2026", "2025"])
async def test_a_call_that_is_cancelled_asks_no_more(options: list[str]) -> None:
    client = ScriptedClient()
    async with running(personal(*options)) as srv:
        async with asyncio.TaskGroup() as tasks:
            call = tasks.create_task(
                srv.call("ask", Run(client=client), method="elicitation/create", params=FORM)
            )
            await client.wait_asked()
            call.cancel()
        await client.wait_given_up()
        assert await srv.say("count", Run(client=client)) == "1"


async def test_a_question_has_the_time_of_its_call() -> None:
    client = ScriptedClient()
    async with running(scripted(instance="session")) as srv:
        run = Run(client=client, timeout_s=0.1)
        said = json.loads(await srv.say("ask", run, method="sampling/createMessage"))
    assert said["error"] == {"code": -32603, "message": "the client did not answer in time"}
    assert client.given_up == ["sampling/createMessage"]


async def test_the_servers_end_takes_its_questions_back() -> None:
    client = ScriptedClient()
    async with running(scripted(instance="session")) as srv:
        async with asyncio.TaskGroup() as tasks:
            call = tasks.create_task(
                _failure_of(srv, Run(client=client), method="elicitation/create", params=FORM)
            )
            await client.wait_asked()
            srv.server.end_session("s1")
        assert isinstance(call.result(), UpstreamFailed)
        await client.wait_given_up()


@pytest.mark.slow
async def test_a_refusal_in_a_round_fails_the_call_and_asks_no_further() -> None:
    client = ScriptedClient({"elicitation/create": AskFailed(-1, "the user has left")})
    async with running(personal()) as srv:
        error = await _failure_of(srv, Run(client=client), method="elicitation/create", params=FORM)
    assert isinstance(error, ToolFailed)
    assert str(error) == (
        "the tool asks the client for more (elicitation/create), in vain: the user has left"
    )


@pytest.mark.slow
@pytest.mark.parametrize("instance", ["session", "shared"])
async def test_a_server_of_2026_that_asks_where_nobody_can_be_asked_fails_its_call(
    instance: str,
) -> None:
    async with running(personal(instance=instance)) as srv:
        error = await _failure_of(srv, Run(), method="roots/list")
        assert await srv.say("count") == "1"
    assert isinstance(error, ToolFailed)
    assert "in vain: the client has not declared roots" in str(error)


@pytest.mark.slow
async def test_rounds_without_an_end_have_one() -> None:
    client = ScriptedClient(ANSWERS)
    async with running(personal()) as srv:
        run = Run(client=client)
        error = await _failure_of(srv, run, method="roots/list", rounds=100)
    assert isinstance(error, UpstreamFailed)
    assert len(client.asked) == 10


@pytest.mark.slow
@pytest.mark.parametrize("instance", ["session", "shared"])
async def test_a_server_that_only_wants_to_be_called_again_is(instance: str) -> None:
    async with running(personal(instance=instance)) as srv:
        assert json.loads(await srv.say("ask", method="nothing", rounds=3)) == [{}, {}, {}]


@pytest.mark.slow
@pytest.mark.parametrize("instance", ["session", "shared"])
async def test_a_caller_of_2026_is_told_what_is_asked_and_comes_again_by_itself(
    instance: str,
) -> None:
    asked = {"method": "elicitation/create", "params": FORM}
    async with running(personal(instance=instance)) as srv:
        declared = await srv.say("capabilities", Run(meta=MODERN))
        assert json.loads(declared) == {"elicitation": {}}
        wanted = (await srv.call("ask", Run(meta=MODERN), **asked)).input_required
        assert wanted is not None
        assert wanted["inputRequests"]["q0"]["method"] == "elicitation/create"
        responses = {"q0": {"action": "accept", "content": {"name": "Bob"}}}
        given = {"inputResponses": responses, "requestState": wanted["requestState"]}
        answer = await srv.call("ask", Run(meta=MODERN, input=given), **asked)
    assert json.loads(text_of(answer.outputs)) == [responses]


@pytest.mark.slow
async def test_a_real_server_shows_what_only_some_clients_can_do_and_does_it() -> None:
    client, everything = (
        ScriptedClient(ANSWERS),
        UpstreamConfig(
            command="npx",
            args=("--no-install", "mcp-server-everything", "stdio"),
            cwd=TESTS,
            instance="session",
        ),
    )
    async with running(everything) as srv:
        await until(lambda: "trigger-sampling-request" in srv.listings["srv"][-1])
        run = Run(client=client)
        said = await srv.say("trigger-sampling-request", run, prompt="p", maxTokens=5)
        assert "hello" in said
        said = await srv.say("trigger-elicitation-request", run)
        assert "Ann" in said
        said = await srv.say("get-roots-list", run)
        assert "file:///home" in said


async def _failure_of(srv: Running, run: Run, **arguments: Any) -> Exception | None:
    try:
        await srv.call("ask", run, **arguments)
    except (ToolFailed, UpstreamFailed) as error:
        return error
    return None
