"""The `listmodels` tool."""

import asyncio

import jsonschema_rs
import pytest

from exai.core.config import KNOWN_PROVIDERS, LocalModelConfig, ProviderConfig
from exai.core.errors import ArgumentsInvalid
from exai.core.events import Event
from exai.core.outcomes import text_of
from exai.processes.process_guard import ProcessGuard
from exai.providers.registry import ProviderRegistry
from exai.testing.recorded_run import RecordedRun
from exai.tools.list_models import ListModelsTool


class Deaf:
    def emit(self, event: Event) -> None:
        pass


@pytest.fixture
def list_models() -> ListModelsTool:
    acme = ProviderConfig(base_url="http://acme.invalid/v1", models=("acme-1", "acme-*"))
    local = LocalModelConfig(enabled=False)
    return ListModelsTool(
        ProviderRegistry(
            {"acme": acme, "kimi": KNOWN_PROVIDERS["kimi"]},
            local,
            events=Deaf(),
            guard=ProcessGuard(),
            tasks=asyncio.TaskGroup(),
            max_result_bytes=1000,
        )
    )


async def test_it_lists_every_model_with_its_state(list_models: ListModelsTool) -> None:
    completed = await list_models.run({}, RecordedRun())
    assert completed.structured is not None
    assert completed.structured["models"][0] == {
        "model": "acme-1",
        "provider": "acme",
        "configured": True,
        "default": True,
    }
    by_model = {one["model"]: one for one in completed.structured["models"]}
    assert not by_model["kimi-k2-turbo-preview"]["configured"]
    assert by_model["acme-*"]["configured"]
    assert by_model["smollm2-135m"]["provider"] == "local"


async def test_its_text_says_the_same(list_models: ListModelsTool) -> None:
    lines = text_of((await list_models.run({}, RecordedRun())).outputs).splitlines()
    assert lines[0] == "acme-1 (acme, default)"
    assert "kimi-k2-turbo-preview (kimi, not configured)" in lines


async def test_the_structured_result_is_what_the_schema_promises(
    list_models: ListModelsTool,
) -> None:
    assert list_models.spec.output_schema is not None
    completed = await list_models.run({}, RecordedRun())
    jsonschema_rs.validate(list_models.spec.output_schema, completed.structured)


def test_it_takes_no_arguments(list_models: ListModelsTool) -> None:
    list_models.check({})
    with pytest.raises(ArgumentsInvalid):
        list_models.check({"model": "kimi"})
