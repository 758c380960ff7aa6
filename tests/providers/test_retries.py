"""A service that fails in ways that may pass is asked again, while its caller has time."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from exai.core.config import ProviderConfig
from exai.core.errors import ErrorCode, ErrorInfo, ProviderFailed
from exai.core.outcomes import Usage
from exai.providers.openai_compatible import OpenAICompatible
from exai.providers.openai_sdk import OpenAISdk
from exai.providers.provider import ChatReply, ChatRequest, Message
from exai.providers.retries import RetryPolicy
from exai.testing.recorded_run import RecordedRun
from exai.testing.scripted_provider import (
    Behaviour,
    ScriptedProvider,
    answers,
    disconnects,
    ends_early,
    fails,
    never_answers,
)

REQUEST = ChatRequest(model="acme-1", messages=(Message("user", "hello"),))
FAILURE = ErrorInfo(ErrorCode.PROVIDER_ERROR, "it failed", retryable=True)


class Pauses:
    """Pauses that take no time, and are written down; or one that never ends."""

    def __init__(self) -> None:
        self.taken_s: list[float] = []
        self.never_end = False
        self.begun = asyncio.Event()

    async def __call__(self, pause_s: float) -> None:
        self.taken_s.append(pause_s)
        self.begun.set()
        if self.never_end:
            await asyncio.Event().wait()


@pytest.fixture
async def sdk() -> AsyncIterator[OpenAISdk]:
    sdk = OpenAISdk(max_reply_bytes=1000)
    yield sdk
    await sdk.close()


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


@pytest.fixture
def provider(service: ScriptedProvider, sdk: OpenAISdk, pauses: Pauses) -> OpenAICompatible:
    config = ProviderConfig(base_url=service.base_url, idle_timeout_s=0.2, max_attempts=3)
    return OpenAICompatible("acme", config, sdk, pauses)


async def ask(provider: OpenAICompatible, run: RecordedRun | None = None) -> ChatReply:
    async with asyncio.timeout(20):
        return await provider.complete(REQUEST, run or RecordedRun())


async def failure_of(provider: OpenAICompatible, run: RecordedRun | None = None) -> ErrorInfo:
    with pytest.raises(ProviderFailed) as failed:
        await ask(provider, run)
    return failed.value.describe()


@pytest.mark.parametrize(
    "first",
    [fails(408), fails(429), fails(500), fails(503), disconnects(), ends_early(), never_answers],
    ids=["408", "429", "500", "503", "dropped", "ended", "silent"],
)
async def test_what_may_pass_is_tried_again(
    service: ScriptedProvider, provider: OpenAICompatible, first: Behaviour
) -> None:
    service.script_next(first, answers("Paris.", usage=(11, 3)))
    reply = await ask(provider)
    assert (reply.text, reply.attempts, reply.usage) == ("Paris.", 2, Usage(11, 3))


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422])
async def test_what_will_not_pass_is_not_tried_again(
    service: ScriptedProvider, provider: OpenAICompatible, status: int
) -> None:
    service.script_next(fails(status))
    assert (await failure_of(provider)).retryable is False
    assert len(service.requests) == 1


async def test_a_new_attempt_starts_its_text_again(
    service: ScriptedProvider, provider: OpenAICompatible
) -> None:
    service.script_next(disconnects("Lon", "don"), answers("Par", "is."))
    run = RecordedRun()
    assert (await ask(provider, run)).text == "Paris."
    assert (run.streamed, run.attempt) == ("Paris.", 2)


async def test_attempts_are_counted_and_have_an_end(
    service: ScriptedProvider, provider: OpenAICompatible, pauses: Pauses
) -> None:
    service.script_next(fails(500), fails(502), fails(503))
    run = RecordedRun()
    failure = await failure_of(provider, run)
    assert failure.details == {"provider": "acme", "status": 503, "attempts": 3}
    assert failure.retryable
    assert len(service.requests) == 3
    assert len(pauses.taken_s) == 2
    assert [message.rpartition(";")[0] for message in run.messages] == [
        "acme failed (500): the script says no",
        "acme failed (502): the script says no",
    ]


async def test_a_service_that_says_when_is_asked_then(
    service: ScriptedProvider, provider: OpenAICompatible, pauses: Pauses
) -> None:
    service.script_next(fails(429, headers={"retry-after": "7"}), answers("Paris."))
    assert (await ask(provider)).attempts == 2
    assert pauses.taken_s == [7.0]


async def test_a_caller_without_the_time_for_it_is_told_at_once(
    service: ScriptedProvider, provider: OpenAICompatible, pauses: Pauses
) -> None:
    service.script_next(fails(429, headers={"retry-after": "7"}))
    failure = await failure_of(provider, RecordedRun(timeout_s=7.5))
    assert failure.retry_after_s == 7.0
    assert failure.details == {"provider": "acme", "status": 429}
    assert pauses.taken_s == []


async def test_a_cancelled_pause_ends_at_once(
    service: ScriptedProvider, provider: OpenAICompatible, pauses: Pauses
) -> None:
    pauses.never_end = True
    service.script_next(fails(503))
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(ask(provider))
        await pauses.begun.wait()
        asking.cancel()
    assert len(service.requests) == 1


def test_pauses_grow_to_a_bound() -> None:
    policy = RetryPolicy(max_attempts=100)
    for attempts, most_s in ((1, 0.5), (2, 1.0), (3, 2.0), (5, 8.0), (50, 8.0)):
        pauses_s = [policy.pause_s(FAILURE, attempts, left_s=100.0) for _ in range(200)]
        assert all(pause_s is not None and 0 <= pause_s <= most_s for pause_s in pauses_s)
        assert max(pause_s or 0 for pause_s in pauses_s) > most_s / 2


def test_the_last_second_is_not_worth_an_attempt() -> None:
    policy = RetryPolicy(max_attempts=5)
    assert policy.pause_s(FAILURE, 1, left_s=0.9) is None
