"""The `chat` tool, over real providers."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import jsonschema_rs
import pytest

from exai.core.clock import SystemClock
from exai.core.config import ConversationsConfig, LocalModelConfig, ProviderConfig
from exai.core.errors import ArgumentsInvalid, NotConfigured, ProviderFailed
from exai.core.events import Event
from exai.core.identity import Principal
from exai.core.outcomes import Completed, ExecutionFacts, Usage
from exai.processes.process_guard import ProcessGuard
from exai.providers.registry import ProviderRegistry
from exai.stores.memory_conversations import MemoryConversationStore
from exai.testing.recorded_run import RecordedRun
from exai.testing.scripted_provider import (
    ScriptedProvider,
    answers,
    fails,
    never_answers,
)
from exai.tools.chat import ChatTool

TESTER = Principal("tester")


class Deaf:
    def emit(self, event: Event) -> None:
        pass


@pytest.fixture
async def service() -> AsyncIterator[ScriptedProvider]:
    async with ScriptedProvider() as service:
        yield service


@pytest.fixture
async def chat(service: ScriptedProvider) -> AsyncIterator[ChatTool]:
    acme = ProviderConfig(base_url=service.base_url, models=("acme-1", "acme-*"))
    kimi = ProviderConfig(base_url=service.base_url, key_required=True, models=("kimi",))
    async with ProcessGuard() as guard, asyncio.TaskGroup() as tasks:
        providers = ProviderRegistry(
            {"acme": acme, "kimi": kimi},
            LocalModelConfig(),
            events=Deaf(),
            guard=guard,
            tasks=tasks,
            max_result_bytes=100_000,
        )
        yield ChatTool(providers, MemoryConversationStore(), ConversationsConfig(), SystemClock())
        await providers.close()


async def call(chat: ChatTool, run: RecordedRun | None = None, **arguments: object) -> Completed:
    chat.check(arguments)
    async with asyncio.timeout(40):
        return await chat.run(arguments, run or RecordedRun())


async def test_the_answer_is_text_with_its_facts(service: ScriptedProvider, chat: ChatTool) -> None:
    service.script(answers("Hello ", "you."))
    run = RecordedRun()
    completed = await call(chat, run, prompt="hi")
    assert completed == Completed(
        [{"type": "text", "text": "Hello you."}],
        structured={"provider": "acme", "model": "acme-1", "finish_reason": "stop"},
        facts=ExecutionFacts(1, "acme", "acme-1", Usage(7, 5)),
    )
    assert run.streamed == "Hello you."


async def test_the_structured_result_is_what_the_schema_promises(chat: ChatTool) -> None:
    assert chat.spec.output_schema is not None
    completed = await call(chat, prompt="hi")
    jsonschema_rs.validate(chat.spec.output_schema, completed.structured)


async def test_every_argument_reaches_the_model(service: ScriptedProvider, chat: ChatTool) -> None:
    await call(chat, prompt="hi", model="acme-9", system_prompt="Be kind.", temperature=0)
    body = service.requests[0].body
    assert body["model"] == "acme-9"
    assert body["temperature"] == 0
    assert body["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "hi"},
    ]


@pytest.mark.parametrize("arguments", [{}, {"model": "auto"}], ids=["none", "auto"])
async def test_without_a_model_the_default_is_asked(
    service: ScriptedProvider, chat: ChatTool, arguments: dict[str, object]
) -> None:
    await chat.run({"prompt": "hi", **arguments}, RecordedRun())
    assert service.requests[0].model == "acme-1"


BAD_ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "no prompt": ({}, ""),
    "empty prompt": ({"prompt": ""}, "/prompt"),
    "prompt is a number": ({"prompt": 7}, "/prompt"),
    "too hot": ({"prompt": "hi", "temperature": 2.5}, "/temperature"),
    "too cold": ({"prompt": "hi", "temperature": -1}, "/temperature"),
    "empty model": ({"prompt": "hi", "model": ""}, "/model"),
    "too large to be checked": ({"prompt": [1] * 1_000_000}, ""),
    "unknown argument": ({"prompt": "hi", "promt": "hi"}, ""),
}


@pytest.mark.parametrize(("arguments", "path"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
async def test_what_cannot_be_asked_is_refused(
    chat: ChatTool, arguments: dict[str, Any], path: str
) -> None:
    with pytest.raises(ArgumentsInvalid) as refused:
        chat.check(arguments)
    details = refused.value.describe().details
    assert isinstance(details, dict)
    assert details["path"].startswith(path)


async def test_capacity_is_that_of_the_models_provider(chat: ChatTool) -> None:
    demand = await chat.demand_of({"prompt": "hi"}, TESTER)
    assert demand.scope == "provider:acme"
    demand = await chat.demand_of({"prompt": "hi", "model": "smollm2-135m"}, TESTER)
    assert demand.scope == "provider:local"


async def test_before_it_waits_a_call_learns_that_its_model_cannot_be_asked(chat: ChatTool) -> None:
    with pytest.raises(ArgumentsInvalid):
        await chat.demand_of({"prompt": "hi", "model": "nobody"}, TESTER)
    with pytest.raises(NotConfigured):
        await chat.demand_of({"prompt": "hi", "model": "kimi"}, TESTER)


async def test_a_providers_failure_is_the_calls(service: ScriptedProvider, chat: ChatTool) -> None:
    service.script(fails(503))
    with pytest.raises(ProviderFailed):
        await call(chat, prompt="hi")


async def test_cancelling_the_call_cancels_the_request(
    service: ScriptedProvider, chat: ChatTool
) -> None:
    service.script(never_answers)
    async with asyncio.TaskGroup() as tasks:
        called = tasks.create_task(call(chat, prompt="hi"))
        await service.wait_for_requests(1)
        called.cancel()
    await service.wait_for_disconnects(1)


@pytest.mark.slow
async def test_the_local_model_answers(chat: ChatTool) -> None:
    completed = await call(
        chat, prompt="What is the capital of France?", model="smollm2-135m", temperature=0
    )
    assert "Paris" in completed.outputs[0]["text"]
    assert completed.facts.provider == "local"
