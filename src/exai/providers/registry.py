"""Which model is whose: from the name in a call to the provider that serves it.

Owns the providers and what they share; knows nothing of calls.
"""

import asyncio
from collections.abc import Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Self

import msgspec

from exai.core.config import LocalModelConfig, ProviderConfig, is_glob
from exai.core.errors import ArgumentsInvalid, NotConfigured
from exai.core.events import EventSink
from exai.core.tool import provider_scope
from exai.processes.process_guard import ProcessGuard
from exai.providers.local_model import LocalModel
from exai.providers.openai_compatible import OpenAICompatible
from exai.providers.openai_sdk import OpenAISdk
from exai.providers.provider import Provider

AUTO = "auto"
"""The model's name that means: whichever is the default."""

_SHOWN_LENGTH = 64
_SHOWN_COUNT = 12
_FACTS_BYTES = 4096


class ListedModel(msgspec.Struct, frozen=True):
    """A model's name, or a glob of names, as people see it."""

    model: str
    provider: str
    is_configured: bool
    is_default: bool


class ProviderStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider offers; `missing` says why it does not work, and what to do about it."""

    provider: str
    is_local: bool
    is_configured: bool
    models: tuple[str, ...]
    missing: str | None


class ProviderRegistry:
    """All providers by name, the local model last.

    Its process is started by `guard` and looked after in `tasks`, both open until this closes.
    """

    def __init__(
        self,
        providers: Mapping[str, ProviderConfig],
        local: LocalModelConfig,
        *,
        default_model: str | None = None,
        events: EventSink,
        guard: ProcessGuard,
        tasks: asyncio.TaskGroup,
        max_result_bytes: int,
    ) -> None:
        self._sdk = OpenAISdk(_longest_reply_bytes(max_result_bytes))
        self._local = LocalModel(local, self._sdk, events, guard=guard, tasks=tasks)
        services = [OpenAICompatible(name, one, self._sdk) for name, one in providers.items()]
        self._providers: dict[str, Provider] = {p.name: p for p in (*services, self._local)}
        self._default_model = None if default_model == AUTO else default_model

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Load what the first call to a configured service would have to wait for."""
        if any(p.missing is None for p in self._providers.values() if p is not self._local):
            await self._sdk.load()

    async def close(self) -> None:
        """Stop the local model and close every connection."""
        await self._local.close()
        await self._sdk.close()

    def resolve(self, model: str | None) -> tuple[Provider, str]:
        """Return who serves `model`, and under which name; None and `auto` mean the default.

        Exact names come first, then globs, then `PROVIDER/MODEL`. Raises
        `ArgumentsInvalid` for an unknown model, `NotConfigured` where something is
        missing, and says what.
        """
        name = self._require_default() if model is None or model == AUTO else model
        found = self._find(name)
        if found is None:
            raise ArgumentsInvalid(
                f"there is no model {name[:_SHOWN_LENGTH]!r}{self._hint(name)}", path="/model"
            )
        if found[0].missing:
            raise NotConfigured(found[0].missing)
        return found

    def models(self) -> list[ListedModel]:
        """Return every name and glob that leads to a provider."""
        default = self.find_default()
        return [
            ListedModel(model, p.name, p.missing is None, model == default)
            for p in self._providers.values()
            for model in p.models
        ]

    def statistics(self) -> list[ProviderStatistics]:
        """Return what is known of each provider without asking it."""
        return [
            ProviderStatistics(
                provider=p.name,
                is_local=p is self._local,
                is_configured=p.missing is None,
                models=p.models,
                missing=p.missing,
            )
            for p in self._providers.values()
        ]

    def scope_limits(self) -> dict[str, int]:
        """Return how many requests each provider takes at once, by its scope."""
        return {provider_scope(p.name): p.max_inflight for p in self._providers.values()}

    def find_default(self) -> str | None:
        """Return the configured default, else the first plain name that works."""
        if self._default_model:
            return self._default_model
        ready = (p for p in self._providers.values() if p.missing is None)
        return next((name for p in ready for name in _plain_names(p.models)), None)

    def _find(self, name: str) -> tuple[Provider, str] | None:
        exact = [p for p in self._providers.values() if name in _plain_names(p.models)]
        by_glob = [p for p in self._providers.values() if any(_covers(g, name) for g in p.models)]
        by_glob.sort(key=lambda p: p.missing is not None)
        for provider in (*exact, *by_glob):
            return provider, name
        prefix, _, rest = name.partition("/")
        named = self._providers.get(prefix)
        if named is not None and rest and (named.is_open_ended or rest in named.models):
            return named, rest
        return None

    def _require_default(self) -> str:
        name = self.find_default()
        if name is None:
            raise NotConfigured(self._local.missing or "no model is configured")
        return name

    def _hint(self, name: str) -> str:
        known = [model for p in self._providers.values() for model in p.models]
        closest = get_close_matches(name[:_SHOWN_LENGTH], known, cutoff=0.5)
        if closest:
            return f"; did you mean {closest[0]}?"
        return f"; there are {', '.join(known[:_SHOWN_COUNT])}"


def _plain_names(models: tuple[str, ...]) -> list[str]:
    return [model for model in models if not is_glob(model)]


def _covers(pattern: str, name: str) -> bool:
    return is_glob(pattern) and fnmatchcase(name, pattern)


def _longest_reply_bytes(max_result_bytes: int) -> int:
    """Return how long a model's text may be, so that a result has room for what is said of it."""
    return max_result_bytes - min(_FACTS_BYTES, max_result_bytes // 2)
