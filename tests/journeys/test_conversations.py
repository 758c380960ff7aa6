"""Conversations with a model over sockets: it remembers what was said, and nobody else's."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from exai.core.config import LimitsConfig, PrincipalConfig, ProviderConfig, Secret
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from exai.testing.scripted_provider import ScriptedProvider, answers, fails, never_answers
from tests.journeys.wire import Frame, Wire, open_wire

OTHER_TOKEN = "token-of-somebody-else-0123456789"


@pytest.fixture
async def service() -> AsyncIterator[ScriptedProvider]:
    async with ScriptedProvider() as running:
        yield running


@pytest.fixture
async def daemon(tmp_path: Path, service: ScriptedProvider) -> AsyncIterator[RunningDaemon]:
    scripted = ProviderConfig(
        base_url=service.base_url,
        api_key=Secret("k"),
        models=("m1", "m2"),
        max_inflight=4,
        max_attempts=1,
    )
    principals = {
        "default": PrincipalConfig(token=Secret(TOKEN)),
        "other": PrincipalConfig(token=Secret(OTHER_TOKEN)),
    }
    config = daemon_config(tmp_path, providers={"scripted": scripted}, principals=principals)
    async with running_daemon(config) as running:
        yield running


@pytest.fixture
async def wire(daemon: RunningDaemon) -> AsyncIterator[Wire]:
    async with open_wire(daemon.url, token=TOKEN) as opened:
        yield opened


async def chat(wire: Wire, request_id: str, prompt: str, **arguments: Any) -> Frame:
    return await wire.call("chat", request_id, arguments={"prompt": prompt, **arguments})


def told(service: ScriptedProvider, request: int) -> list[tuple[str, str]]:
    """Return what the service was told in one of its requests, counted from the last with -1."""
    messages = service.requests[request].body["messages"]
    return [(message["role"], message["content"]) for message in messages]


async def test_the_model_is_told_what_was_said_before(
    wire: Wire, service: ScriptedProvider
) -> None:
    service.script_next(answers("Hello Ada."), answers("Ada."), answers("Bye."))
    first = await chat(wire, "r1", "I am Ada.", system_prompt="Be brief.", model="m2")
    talk = first["structured"]["continuation_id"]
    second = await chat(wire, "r2", "Who am I?", continuation_id=talk)
    assert second["text"] == "Ada."
    assert second["structured"]["continuation_id"] == talk
    assert second["structured"]["turns_told"] == 1
    await chat(wire, "r3", "Bye!", continuation_id=talk)
    assert told(service, -1) == [
        ("system", "Be brief."),
        ("user", "I am Ada."),
        ("assistant", "Hello Ada."),
        ("user", "Who am I?"),
        ("assistant", "Ada."),
        ("user", "Bye!"),
    ]
    assert {request.model for request in service.requests} == {"m2"}


async def test_anothers_conversation_looks_like_none(
    wire: Wire, daemon: RunningDaemon, service: ScriptedProvider
) -> None:
    talk = (await chat(wire, "r1", "a secret"))["structured"]["continuation_id"]
    async with open_wire(daemon.url, token=OTHER_TOKEN) as other:
        refusals = [
            (await chat(other, f"r{n}", "tell me", continuation_id=name))["error"]
            for n, name in enumerate((talk, "no-such-talk"))
        ]
    assert refusals[0] == refusals[1]
    assert refusals[0]["code"] == "VALIDATION_ERROR"
    assert refusals[0]["details"]["path"] == "/continuation_id"
    assert len(service.requests) == 1


async def test_turns_of_one_conversation_come_one_after_the_other(
    wire: Wire, service: ScriptedProvider
) -> None:
    talk = (await chat(wire, "r0", "zero"))["structured"]["continuation_id"]
    gate = asyncio.Event()
    service.script_next(answers("first", gate), answers("second"))
    for n in (1, 2):
        arguments = {"prompt": f"prompt {n}", "continuation_id": talk}
        await wire.say("call_tool", name="chat", request_id=f"r{n}", arguments=arguments)
    waiting = await wire.hear_op("progress", request_id="r2")
    assert "behind another call of its conversation" in waiting["message"]
    await service.wait_for_requests(2)
    assert len(service.requests) == 2
    gate.set()
    assert (await wire.result("r1"))["text"] == "first"
    assert (await wire.result("r2"))["text"] == "second"
    assert told(service, -1)[2:] == [
        ("user", "prompt 1"), ("assistant", "first"), ("user", "prompt 2"),
    ]  # fmt: skip


async def test_a_turn_that_is_sent_again_under_its_key_waits_as_the_first_did(
    wire: Wire, service: ScriptedProvider
) -> None:
    talk = (await chat(wire, "r0", "zero"))["structured"]["continuation_id"]
    gate = asyncio.Event()
    service.script_next(answers("first", gate), answers("second"))
    for request_id, prompt, key in (("r1", "one", "k1"), ("r2", "two", "k2"), ("r3", "two", "k2")):
        arguments = {"prompt": prompt, "continuation_id": talk}
        await wire.say(
            "call_tool",
            name="chat",
            request_id=request_id,
            arguments=arguments,
            idempotency_key=key,
        )
        await wire.hear_op("call_tool_ack", request_id=request_id)
    await service.wait_for_requests(2)
    gate.set()
    answers_told = [await wire.result(name) for name in ("r1", "r2", "r3")]
    told_back = [answer["text"] for answer in answers_told]
    assert told_back == ["first", "second", "second"]
    assert (service.max_in_flight, len(service.requests)) == (1, 3)


async def test_a_conversation_that_is_too_long_for_the_service_goes_on_with_fewer_turns(
    wire: Wire, service: ScriptedProvider
) -> None:
    talk = (await chat(wire, "r0", "zero"))["structured"]["continuation_id"]
    for n in range(1, 5):
        await chat(wire, f"r{n}", f"prompt {n}", continuation_id=talk)
    service.script_next(fails(400, message="the context is exceeded"), answers("yes"))
    answer = await chat(wire, "r5", "go on", continuation_id=talk)
    assert (answer["text"], answer["structured"]["turns_told"]) == ("yes", 1)
    assert answer["meta"]["attempts"] == 2
    assert [content for _, content in told(service, -1)][0::2] == ["prompt 4", "go on"]


async def test_an_answer_that_is_too_large_for_a_result_is_no_turn(
    tmp_path: Path, service: ScriptedProvider
) -> None:
    scripted = ProviderConfig(base_url=service.base_url, api_key=Secret("k"), models=("m1",))
    limits = LimitsConfig(max_result_bytes=20_000)
    config = daemon_config(tmp_path, providers={"scripted": scripted}, limits=limits)
    async with (
        running_daemon(config) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        talk = (await chat(wire, "r0", "zero"))["structured"]["continuation_id"]
        service.script_next(answers('"' * 9_000), answers("yes"))
        failed = await chat(wire, "r1", "the failed turn", continuation_id=talk)
        assert failed["error"]["code"] == "RESULT_TOO_LARGE"
        await chat(wire, "r2", "next", continuation_id=talk)
    assert [content for _, content in told(service, -1)][0::2] == ["zero", "next"]


async def test_joined_chats_go_on_apart(wire: Wire, service: ScriptedProvider) -> None:
    gate = asyncio.Event()
    service.script_next(answers("Hello.", gate))
    for request_id in ("a", "b"):
        await wire.say("call_tool", name="chat", request_id=request_id, arguments={"prompt": "Hi"})
        await wire.hear_op("call_tool_ack", request_id=request_id)
    gate.set()
    one, two = [(await wire.result(name))["structured"]["continuation_id"] for name in ("a", "b")]
    assert one != two
    assert len(service.requests) == 1
    await chat(wire, "c", "only here", continuation_id=one)
    await chat(wire, "d", "and there", continuation_id=two)
    assert [content for _, content in told(service, -1)] == ["Hi", "Hello.", "and there"]


async def test_a_turn_that_fails_or_is_taken_back_leaves_nothing(
    wire: Wire, service: ScriptedProvider
) -> None:
    talk = (await chat(wire, "r1", "one"))["structured"]["continuation_id"]
    service.script_next(fails(403), never_answers, answers("here"))
    assert not (await chat(wire, "r2", "failed", continuation_id=talk))["ok"]
    arguments = {"prompt": "taken back", "continuation_id": talk}
    await wire.say("call_tool", name="chat", request_id="r3", arguments=arguments)
    await service.wait_for_requests(3)
    await wire.say("cancel_tool", request_id="r3")
    assert (await wire.result("r3"))["error"]["code"] == "CANCELLED"
    assert (await chat(wire, "r4", "four", continuation_id=talk))["text"] == "here"
    assert [content for role, content in told(service, -1) if role == "user"] == ["one", "four"]


async def test_the_same_turn_sent_again_is_one_turn(wire: Wire, service: ScriptedProvider) -> None:
    talk = (await chat(wire, "r1", "one"))["structured"]["continuation_id"]
    once = await chat(wire, "r2", "two", continuation_id=talk)
    again = await chat(wire, "r2", "two", continuation_id=talk)
    assert again["meta"]["replayed"] is True
    assert again["structured"] == once["structured"]
    await chat(wire, "r3", "three", continuation_id=talk)
    assert [content for role, content in told(service, -1) if role == "user"] == [
        "one", "two", "three",
    ]  # fmt: skip


async def test_a_turns_own_model_and_system_prompt_hold_for_that_turn(
    wire: Wire, service: ScriptedProvider
) -> None:
    first = await chat(wire, "r1", "one", model="m1", system_prompt="S1")
    talk = first["structured"]["continuation_id"]
    await chat(wire, "r2", "two", continuation_id=talk, model="m2", system_prompt="S2")
    assert (service.requests[-1].model, told(service, -1)[0]) == ("m2", ("system", "S2"))
    await chat(wire, "r3", "three", continuation_id=talk)
    assert (service.requests[-1].model, told(service, -1)[0]) == ("m1", ("system", "S1"))
