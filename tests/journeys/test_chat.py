"""`chat` over a real socket: a real small model, and a service that does as it is told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from exai.core.config import (
    KNOWN_PROVIDERS,
    LimitsConfig,
    LocalModelConfig,
    ProviderConfig,
    Secret,
)
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from exai.testing.scripted_provider import (
    Behaviour,
    ScriptedProvider,
    answers,
    disconnects,
    ends_early,
    fails,
)
from tests.journeys.wire import Frame, Wire, open_wire


@pytest.fixture
async def service() -> AsyncIterator[ScriptedProvider]:
    async with ScriptedProvider() as running:
        yield running


@pytest.fixture
async def daemon(tmp_path: Path, service: ScriptedProvider) -> AsyncIterator[RunningDaemon]:
    scripted = ProviderConfig(
        base_url=service.base_url, api_key=Secret("k"), models=("m1",), max_inflight=2
    )
    config = daemon_config(tmp_path, providers={**KNOWN_PROVIDERS, "scripted": scripted})
    async with running_daemon(config) as running:
        yield running


async def until_answered(wire: Wire, request_id: str = "r1") -> tuple[list[Frame], Frame]:
    """Return the progress frames of a call, and its answer."""
    progress = []
    while (frame := await wire.hear())["op"] != "call_tool_res":
        if frame["op"] == "progress":
            progress.append(frame)
    assert frame["request_id"] == request_id
    return progress, frame


def joined_deltas(progress: list[Frame]) -> str:
    """Join the deltas of the last attempt, each of which must follow on the one before."""
    text, attempt = "", 1
    for frame in progress:
        if frame.get("delta") is None:
            continue
        if frame["attempt"] != attempt:
            text, attempt = "", frame["attempt"]
        assert frame["offset"] == len(text)
        text += frame["delta"]
    return text


async def test_an_answer_is_streamed_as_it_comes_and_returned_whole(
    daemon: RunningDaemon, service: ScriptedProvider
) -> None:
    rest = asyncio.Event()
    service.script(answers("The capital ", rest, "is Paris 😀."))
    async with open_wire(daemon.url, token=TOKEN) as wire:
        await wire.say("call_tool", name="chat", request_id="r1", arguments={"prompt": "Where?"})
        first = await wire.hear_op("progress")
        assert (first["delta"], first["offset"], first["attempt"]) == ("The capital ", 0, 1)
        rest.set()
        progress, answer = await until_answered(wire)
    assert answer["text"] == "The capital is Paris 😀." == joined_deltas([first, *progress])
    assert answer["meta"]["provider"] == "scripted"
    assert answer["meta"]["model"] == "m1"
    assert answer["meta"]["usage"] == {"input_tokens": 7, "output_tokens": 5}


async def test_cancelling_closes_the_stream_at_the_service(
    daemon: RunningDaemon, service: ScriptedProvider
) -> None:
    service.script(answers("never ending", asyncio.Event()))
    async with open_wire(daemon.url, token=TOKEN) as wire:
        await wire.say("call_tool", name="chat", request_id="r1", arguments={"prompt": "x"})
        await wire.hear_op("progress")
        await wire.say("cancel_tool", request_id="r1")
        assert (await wire.result())["error"]["code"] == "CANCELLED"
        await service.wait_for_disconnects(1)


async def test_a_time_out_closes_the_stream_at_the_service(
    daemon: RunningDaemon, service: ScriptedProvider
) -> None:
    service.script(answers(asyncio.Event()))
    async with open_wire(daemon.url, token=TOKEN) as wire:
        answer = await wire.call("chat", arguments={"prompt": "x"}, timeout_s=0.3)
        assert answer["error"]["code"] == "TIMEOUT"
        await service.wait_for_disconnects(1)


async def test_no_more_requests_reach_a_service_than_it_takes(
    daemon: RunningDaemon, service: ScriptedProvider
) -> None:
    async with (
        open_wire(daemon.url, token=TOKEN) as one,
        open_wire(daemon.url, token=TOKEN) as other,
    ):
        for wire in (one, other):
            for n in range(10):
                await wire.say(
                    "call_tool",
                    name="chat",
                    request_id=f"r{n}",
                    arguments={"prompt": f"p{n}", "temperature": 0.5 if wire is one else 1},
                )
        for wire in (one, other):
            assert all([(await wire.result(f"r{n}"))["ok"] for n in range(10)])
    assert len(service.requests) == 20
    assert service.max_in_flight == 2


@pytest.mark.parametrize("break_off", [disconnects, ends_early])
async def test_a_stream_that_breaks_off_is_never_a_whole_answer(
    daemon: RunningDaemon, service: ScriptedProvider, break_off: Callable[[str], Behaviour]
) -> None:
    service.script(break_off("half an "))
    async with open_wire(daemon.url, token=TOKEN) as wire:
        answer = await wire.call("chat", arguments={"prompt": "x"})
    assert answer["ok"] is False
    assert answer["error"]["code"] == "PROVIDER_ERROR"


async def test_a_services_refusal_says_when_to_come_back(
    daemon: RunningDaemon, service: ScriptedProvider
) -> None:
    service.script(fails(429, headers={"retry-after": "7"}))
    async with open_wire(daemon.url, token=TOKEN) as wire:
        answer = await wire.call("chat", arguments={"prompt": "x"}, timeout_s=6)
    assert len(service.requests) == 1  # there is no time for another
    assert answer["error"]["code"] == "PROVIDER_ERROR"
    assert answer["error"]["details"]["status"] == 429
    assert answer["error"]["retryable"] is True
    assert answer["error"]["retry_after_s"] == 7.0


async def test_a_service_that_fails_is_asked_again_and_the_text_starts_again(
    daemon: RunningDaemon, service: ScriptedProvider
) -> None:
    service.script_next(disconnects("Lon"), answers("Par", "is."))
    async with open_wire(daemon.url, token=TOKEN) as wire:
        await wire.say("call_tool", name="chat", request_id="r1", arguments={"prompt": "x"})
        progress, answer = await until_answered(wire)
    deltas = [(f["attempt"], f["offset"], f["delta"]) for f in progress if "delta" in f]
    assert deltas == [(1, 0, "Lon"), (2, 0, ""), (2, 0, "Par"), (2, 3, "is.")]
    assert any("trying again in" in frame.get("message", "") for frame in progress)
    assert answer["text"] == "Paris."
    assert answer["meta"]["attempts"] == 2


async def test_without_a_key_or_a_local_model_chat_says_what_to_do(tmp_path: Path) -> None:
    async with (
        running_daemon(daemon_config(tmp_path)) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        nothing = await wire.call("chat", "r1", arguments={"prompt": "x"})
        kimi = await wire.call("chat", "r2", arguments={"prompt": "x", "model": "kimi-latest"})
        wrong = await wire.call("chat", "r3", arguments={"prompt": "x", "model": "gpt-0"})
    assert nothing["error"]["code"] == kimi["error"]["code"] == "NOT_CONFIGURED"
    assert "KIMI_API_KEY" in kimi["error"]["message"]
    assert wrong["error"]["details"]["path"] == "/model"


@pytest.mark.slow
async def test_the_local_model_answers_without_any_key(tmp_path: Path) -> None:
    config = daemon_config(
        tmp_path, local=LocalModelConfig(), limits=LimitsConfig(call_timeout_s=60.0)
    )
    async with running_daemon(config) as daemon, open_wire(daemon.url, token=TOKEN) as wire:
        listed = (await wire.call("listmodels", "r0"))["structured"]["models"]
        [default] = [model for model in listed if model["default"]]
        assert default["provider"] == "local"
        question = {"prompt": "What is the capital of France?", "temperature": 0}
        await wire.say("call_tool", name="chat", request_id="r1", arguments=question)
        progress, answer = await until_answered(wire)
    assert answer["ok"], answer
    assert "Paris" in answer["text"]
    assert joined_deltas(progress) == answer["text"]
    assert answer["meta"]["usage"]["output_tokens"] > 0
    assert answer["meta"]["provider"] == "local"
