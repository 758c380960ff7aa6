"""From a model's name to the provider that serves it."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from exai.core.config import KNOWN_PROVIDERS, LocalModelConfig, ProviderConfig, Secret
from exai.core.errors import ArgumentsInvalid, NotConfigured
from exai.core.events import Event, ProviderStarted
from exai.processes.process_guard import ProcessGuard
from exai.providers.provider import ChatRequest, Message
from exai.providers.registry import ProviderRegistry
from exai.testing.recorded_run import RecordedRun
from exai.testing.scripted_provider import ScriptedProvider

ABSENT = LocalModelConfig(enabled=False)


CAPITAL = "What is the capital of France?"


class Heard:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)


def service(*models: str, key: str | None = "a-key", required: bool = True) -> ProviderConfig:
    secret = Secret(key) if key else None
    url = "https://acme.invalid/v1"
    return ProviderConfig(base_url=url, api_key=secret, key_required=required, models=models)


def registry(
    providers: Mapping[str, ProviderConfig],
    local: LocalModelConfig = ABSENT,
    default_model: str | None = None,
) -> ProviderRegistry:
    return ProviderRegistry(
        providers,
        local,
        default_model=default_model,
        events=Heard(),
        guard=ProcessGuard(),
        tasks=asyncio.TaskGroup(),
        max_result_bytes=2000,
    )


def owner(registry: ProviderRegistry, model: str | None) -> tuple[str, str]:
    provider, name = registry.resolve(model)
    return provider.name, name


def test_an_exact_name_wins_over_an_earlier_glob() -> None:
    providers = registry({"one": service("big-*"), "two": service("big-model")})
    assert owner(providers, "big-model") == ("two", "big-model")
    assert owner(providers, "big-other") == ("one", "big-other")


def test_of_two_globs_the_one_that_is_configured_wins() -> None:
    providers = registry({"one": service("big-*", key=None), "two": service("big-*")})
    assert owner(providers, "big-model") == ("two", "big-model")


def test_globs_heed_upper_and_lower_case() -> None:
    with pytest.raises(ArgumentsInvalid):
        registry({"one": service("big-*")}).resolve("BIG-model")


def test_provider_slash_model_reaches_a_model_that_nobody_listed() -> None:
    providers = registry({"one": service("m"), "two": service()})
    assert owner(providers, "two/org/new-model") == ("two", "org/new-model")


def test_a_listed_name_may_hold_a_slash() -> None:
    providers = registry({"one": service("two/m"), "two": service()})
    assert owner(providers, "two/m") == ("one", "two/m")


@pytest.mark.parametrize("model", ["bgi-model", "", "one/", "/m", "nobody/m", "x" * 10_000])
def test_an_unknown_model_is_an_invalid_argument(model: str) -> None:
    with pytest.raises(ArgumentsInvalid) as refused:
        registry({"one": service("big-model", "m-*")}).resolve(model)
    error = refused.value.describe()
    assert error.details == {"path": "/model"}
    assert len(error.message) < 200


def test_an_unknown_model_is_answered_with_the_closest() -> None:
    providers = registry({"one": service("big-model", "other")})
    with pytest.raises(ArgumentsInvalid, match="did you mean big-model"):
        providers.resolve("bgi-model")


def test_the_local_model_answers_to_its_own_name_only(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.touch()
    providers = registry({}, LocalModelConfig(model_name="tiny", model_path=file))
    assert owner(providers, "tiny") == ("local", "tiny")
    assert owner(providers, "local/tiny") == ("local", "tiny")
    with pytest.raises(ArgumentsInvalid):
        providers.resolve("local/huge")


@pytest.mark.parametrize(("name", "variable"), [("kimi", "KIMI_API_KEY"), ("glm", "GLM_API_KEY")])
def test_a_service_without_its_key_names_the_variable(name: str, variable: str) -> None:
    providers = registry(KNOWN_PROVIDERS)
    with pytest.raises(NotConfigured, match=variable):
        providers.resolve(KNOWN_PROVIDERS[name].models[0])


@pytest.mark.parametrize("asked", [None, "auto"])
def test_the_default_is_the_configured_one(asked: str | None) -> None:
    providers = registry({"one": service("a", "b")}, default_model="b")
    assert owner(providers, asked) == ("one", "b")


def test_else_the_default_is_the_first_plain_name_that_works() -> None:
    providers = registry(
        {"no-key": service("a", key=None), "globs": service("x-*"), "open": service("y-*", "b")}
    )
    assert owner(providers, None) == ("open", "b")


def test_else_the_default_is_the_local_model() -> None:
    providers = registry(KNOWN_PROVIDERS, LocalModelConfig())
    assert owner(providers, "auto") == ("local", "smollm2-135m")


def test_without_any_model_the_caller_hears_what_to_set() -> None:
    with pytest.raises(NotConfigured) as refused:
        registry(KNOWN_PROVIDERS).resolve(None)
    for word in ("KIMI_API_KEY", "GLM_API_KEY", "[providers.NAME]"):
        assert word in str(refused.value)


def test_the_default_auto_means_none_is_set() -> None:
    providers = registry({"one": service("a")}, default_model="auto")
    assert owner(providers, None) == ("one", "a")


def test_every_name_is_listed_with_its_state() -> None:
    listed = registry({"one": service("a", key=None), "two": service("b", "c-*")}).models()
    assert [(m.model, m.provider, m.is_configured, m.is_default) for m in listed] == [
        ("a", "one", False, False),
        ("b", "two", True, True),
        ("c-*", "two", True, False),
        ("smollm2-135m", "local", False, False),
    ]


def test_scope_limits_name_every_provider() -> None:
    providers = registry(KNOWN_PROVIDERS, LocalModelConfig(max_inflight=2))
    limits = {"provider:kimi": 6, "provider:glm": 4, "provider:local": 2}
    assert providers.scope_limits() == limits


async def test_two_registries_of_one_process_share_nothing() -> None:
    async with ScriptedProvider() as one, ScriptedProvider() as two, asyncio.timeout(5):
        for scripted in (one, two):
            config = ProviderConfig(base_url=scripted.base_url, models=("m",))
            providers = registry({"acme": config})
            await providers.open()
            provider, model = providers.resolve(None)
            request = ChatRequest(model=model, messages=(Message("user", "hello"),))
            await provider.complete(request, RecordedRun())
            await providers.close()
        assert len(one.requests) == len(two.requests) == 1


@pytest.mark.slow
async def test_closing_stops_the_local_model_without_calling_it_dead(
    guard: ProcessGuard, tasks: asyncio.TaskGroup
) -> None:
    heard = Heard()
    providers = ProviderRegistry(
        {}, LocalModelConfig(), events=heard, guard=guard, tasks=tasks, max_result_bytes=2000
    )
    provider, model = providers.resolve(None)
    async with asyncio.timeout(40):
        await provider.complete(
            ChatRequest(model=model, messages=(Message("user", CAPITAL),)), RecordedRun()
        )
        await providers.close()
    (started,) = heard.events
    assert isinstance(started, ProviderStarted)
    with pytest.raises(ProcessLookupError):
        os.kill(started.pid, 0)


@pytest.mark.slow
def test_the_sdk_is_loaded_at_the_start_only_where_a_service_is_configured() -> None:
    script = """
import asyncio, sys
from exai.core.config import LocalModelConfig, ProviderConfig
from exai.providers.registry import ProviderRegistry

async def main():
    for config in (
        ProviderConfig(base_url="http://acme.invalid", key_required=True),
        ProviderConfig(base_url="http://acme.invalid"),
    ):
        providers = ProviderRegistry(
            {"acme": config},
            LocalModelConfig(),
            events=None,
            guard=None,
            tasks=None,
            max_result_bytes=1,
        )
        await providers.open()
        print("openai" in sys.modules or "httpx2" in sys.modules)
        await providers.close()

asyncio.run(main())
"""
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    ).stdout
    assert printed.split() == ["False", "True"]


async def test_a_registry_that_was_never_used_closes() -> None:
    providers = registry(KNOWN_PROVIDERS, LocalModelConfig())
    await providers.open()
    await providers.close()
