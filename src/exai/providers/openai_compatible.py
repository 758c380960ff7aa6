"""An LLM service that speaks OpenAI's chat completions: Kimi, GLM and most others."""

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from exai.core.config import ProviderConfig
from exai.core.errors import NotConfigured
from exai.core.tool import ToolRun
from exai.providers.openai_sdk import OpenAISdk
from exai.providers.provider import ChatReply, ChatRequest, Provider
from exai.providers.retries import Pause, RetryPolicy, ask_until_answered

if TYPE_CHECKING:
    from exai.providers.openai_chat import OpenAIChat

_KEY_VARIABLES = {"kimi": "KIMI_API_KEY", "glm": "GLM_API_KEY"}


class OpenAICompatible(Provider):
    """A service at an address, with or without a key."""

    is_open_ended = True

    def __init__(
        self, name: str, config: ProviderConfig, sdk: OpenAISdk, pause: Pause = asyncio.sleep
    ) -> None:
        self.name = name
        self.max_inflight = config.max_inflight
        self.context_tokens = config.context_tokens
        self.models = config.models
        self.missing = missing_key(name, config)
        self._config = config
        self._sdk = sdk
        self._retries = RetryPolicy(config.max_attempts)
        self._pause = pause
        self._chat: OpenAIChat | None = None

    async def complete(self, request: ChatRequest, run: ToolRun) -> ChatReply:
        """Ask the service, again where that may help."""
        if self.missing:
            raise NotConfigured(self.missing)
        if self._chat is None:
            self._chat = await self._sdk.open_chat(
                self.name, self._config.base_url, self._config.api_key, self._config.idle_timeout_s
            )
        ask = partial(self._chat.complete, request, run)
        return await ask_until_answered(ask, run, self._retries, self._pause)


def missing_key(name: str, config: ProviderConfig) -> str | None:
    """Say where the key of a service is to be set; None where it has one or needs none."""
    if config.api_key or not config.key_required:
        return None
    section = f"api_key under [providers.{name}]"
    variable = _KEY_VARIABLES.get(name)
    return f"{name} has no key: set {f'{variable} or {section}' if variable else section}"
