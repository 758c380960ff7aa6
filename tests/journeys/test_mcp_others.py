"""What MCP servers have beside tools, through every door for MCP clients, in both eras."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ResourcesListChanged, ResourceUpdated
from mcp_types import PromptReference, ResourceTemplateReference

from exai.testing.running_daemon import RunningDaemon
from tests.journeys.mcp_by_hand import events_of, http_client
from tests.journeys.mcp_doors import DOORS, PATIENCE_S, Door, door_name, mcp_client
from tests.journeys.mcp_servers import library, serving

pytestmark = pytest.mark.slow

every_door = pytest.mark.parametrize("door", DOORS, ids=door_name)
modern_doors = pytest.mark.parametrize("door", [d for d in DOORS if d.is_modern], ids=door_name)
old_doors = pytest.mark.parametrize("door", [d for d in DOORS if not d.is_modern], ids=door_name)


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[RunningDaemon]:
    async with serving(tmp_path, {"new": library("new")}) as running:
        yield running


@every_door
async def test_all_of_it_is_listed_and_asked_for(daemon: RunningDaemon, door: Door) -> None:
    async with mcp_client(daemon, door) as client:
        uris = [str(each.uri) for each in (await client.list_resources()).resources]
        templates = (await client.list_resource_templates()).resource_templates
        [template] = [each.uri_template for each in templates]
        prompts = [each.name for each in (await client.list_prompts()).prompts]
        read = await client.read_resource(uris[0])
        prompt = await client.get_prompt(prompts[0], {})
        completed = await client.complete(
            PromptReference(name=prompts[0]), {"name": "a", "value": "x"}
        )
        by_template = await client.complete(
            ResourceTemplateReference(uri=template), {"name": "number", "value": "1"}
        )
    assert template == "new://page/{number}"
    assert str(read.contents[0].uri) == uris[0]
    assert all(name.startswith("new__") for name in prompts)
    assert prompt.messages
    assert completed.completion is not None
    assert by_template.completion is not None


@every_door
async def test_what_is_not_there_is_an_error_of_the_era(daemon: RunningDaemon, door: Door) -> None:
    async with mcp_client(daemon, door) as client:
        with pytest.raises(MCPError) as of_resource:
            await client.read_resource("new://nothing")
        with pytest.raises(MCPError) as of_prompt:
            await client.get_prompt("nobody", {})
    assert of_resource.value.error.code == (-32602 if door.is_modern else -32002)
    assert of_prompt.value.error.code == -32602


@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
@old_doors
async def test_updates_reach_who_subscribed(daemon: RunningDaemon, door: Door) -> None:
    heard: asyncio.Queue[Any] = asyncio.Queue()

    async def on_message(message: Any) -> None:
        if getattr(message, "method", "") == "notifications/resources/updated":
            await heard.put(str(message.params.uri))

    async with (
        mcp_client(daemon, door, message_handler=on_message) as client,
        asyncio.timeout(PATIENCE_S),
    ):
        await client.session.subscribe_resource("new://a")
        while heard.empty():  # over HTTP it is heard once the client's own stream is open
            await client.call_tool("new__touch", {"uri": "new://a"})
            await asyncio.sleep(0.05)
        assert heard.get_nowait() == "new://a"


@modern_doors
async def test_since_2026_updates_reach_who_listens(daemon: RunningDaemon, door: Door) -> None:
    async with (
        asyncio.timeout(PATIENCE_S),
        mcp_client(daemon, door) as client,
        client.listen(resource_subscriptions=["new://a"]) as first,
    ):
        async with client.listen(resource_subscriptions=["new://a"]) as second:
            await client.call_tool("new__touch", {"uri": "new://b"})
            await client.call_tool("new__touch", {"uri": "new://a"})
            for news in (first, second):
                assert await anext(aiter(news)) == ResourceUpdated(uri="new://a")
        await client.call_tool("new__touch", {"uri": "new://a"})
        assert await anext(aiter(first)) == ResourceUpdated(uri="new://a")


@modern_doors
async def test_since_2026_changed_lists_reach_who_listens(
    daemon: RunningDaemon, door: Door
) -> None:
    async with (
        mcp_client(daemon, door) as client,
        client.listen(resources_list_changed=True) as news,
        asyncio.timeout(PATIENCE_S),
    ):
        await client.call_tool("new__add_book", {"name": "more"})
        assert await anext(aiter(news)) == ResourcesListChanged()


@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
async def test_what_a_client_over_http_wants_to_hear_outlives_a_restart(tmp_path: Path) -> None:
    servers = {"new": library("new")}
    async with serving(tmp_path, servers) as daemon, http_client(daemon) as me:
        await me.initialize()
        for method, params in (
            ("resources/subscribe", {"uri": "new://a"}),
            ("resources/subscribe", {"uri": "new://b"}),
            ("resources/unsubscribe", {"uri": "new://b"}),
            ("logging/setLevel", {"level": "warning"}),
        ):
            [answer] = events_of(await me.post(request(method, **params)))
            assert answer["result"] == {}
        headers = me.headers
    async with (
        asyncio.timeout(PATIENCE_S),
        serving(tmp_path, servers) as daemon,
        http_client(daemon) as me,
    ):
        me.headers = headers
        while True:
            [told] = events_of(await me.post(request("tools/call", name="new__listeners")))
            if json.loads(told["result"]["content"][0]["text"]) == ["new://a"]:
                break
            await asyncio.sleep(0.05)  # the subscription is made anew beside the call


def request(method: str, /, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 5, "method": method, "params": params}


@modern_doors
async def test_who_listens_is_told_when_the_daemon_stops(daemon: RunningDaemon, door: Door) -> None:
    async with (
        asyncio.timeout(PATIENCE_S),
        mcp_client(daemon, door) as client,
        client.listen(tools_list_changed=True) as news,
    ):
        daemon.stop.set()
        assert [each async for each in news] == []  # the end is a graceful one: nothing is raised
