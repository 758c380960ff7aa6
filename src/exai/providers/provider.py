"""The contract of an LLM service: a conversation goes in, one whole reply comes out.

Knows nothing of HTTP, of keys or of who asks.
"""

from abc import ABC, abstractmethod
from typing import Literal

import msgspec

from exai.core.outcomes import Usage
from exai.core.tool import ToolRun


class Message(msgspec.Struct, frozen=True):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is asked. A `temperature` of None leaves it to the service."""

    model: str
    messages: tuple[Message, ...]
    temperature: float | None = None


class ChatReply(msgspec.Struct, frozen=True, kw_only=True):
    """A whole, non-empty answer; `model` is the one that really gave it."""

    text: str
    model: str
    finish_reason: str
    usage: Usage | None = None
    attempts: int = 1


class Provider(ABC):
    """An LLM service."""

    name: str
    max_inflight: int
    context_tokens: int
    """How much a model reads and writes in one request, of the least capable model here."""
    models: tuple[str, ...]
    """Names, or globs of names, that lead here."""
    is_open_ended: bool
    """May `NAME/model` name a model that `models` does not?"""
    missing: str | None
    """What to set or install before it can work; None when it can."""

    @abstractmethod
    async def complete(self, request: ChatRequest, run: ToolRun) -> ChatReply:
        """Ask, stream the answer through `run`, and return it once it is whole.

        Being cancelled ends the work at the service. Raises `NotConfigured`,
        `ProviderFailed` and `ResultTooLarge`.
        """
