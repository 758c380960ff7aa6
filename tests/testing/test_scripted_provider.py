"""The scripted LLM service does as it is told, and tells what was done to it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from exai.core.config import ProviderConfig
from exai.core.errors import ProviderFailed
from exai.providers.openai_compatible import OpenAICompatible
from exai.providers.openai_sdk import OpenAISdk
from exai.providers.provider import ChatRequest, Message
from exai.testing.recorded_run import RecordedRun
from exai.testing.scripted_provider import (
    Exchange,
    ScriptedProvider,
    answers,
    fails,
)

Ask = Callable[[ScriptedProvider, str], Awaitable[str]]


@pytest.fixture
async def ask() -> AsyncIterator[Ask]:
    sdk = OpenAISdk(max_reply_bytes=1000)

    async def ask(service: ScriptedProvider, model: str) -> str:
        config = ProviderConfig(base_url=service.base_url, max_attempts=1)
        provider = OpenAICompatible("acme", config, sdk)
        request = ChatRequest(model=model, messages=(Message("user", "say this"),))
        async with asyncio.timeout(5):
            return (await provider.complete(request, RecordedRun())).text

    yield ask
    await sdk.close()


async def test_unscripted_it_says_the_prompt_back(ask: Ask) -> None:
    async with ScriptedProvider() as service:
        assert await ask(service, "m") == "say this"
        assert [request.prompt for request in service.requests] == ["say this"]


async def test_what_comes_next_goes_before_the_models_own_script_and_that_before_the_rest(
    ask: Ask,
) -> None:
    async with ScriptedProvider() as service:
        service.script(answers("rest"))
        service.script(answers("own"), model="m")
        service.script_next(answers("first"), fails(500))
        assert await ask(service, "m") == "first"
        with pytest.raises(ProviderFailed):
            await ask(service, "m")
        assert await ask(service, "m") == "own"
        assert await ask(service, "other") == "rest"


async def test_a_fault_of_a_behaviour_is_raised_at_the_end(ask: Ask) -> None:
    async def behave(exchange: Exchange) -> None:
        assert exchange.request.model == "another"

    with pytest.raises(ExceptionGroup) as raised:
        async with ScriptedProvider() as service:
            service.script(behave)
            with pytest.raises(ProviderFailed):
                await ask(service, "m")
    assert raised.group_contains(AssertionError)


async def test_waiting_for_what_does_not_happen_ends() -> None:
    async with ScriptedProvider() as service:
        with pytest.raises(TimeoutError):
            await service.wait_for_requests(1, timeout_s=0.01)


async def test_closing_ends_what_is_in_flight(ask: Ask) -> None:
    async with asyncio.TaskGroup() as tasks:
        async with ScriptedProvider() as service:
            service.script(answers(asyncio.Event()))
            asked = tasks.create_task(failure_of(ask(service, "m")))
            await service.wait_for_requests(1)
        assert service.in_flight == 0
    assert "broke the connection off" in asked.result()


async def failure_of(asked: Awaitable[object]) -> str:
    with pytest.raises(ProviderFailed) as failed:
        await asked
    return str(failed.value)
