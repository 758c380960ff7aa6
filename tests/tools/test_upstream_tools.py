"""A server's listing becomes tools of ours, untouched; what is too much is left out, with why."""

import asyncio
from typing import Any, Literal

import pytest

from exai.core.config import UpstreamConfig
from exai.core.errors import ArgumentsInvalid, UpstreamFailed
from exai.core.events import ToolUnavailable
from exai.core.identity import Principal
from exai.core.outcomes import text_of
from exai.core.tool import SharingPolicy, Tool, ToolSpec, upstream_scope
from exai.tools.built_in import EchoTool
from exai.tools.registry import ToolRegistry
from exai.tools.upstream_tools import UpstreamTools
from exai.upstream.names import namespaces_of
from exai.upstream.server import UpstreamServer
from tests.upstream.running_server import Recorder, Run, daemon_services, running, scripted

ANYONE = Principal("anyone")
OBJECT = {"type": "object"}
FULL = {
    "name": "search",
    "title": "Search",
    "description": "Finds things.",
    "inputSchema": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"q": {"type": "string", "x-own": {"kept": [1, 2.0]}}},
        "required": ["q"],
    },
    "outputSchema": {"type": "object", "properties": {"n": {"type": "integer"}}},
    "annotations": {"readOnlyHint": True, "title": "Suche", "x": 1},
    "icons": [{"src": "data:,", "sizes": ["48x48"]}],
    "_meta": {"com.example/ui": {"a": None}},
    "unheard": "of",
}


class Offering:
    """A registry, and what servers offered to it."""

    def __init__(self) -> None:
        self.registry = ToolRegistry()
        self.events = Recorder()
        self.servers: dict[str, UpstreamServer] = {}
        self.tools = UpstreamTools(self.registry, self.servers, self.events)

    async def offer(self, *listing: dict[str, Any], **settings: Any) -> None:
        config = UpstreamConfig(command="unused", **settings)
        server = UpstreamServer("srv", config, daemon_services(self.events), self.tools.offer)
        self.servers["srv"] = server
        await self.tools.offer(server, listing)

    def spec(self, name: str) -> ToolSpec:
        return self.tool(name).spec

    def tool(self, name: str) -> Tool:
        return self.registry.require_tool(f"srv__{name}", ANYONE)

    @property
    def names(self) -> list[str]:
        return [spec.name.removeprefix("srv__") for spec in self.registry.visible_to(ANYONE)]

    @property
    def reasons(self) -> dict[str, str]:
        return {event.tool: event.reason for event in self.events.of(ToolUnavailable)}


def listed(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "inputSchema": OBJECT, **fields}


async def test_a_description_is_passed_on_untouched() -> None:
    offering = Offering()
    await offering.offer(FULL, timeout_s=7.0)
    spec = offering.spec("search")
    assert spec.name == "srv__search"
    assert (spec.title, spec.description) == ("Search", "Finds things.")
    assert spec.input_schema == FULL["inputSchema"]
    assert spec.output_schema == FULL["outputSchema"]
    assert spec.annotations == FULL["annotations"]
    assert spec.icons == FULL["icons"]
    assert spec.meta == FULL["_meta"]
    assert (spec.provider, spec.timeout_s) == ("srv", 7.0)
    demand = await offering.tool("search").demand_of({}, ANYONE)
    assert demand.scope == upstream_scope("srv")


async def test_the_least_description_is_enough() -> None:
    offering = Offering()
    await offering.offer(listed("t"))
    assert offering.spec("t").description == ""
    assert offering.spec("t").policy == SharingPolicy()


async def test_annotations_decide_where_they_are_trusted_and_the_operator_over_them() -> None:
    reading, own = {"annotations": {"readOnlyHint": True}}, {"share": "all", "cache_ttl_s": 60.0}
    trusted, distrusted, overruled = Offering(), Offering(), Offering()
    await trusted.offer(listed("t", **reading))
    await distrusted.offer(listed("t", **reading), trust_annotations=False)
    await overruled.offer(listed("t", **reading), tools={"t": own, "other": {"share": "none"}})
    assert trusted.spec("t").policy == SharingPolicy("principal", 0.0, True, True)
    assert distrusted.spec("t").policy == SharingPolicy()
    assert overruled.spec("t").policy == SharingPolicy("all", 60.0, True, True)


@pytest.mark.parametrize(
    ("instance", "share"), [("shared", "all"), ("principal", "principal"), ("session", "session")]
)
async def test_results_are_shared_at_most_among_those_whom_an_instance_serves(
    instance: Literal["shared", "principal", "session"], share: str
) -> None:
    offering = Offering()
    await offering.offer(listed("t"), instance=instance, tools={"t": {"share": "all"}})
    assert offering.spec("t").policy.share == share


@pytest.mark.parametrize(
    ("said", "policy"),
    [
        ({"share": "all"}, SharingPolicy("all")),
        ({"cache_ttl_s": 60.0}, SharingPolicy("principal", 60.0, True, True)),
        ({"cache_ttl_s": 60.0, "share": "all"}, SharingPolicy("all", 60.0, True, True)),
        ({"read_only": True, "idempotent": False}, SharingPolicy("principal", 0.0, False, True)),
        ({"read_only": False}, SharingPolicy()),
        ({"idempotent": True}, SharingPolicy("none", 0.0, True, False)),
    ],
)
async def test_what_may_be_served_again_or_is_said_to_change_nothing_is_read_only(
    said: dict[str, Any], policy: SharingPolicy
) -> None:
    offering = Offering()
    await offering.offer(listed("t"), tools={"t": said})
    assert offering.spec("t").policy == policy


@pytest.mark.parametrize("hint", [False, True])
async def test_who_says_that_a_tool_changes_something_is_believed(hint: bool) -> None:
    annotations = {"readOnlyHint": True, "idempotentHint": hint}
    offering = Offering()
    await offering.offer(listed("t", annotations=annotations), tools={"t": {"read_only": False}})
    assert offering.spec("t").policy == SharingPolicy("none", 0.0, hint, False)


async def test_a_setting_for_a_tool_that_is_not_listed_is_told() -> None:
    offering = Offering()
    await offering.offer(listed("search"), tools={"serach": {"cache_ttl_s": 60.0}})
    assert offering.reasons == {"serach": "named in exai.tools, but its server lists no such tool"}
    assert offering.tools.unavailable() == {"srv": offering.reasons}


async def test_another_description_is_another_version() -> None:
    offering = Offering()
    await offering.offer(listed("t"))
    first = offering.spec("t").version
    await offering.offer(listed("t"))
    assert offering.spec("t").version == first
    await offering.offer(listed("t", description="New."))
    assert offering.spec("t").version != first


async def test_a_tool_that_did_not_change_stays_the_same_object() -> None:
    offering = Offering()
    await offering.offer(listed("a"), listed("b"))
    a, b = offering.tool("a"), offering.tool("b")
    await offering.offer(listed("b", title="B"), listed("a"), listed("c"))
    assert offering.names == ["a", "b", "c"]
    assert offering.tool("a") is a
    assert offering.tool("b") is not b


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"not": schema}
    return schema


TOO_MUCH: dict[str, tuple[dict[str, Any], str]] = {
    "reference": (listed("bad", inputSchema={"$ref": "http://x/y"}), "http://x/y, which is not"),
    "no schema": (listed("bad", inputSchema={"type": "obj"}), "no JSON Schema"),
    "deep": (listed("bad", inputSchema=deep(70)), "deeper than 64 levels"),
    "abyss": (listed("bad", inputSchema=deep(900)), "deeper than 64 levels"),
    "deep output": (listed("bad", outputSchema=deep(70)), "deeper than 64 levels"),
    "long": (listed("bad", description="x" * 300_000), "more than 262,144 bytes"),
    "large": (listed("bad", inputSchema={"enum": [0] * 200_000}), "more than 262,144 bytes"),
    "no input": ({"name": "bad"}, "inputSchema"),
    "input": (listed("bad", inputSchema=[]), "inputSchema"),
    "title": (listed("bad", title=7), "title"),
    "meta": (listed("bad", _meta="x"), "_meta"),
}


@pytest.mark.parametrize("what", TOO_MUCH)
async def test_a_tool_that_is_too_much_is_left_out_and_the_reason_told(what: str) -> None:
    description, reason = TOO_MUCH[what]
    offering = Offering()
    await offering.offer(listed("good"), description, listed("better"))
    assert offering.names == ["better", "good"]
    assert reason in offering.reasons["bad"]
    assert offering.tools.unavailable() == {"srv": offering.reasons}


@pytest.mark.parametrize("name", ["", 7, None, "x" * 200])
async def test_a_tool_without_a_usable_name_is_left_out(name: Any) -> None:
    offering = Offering()
    await offering.offer(listed(name), listed("good"))
    assert offering.names == ["good"]
    assert len(offering.reasons) == 1
    assert all(len(tool) <= 128 for tool in offering.reasons)


async def test_the_first_of_two_tools_with_one_name_is_kept() -> None:
    offering = Offering()
    await offering.offer(listed("t", title="first"), listed("t", title="second"))
    assert offering.spec("t").title == "first"
    assert "another tool of this name" in offering.reasons["t"]


async def test_of_two_tools_whose_names_fall_together_one_is_offered() -> None:
    offering = Offering()
    await offering.offer(listed("a.b"), listed("a_b", title="as it is"))
    assert offering.spec("a_b").title == "as it is"
    assert offering.reasons == {"a.b": "another tool of its server is srv__a_b"}


async def test_a_thousand_tools_are_offered_and_not_one_more() -> None:
    offering = Offering()
    await offering.offer(*(listed(f"t{n}") for n in range(1001)))
    assert len(offering.names) == 1000
    assert offering.reasons == {"t1000": "its server has more than 1,000 tools"}


async def test_a_reason_is_told_once_and_forgotten_when_it_is_gone() -> None:
    offering = Offering()
    bad = listed("t", inputSchema={"type": "obj"})
    await offering.offer(bad)
    await offering.offer(bad)
    assert len(offering.events.of(ToolUnavailable)) == 1
    await offering.offer(listed("t"))
    assert offering.names == ["t"]
    assert offering.tools.unavailable() == {"srv": {}}


async def test_a_tool_runs_on_its_server_once_its_arguments_are_checked() -> None:
    schema = {**OBJECT, "properties": {"text": {"type": "string"}}}
    idempotent = {"annotations": {"idempotentHint": True}}
    listing = [
        listed("echo", inputSchema=schema),
        listed("be_killed"),
        listed("exit", **idempotent),
    ]
    offering = Offering()
    async with running(scripted()) as srv:
        offering.servers.update(srv.pool.servers)
        await offering.tools.offer(srv.server, listing)
        echo = offering.tool("echo")
        assert text_of((await echo.run({"text": "hi"}, Run())).outputs) == "hi"
        with pytest.raises(ArgumentsInvalid, match="/text"):
            echo.check({"text": 7})
        for name, may_be_retried in (("be_killed", False), ("exit", True)):
            with pytest.raises(UpstreamFailed) as failed:
                await offering.tool(name).run({}, Run())
            assert failed.value.describe().retryable is may_be_retried


class Servers:
    """Some servers of one daemon, in the order of its file, and what they offer."""

    def __init__(self, **configs: dict[str, Any]) -> None:
        self.configs = {name: UpstreamConfig(command="x", **each) for name, each in configs.items()}
        self.registry = ToolRegistry(namespaces_of(self.configs))
        self.events = Recorder()
        self.servers: dict[str, UpstreamServer] = {}
        self.tools = UpstreamTools(self.registry, self.servers, self.events)

    async def offer(self, server: str, *names: str) -> None:
        around = daemon_services(self.events)
        offering = UpstreamServer(server, self.configs[server], around, self.tools.offer)
        self.servers[server] = offering
        await self.tools.offer(offering, [listed(name) for name in names])

    @property
    def holders(self) -> dict[str, str]:
        return {spec.name: spec.provider for spec in self.registry.visible_to(ANYONE)}


async def test_the_server_is_asked_by_its_own_name_and_clients_by_one_that_all_take() -> None:
    offering = Offering()
    await offering.offer(
        listed("files.read"), listed("x" * 100), tools={"files.read": {"share": "all"}}
    )
    assert [len("srv__" + name) for name in offering.names] == [15, 64]
    assert offering.spec("files_read").policy == SharingPolicy("all")
    assert offering.reasons == {}


async def test_filters_and_renames_name_tools_as_the_server_does() -> None:
    servers = Servers(
        box={
            "allow": ("get_*", "find"),
            "deny": ("*_secret",),
            "tools": {"find": {"name": "look-up"}},
        }
    )
    await servers.offer("box", "get_a", "get_secret", "find", "drop")
    assert servers.holders == {"box__get_a": "box", "look-up": "box"}
    assert servers.tools.unavailable() == {"box": {}}


async def test_a_filter_that_names_a_tool_which_is_not_there_is_told() -> None:
    servers = Servers(box={"allow": ("fnid", "get_*"), "deny": ("rm",)})
    await servers.offer("box", "find")
    reasons = servers.tools.unavailable()["box"]
    assert reasons["fnid"] == "named in exai.allow, but its server lists no such tool"
    assert reasons.keys() == {"fnid", "rm"}


async def test_of_two_servers_the_first_of_the_file_keeps_the_name_whoever_starts_first() -> None:
    servers = Servers(a={"prefix": ""}, b={"prefix": ""})
    await servers.offer("b", "find", "put")
    assert servers.holders == {"find": "b", "put": "b"}
    await servers.offer("a", "find")
    assert servers.holders == {"find": "a", "put": "b"}
    said = "its name find belongs to a tool of a"
    assert servers.tools.unavailable() == {"a": {}, "b": {"find": said}}
    assert [(e.upstream, e.reason) for e in servers.events.of(ToolUnavailable)] == [("b", said)]


async def test_a_name_that_is_given_up_goes_to_whom_it_was_refused() -> None:
    servers = Servers(a={"prefix": ""}, b={"prefix": ""})
    changes: list[set[str]] = []
    servers.registry.on_change(lambda names: changes.append(set(names)))
    await servers.offer("a", "find")
    await servers.offer("b", "find")
    await servers.offer("a")
    assert servers.holders == {"find": "b"}
    assert servers.tools.unavailable() == {"a": {}, "b": {}}
    assert changes == [{"find"}, {"find"}]


async def test_no_server_takes_a_name_of_the_daemons_own() -> None:
    servers = Servers(a={"prefix": ""})
    servers.registry.replace("exai", [EchoTool()])
    await servers.offer("a", "echo", "say")
    assert servers.holders == {"echo": "exai", "say": "a"}
    assert servers.tools.unavailable() == {"a": {"echo": "its name echo belongs to a tool of exai"}}


async def test_while_the_daemon_starts_a_call_waits_for_the_one_who_has_the_name_at_last() -> None:
    servers = Servers(a={"prefix": ""}, b={"prefix": ""})
    servers.registry.replace("exai", [EchoTool()])
    await servers.offer("b", "find")
    assert (await servers.registry.wait_for_tool("echo", ANYONE)).spec.provider == "exai"
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(servers.registry.wait_for_tool("find", ANYONE))
        await servers.offer("a", "find")
    assert waiting.result().spec.provider == "a"


async def test_once_the_daemon_has_started_a_tool_that_is_there_waits_for_nobody() -> None:
    servers = Servers(a={"prefix": ""}, b={"prefix": ""})
    await servers.offer("b", "find")
    servers.registry.end_start()
    for is_owed in (False, True):
        tool = await servers.registry.wait_for_tool("find", ANYONE, is_owed=is_owed)
        assert tool.spec.provider == "b"
    with pytest.raises(UpstreamFailed, match="a has not started yet"):
        await servers.registry.wait_for_tool("put", ANYONE)
