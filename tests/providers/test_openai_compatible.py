"""One OpenAI-compatible service, over real HTTP."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from exai.core.config import ProviderConfig, Secret
from exai.core.errors import ErrorInfo, NotConfigured, ProviderFailed, ResultTooLarge
from exai.core.outcomes import Usage
from exai.providers.openai_compatible import OpenAICompatible
from exai.providers.openai_sdk import OpenAISdk
from exai.providers.provider import ChatReply, ChatRequest, Message
from exai.testing.recorded_run import RecordedRun
from exai.testing.scripted_provider import (
    Behaviour,
    Exchange,
    ScriptedProvider,
    answers,
    disconnects,
    ends_early,
    fails,
    never_answers,
    streams_raw,
)

KEY = "sk-a-secret-that-never-shows"
HALF = b'data: {"choices":[{"delta":{"content":"half"}}]}\n\n'
Ask = Callable[..., Awaitable[ChatReply]]


@pytest.fixture
async def sdk() -> AsyncIterator[OpenAISdk]:
    sdk = OpenAISdk(max_reply_bytes=1000)
    yield sdk
    await sdk.close()


@pytest.fixture
def provider(service: ScriptedProvider, sdk: OpenAISdk) -> OpenAICompatible:
    return provider_at(service.base_url, sdk)


def provider_at(base_url: str, sdk: OpenAISdk, *, idle_timeout_s: float = 5) -> OpenAICompatible:
    config = ProviderConfig(
        base_url=base_url, api_key=Secret(KEY), idle_timeout_s=idle_timeout_s, max_attempts=1
    )
    return OpenAICompatible("acme", config, sdk)


async def ask(
    provider: OpenAICompatible,
    prompt: str = "hello there",
    *,
    run: RecordedRun | None = None,
    temperature: float | None = None,
) -> ChatReply:
    messages = (Message("system", "Be brief."), Message("user", prompt))
    request = ChatRequest(model="acme-1", messages=messages, temperature=temperature)
    async with asyncio.timeout(5):
        return await provider.complete(request, run or RecordedRun())


async def failure_of(asked: Awaitable[object]) -> ErrorInfo:
    with pytest.raises(ProviderFailed) as failed:
        await asked
    return failed.value.describe()


async def test_the_answer_is_streamed_and_returned_whole(
    service: ScriptedProvider, provider: OpenAICompatible
) -> None:
    service.script(answers("The capital ", "is ", "Paris."))
    run = RecordedRun()
    reply = await ask(provider, run=run)
    assert reply == ChatReply(
        text="The capital is Paris.", model="acme-1", finish_reason="stop", usage=Usage(7, 5)
    )
    assert run.deltas == ["The capital ", "is ", "Paris."]


async def test_a_piece_arrives_before_the_answer_is_whole(
    service: ScriptedProvider, provider: OpenAICompatible
) -> None:
    gate = asyncio.Event()
    service.script(answers("first ", gate, "second"))
    run = RecordedRun()
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(ask(provider, run=run))
        async with asyncio.timeout(5):
            await run.has_streamed.wait()
        assert run.streamed == "first "
        gate.set()
    assert asked.result().text == "first second"


async def test_the_service_gets_what_was_asked_and_nothing_of_another_services_variables(
    service: ScriptedProvider, provider: OpenAICompatible, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID", "BASE_URL"):
        monkeypatch.setenv(f"OPENAI_{name}", f"http://leaked-{name}")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer leaked")
    await ask(provider, "hello", temperature=0.5)
    request = service.requests[0]
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert "leaked" not in str(request)
    assert request.body == {
        "model": "acme-1",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hello"},
        ],
        "temperature": 0.5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_a_service_without_a_key_gets_none(
    service: ScriptedProvider, sdk: OpenAISdk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "leaked")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "leaked")
    await ask(OpenAICompatible("acme", ProviderConfig(base_url=service.base_url), sdk))
    assert "leaked" not in str(service.requests[0])
    assert "temperature" not in service.requests[0].body


async def test_the_machines_proxy_is_not_used_for_loopback(
    service: ScriptedProvider, provider: OpenAICompatible, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert (await ask(provider, "hello")).text == "hello"


async def test_one_connection_serves_call_after_call(
    service: ScriptedProvider, provider: OpenAICompatible
) -> None:
    for _ in range(3):
        await ask(provider)
    assert service.connection_count == 1


async def test_calls_run_side_by_side(
    service: ScriptedProvider, provider: OpenAICompatible
) -> None:
    gate = asyncio.Event()
    service.script(answers(gate, "done"))
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(ask(provider)) for _ in range(5)]
        await service.wait_for_requests(5)
        assert service.max_in_flight == 5
        gate.set()
    assert [task.result().text for task in asked] == ["done"] * 5


@pytest.mark.parametrize(
    "behaviour", [never_answers, answers("begun ", asyncio.Event())], ids=["silent", "begun"]
)
async def test_cancelling_closes_the_http_stream_and_the_next_call_works(
    service: ScriptedProvider, provider: OpenAICompatible, behaviour: Behaviour
) -> None:
    service.script_next(behaviour)
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(ask(provider))
        await service.wait_for_requests(1)
        asked.cancel()
    assert asked.cancelled()
    await service.wait_for_disconnects(1)
    assert service.in_flight == 0
    assert (await ask(provider, "again")).text == "again"


async def test_an_answer_without_usage_is_whole(
    service: ScriptedProvider, provider: OpenAICompatible
) -> None:
    service.script(answers("fine", usage=None))
    assert (await ask(provider)).usage is None


async def test_an_answer_that_was_cut_off_by_length_says_so(
    service: ScriptedProvider, provider: OpenAICompatible
) -> None:
    service.script(answers("too lo", reason="length"))
    assert (await ask(provider)).finish_reason == "length"


async def test_the_model_that_really_answered_is_named(
    service: ScriptedProvider, provider: OpenAICompatible
) -> None:
    async def behave(exchange: Exchange) -> None:
        exchange.model = "acme-1-0711"
        await answers("hi")(exchange)

    service.script(behave)
    assert (await ask(provider)).model == "acme-1-0711"


PARTS = {
    "ended": (ends_early("half an "), "in the middle"),
    "dropped": (disconnects("half an "), "broke the connection off"),
    "never begun": (disconnects(), "broke the connection off"),
    "unfinished, with usage": (answers("half an ", reason=None), "in the middle"),
    "unfinished": (streams_raw(HALF, b"data: [DONE]\n\n"), "in the middle"),
    "no JSON": (streams_raw(HALF, b"data: {not json\n\n"), "malformed"),
    "no event": (streams_raw(HALF, b"data: [1]\n\n"), "malformed"),
    "error": (streams_raw(HALF, b'data: {"error":{"message":"no memory"}}\n\n'), "no memory"),
    "error text": (streams_raw(HALF, b'data: {"error":"no luck"}\n\n'), "no luck"),
    "noise": (streams_raw(b"\x00\xff" * 1000), "in the middle"),
}


@pytest.mark.parametrize(("behaviour", "words"), PARTS.values(), ids=PARTS)
async def test_a_part_of_an_answer_is_a_failure_that_may_be_tried_again(
    service: ScriptedProvider, provider: OpenAICompatible, behaviour: Behaviour, words: str
) -> None:
    service.script_next(behaviour)
    failure = await failure_of(ask(provider))
    assert failure.retryable
    assert failure.message.startswith("acme ")
    assert words in failure.message
    assert (await ask(provider, "again")).text == "again"


async def test_an_answer_that_is_whole_survives_a_connection_that_breaks_after_it(
    service: ScriptedProvider, provider: OpenAICompatible
) -> None:
    end = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'

    async def behave(exchange: Exchange) -> None:
        await exchange.send_raw(HALF + end)
        exchange.disconnect()

    service.script(behave)
    assert (await ask(provider)).text == "half"


async def test_a_service_that_keeps_the_stream_open_after_its_end_does_not_hold_the_answer(
    service: ScriptedProvider, provider: OpenAICompatible
) -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.say("whole")
        await exchange.send({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        await exchange.send_raw(b"data: [DONE]\n\n")
        await never_answers(exchange)

    service.script(behave)
    assert (await ask(provider)).text == "whole"
    await service.wait_for_disconnects(1)


@pytest.mark.parametrize("text", ["", " \n"])
async def test_an_empty_answer_is_a_failure(
    service: ScriptedProvider, provider: OpenAICompatible, text: str
) -> None:
    service.script(answers(text, reason="content_filter"))
    failure = await failure_of(ask(provider))
    assert "empty" in failure.message
    assert "content_filter" in failure.message
    assert not failure.retryable


async def test_an_endless_answer_is_refused_and_its_stream_closed(
    service: ScriptedProvider, provider: OpenAICompatible
) -> None:
    async def behave(exchange: Exchange) -> None:
        while True:
            await exchange.say("x" * 100)

    service.script(behave)
    with pytest.raises(ResultTooLarge):
        await ask(provider)
    await service.wait_for_disconnects(1)


async def test_an_endless_event_is_refused_and_its_stream_closed(
    service: ScriptedProvider, provider: OpenAICompatible
) -> None:
    async def behave(exchange: Exchange) -> None:
        while True:
            await exchange.send_raw(b"data: " + b"x" * 100_000)

    service.script(behave)
    assert "too large" in (await failure_of(ask(provider))).message
    await service.wait_for_disconnects(1)


async def test_what_is_no_stream_is_named(
    service: ScriptedProvider, provider: OpenAICompatible
) -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.reply(200, b"<html>welcome</html>", {"content-type": "text/html"})

    service.script(behave)
    failure = await failure_of(ask(provider))
    assert "text/html" in failure.message
    assert not failure.retryable


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        *((status, False) for status in (301, 400, 401, 403, 404, 422)),
        *((status, True) for status in (408, 429, 500, 502, 503, 529)),
    ],
)
async def test_a_status_says_whether_to_try_again(
    service: ScriptedProvider, provider: OpenAICompatible, status: int, retryable: bool
) -> None:
    service.script(fails(status))
    failure = await failure_of(ask(provider))
    assert failure.retryable is retryable
    assert failure.details == {"provider": "acme", "status": status}
    assert "the script says no" in failure.message
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "1e9"}, 86_400.0),
        (
            {
                "date": "Sun, 22 Nov 2026 10:00:00 GMT",
                "retry-after": "Sun, 22 Nov 2026 10:00:20 GMT",
            },
            20.0,
        ),
    ],
)
async def test_retry_after_is_passed_on(
    service: ScriptedProvider,
    provider: OpenAICompatible,
    headers: dict[str, str],
    seconds: float,
) -> None:
    service.script(fails(429, headers=headers))
    assert (await failure_of(ask(provider))).retry_after_s == seconds


@pytest.mark.parametrize("text", ["soon", "nan", "inf", "Sun, 22 Nov 99999999999 10:00:20 GMT", ""])
async def test_an_odd_retry_after_is_none(
    service: ScriptedProvider, provider: OpenAICompatible, text: str
) -> None:
    service.script(fails(429, headers={"retry-after": text}))
    assert not isinstance((await failure_of(ask(provider))).retry_after_s, float)


async def test_a_date_to_come_back_counts_from_now_where_the_answer_has_none(
    service: ScriptedProvider, provider: OpenAICompatible
) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    service.script(fails(429, headers={"retry-after": later}))
    retry_after_s = (await failure_of(ask(provider))).retry_after_s
    assert isinstance(retry_after_s, float)
    assert 3000 < retry_after_s <= 3600


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": 3, "completion_tokens": None}, {"prompt_tokens": 3}, [], "many", 7]
)
async def test_odd_counts_of_tokens_are_no_reason_to_lose_an_answer(
    service: ScriptedProvider, provider: OpenAICompatible, usage: object
) -> None:
    async def behave(exchange: Exchange) -> None:
        choice = {"index": 0, "delta": {"content": "yes"}, "finish_reason": "stop"}
        await exchange.send({"choices": [choice], "usage": usage})
        await exchange.finish(None, usage=None)

    service.script(behave)
    reply = await ask(provider)
    assert (reply.text, reply.usage, len(service.requests)) == ("yes", None, 1)


@pytest.mark.parametrize("status", [301, 400, 429, 503])
async def test_no_more_is_read_of_a_failure_than_its_beginning(
    service: ScriptedProvider, provider: OpenAICompatible, status: int
) -> None:
    body = b"it is like this: " + b"x" * 70_000

    async def behave(exchange: Exchange) -> None:
        chunk = b"%x\r\n%b\r\n" % (len(body), body)
        await exchange.reply(status, chunk, {"transfer-encoding": "chunked"})
        await never_answers(exchange)  # the last chunk, that is

    service.script(behave)
    failure = await failure_of(ask(provider))
    assert failure.details == {"provider": "acme", "status": status}
    assert "it is like this: xxx" in failure.message
    await service.wait_for_disconnects(1)


async def test_a_spent_quota_is_not_to_be_tried_again(
    service: ScriptedProvider, provider: OpenAICompatible
) -> None:
    service.script(fails(429, code="insufficient_quota", headers={"retry-after": "1"}))
    failure = await failure_of(ask(provider))
    assert not failure.retryable
    assert "quota" in failure.message


async def test_the_key_never_shows_and_foreign_text_is_made_harmless(
    service: ScriptedProvider, provider: OpenAICompatible
) -> None:
    service.script(fails(401, message=f"bad key {KEY}\x1b[31m\n" + "x" * 5000))
    failure = await failure_of(ask(provider))
    assert KEY not in failure.message
    assert "bad key ***" in failure.message
    assert failure.message.isprintable()
    assert len(failure.message) < 400


async def test_nobody_listening_is_a_failure_that_may_be_tried_again(sdk: OpenAISdk) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed_soon:
        port = closed_soon.getsockname()[1]
    failure = await failure_of(ask(provider_at(f"http://127.0.0.1:{port}/v1", sdk)))
    assert failure.retryable
    assert "cannot be reached" in failure.message


async def test_silence_is_a_failure_and_closes_the_stream(
    service: ScriptedProvider, sdk: OpenAISdk
) -> None:
    service.script(answers("begun ", asyncio.Event()))
    failure = await failure_of(ask(provider_at(service.base_url, sdk, idle_timeout_s=0.1)))
    assert "silent" in failure.message
    assert failure.retryable
    await service.wait_for_disconnects(1)


async def test_without_its_key_a_service_says_which_one_to_set(sdk: OpenAISdk) -> None:
    config = ProviderConfig(base_url="https://kimi.invalid/v1", key_required=True)
    for name, words in (("kimi", "KIMI_API_KEY"), ("acme", "[providers.acme]")):
        provider = OpenAICompatible(name, config, sdk)
        with pytest.raises(NotConfigured, match=words.replace("[", r"\[")):
            await ask(provider)


async def test_many_first_callers_load_the_sdk_together(
    service: ScriptedProvider, sdk: OpenAISdk
) -> None:
    provider = provider_at(service.base_url, sdk)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(ask(provider))
    assert len(service.requests) == 4
