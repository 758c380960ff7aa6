"""What must hold between the values of a configuration, and what works but is not meant."""

from pathlib import Path
from typing import Any

import pytest

from exai.cli.config_checks import problems_of
from exai.core.config import (
    AuthConfig,
    Config,
    ConversationsConfig,
    LimitsConfig,
    ProviderConfig,
    ServerConfig,
    ToolsConfig,
    UpstreamConfig,
)

STATE = Path("/nowhere")


def service(*models: str, base_url: str = "https://acme.invalid/v1") -> ProviderConfig:
    return ProviderConfig(base_url=base_url, models=models)


@pytest.mark.parametrize(
    ("providers", "words"),
    [
        ({"one": service("m"), "two": service("m")}, "'m' belongs to one"),
        ({"one": service("smollm2-135m")}, "belongs to local"),
        ({"local": service("m")}, "see [local]"),
        ({"one": service(base_url="acme.invalid/v1")}, "expected an http"),
        ({"one": service(base_url="file:///etc/passwd")}, "expected an http"),
        ({"one": service(base_url="https://[::1/v1")}, "expected an http"),
        ({"one": service(base_url="https://acme.invalid:99999")}, "expected an http"),
        ({"one": service(base_url="https://acme.invalid:0")}, "expected an http"),
    ],
    ids=["twice", "local's", "reserved", "no scheme", "file", "no host", "no port", "port 0"],
)
def test_providers_must_not_contradict_each_other(
    providers: dict[str, ProviderConfig], words: str
) -> None:
    config = Config(state_dir=STATE, providers=providers)
    assert any(words in problem for problem in problems_of(config, {}))


@pytest.mark.parametrize("model", ["auto", "m", "any-1", "one/other", "smollm2-135m", None])
def test_a_default_model_that_is_served(model: str | None) -> None:
    config = Config(
        state_dir=STATE,
        tools=ToolsConfig(default_model=model),
        providers={"one": service("m", "any-*")},
    )
    assert list(problems_of(config, {})) == []


@pytest.mark.parametrize("model", ["gpt-0", "two/m"])
def test_a_default_model_that_nobody_serves(model: str) -> None:
    config = Config(
        state_dir=STATE,
        tools=ToolsConfig(default_model=model),
        providers={"one": service("m")},
    )
    assert list(problems_of(config, {})) == [f"tools.default_model: no provider serves {model!r}"]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "LOCALHOST", "::ffff:127.0.0.1"])
def test_open_access_is_for_this_machine(host: str) -> None:
    config = Config(state_dir=STATE, auth=AuthConfig(mode="none"), server=ServerConfig(host=host))
    assert list(problems_of(config, {})) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "box.lan"])
def test_open_access_is_refused_where_others_reach(host: str) -> None:
    config = Config(state_dir=STATE, auth=AuthConfig(mode="none"), server=ServerConfig(host=host))
    assert any("auth.mode = none is refused" in problem for problem in problems_of(config, {}))


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        (
            {"server": ServerConfig(tls_key=Path("key.pem"))},
            "server.tls_key is the key of no certificate",
        ),
        (
            {"server": ServerConfig(tls_certificate=Path("c.pem"), websocket_library="picows")},
            "server.websocket_library = picows serves without TLS only",
        ),
        (
            {"limits": LimitsConfig(result_ttl_s=600, idempotency_ttl_s=60)},
            "limits.idempotency_ttl_s = 60 is less than limits.result_ttl_s = 600",
        ),
        (
            {"conversations": ConversationsConfig(max_bytes=2, principal_max_bytes=1)},
            "conversations.max_bytes = 2 is more than conversations.principal_max_bytes = 1",
        ),
        (
            {
                "upstreams": {
                    "box": UpstreamConfig(
                        command="x", tools={"f": {"read_only": False, "cache_ttl_s": 5}}
                    )
                }
            },
            "mcpServers.box.exai.tools.f: a result that is served again",
        ),
        (
            {
                "upstreams": {
                    "box": UpstreamConfig(
                        command="x", tools={"f": {"share": "none", "cache_ttl_s": 5}}
                    )
                }
            },
            "mcpServers.box.exai.tools.f: with share = none nobody is served a result again",
        ),
    ],
)
def test_values_that_contradict_each_other_are_told(sections: dict[str, Any], problem: str) -> None:
    problems = list(problems_of(Config(state_dir=STATE, **sections), {}))
    assert len(problems) == 1
    assert problems[0].startswith(problem)
