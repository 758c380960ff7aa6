"""What MCP servers of both eras have beside tools is called through the daemon, untouched."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from exai.core.events import OfferUnavailable, UpstreamUnlisted
from exai.testing.running_daemon import RunningDaemon, daemon_config, running_daemon
from tests.journeys.mcp_servers import OTHER, archive, client_of, having, library, serving

pytestmark = pytest.mark.slow


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[RunningDaemon]:
    upstreams = {"one": library("one"), "two": library("two"), "old": archive()}
    async with serving(tmp_path, upstreams, other_sees="two__* old__sum_up") as running:
        yield running


async def test_lists_are_whole_and_descriptions_untouched(daemon: RunningDaemon) -> None:
    async with client_of(daemon) as client:
        [first, *_] = (await client.result("resources/list"))["resources"]
        assert first == {
            "uri": "one://first",
            "name": "first",
            "title": "The first",
            "size": 7,
            "annotations": {"audience": ["user"], "priority": 0.5},
            "_meta": {"shelf": 0},
        }
        assert await client.names("resources/list") == [
            "one://first",
            "one://second",
            "two://first",
            "two://second",
            "file:///a",
        ]
        assert await client.names("resources/templates/list") == [
            "one://page/{number}",
            "two://page/{number}",
        ]
        assert await client.names("prompts/list") == ["one__greet", "two__greet", "old__sum_up"]
        listed = await client.wire.ask("list_tools", "list_tools_res")
        assert not any("/" in tool["name"] for tool in listed["tools"])


async def test_what_is_named_is_asked_of_its_server_and_its_result_stays_as_it_is(
    daemon: RunningDaemon,
) -> None:
    async with client_of(daemon) as client:
        read = await client.result("resources/read", uri="two://second")
        assert read["_meta"]["served"] == "two"
        assert read["contents"][0]["_meta"] == {"of": "two"}
        page = await client.result("resources/read", uri="one://page/7")
        assert page["_meta"]["served"] == "one"
        assert (await client.result("resources/read", uri="file:///a"))["extra"] == {"kept": True}

        got = await client.result("prompts/get", name="two__greet", arguments={"a": "b"})
        assert got["messages"][0]["content"]["text"] == 'two greet {"a": "b"}'
        got = await client.result("prompts/get", name="old__sum_up")
        assert json.loads(got["description"])["name"] == "sum up"

        argument = {"name": "a", "value": "b"}
        for ref, said in [
            ({"type": "ref/prompt", "name": "one__greet"}, "one:greet"),
            ({"type": "ref/resource", "uri": "two://page/{number}"}, "two:two://page/{number}"),
        ]:
            completed = await client.result("completion/complete", ref=ref, argument=argument)
            assert completed["completion"]["values"] == [said]


async def test_what_a_client_sends_along_reaches_the_server(daemon: RunningDaemon) -> None:
    async with client_of(daemon) as client:
        answer = await client.wire.call(
            "resources/read",
            "m1",
            arguments={"uri": "one://first"},
            meta={"com.example/key": 7, "io.modelcontextprotocol/protocolVersion": "1999-01-01"},
        )
        meta = json.loads(answer["structured"]["contents"][0]["text"])["meta"]
        assert meta["com.example/key"] == 7
        assert meta["io.modelcontextprotocol/protocolVersion"] == "2026-07-28"


async def test_errors_are_those_of_the_protocol(daemon: RunningDaemon) -> None:
    async with client_of(daemon) as client:
        missing = {"uri": "nobody://has"}
        assert await client.refusal("resources/read", **missing) == (-32002, missing)
        assert await client.refusal("resources/subscribe", **missing) == (-32002, missing)
        assert await client.refusal("prompts/get", name="one__none") == (-32602, None)
        ref = {"type": "ref/prompt", "name": "none"}
        argument = {"name": "a", "value": "b"}
        assert await client.refusal("completion/complete", ref=ref, argument=argument) == (
            -32602,
            None,
        )
        ref = {"type": "ref/prompt", "name": "old__sum_up"}
        assert await client.refusal("completion/complete", ref=ref, argument=argument) == (
            -32601,
            None,
        )


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("resources/list", {"cursor": "1"}),
        ("resources/read", {}),
        ("resources/read", {"uri": 7}),
        ("resources/read", {"uri": ""}),
        ("resources/read", {"uri": "x" * 8193}),
        ("prompts/get", {"arguments": {}}),
        ("prompts/get", {"name": "one__greet", "arguments": []}),
        ("completion/complete", {"ref": {"type": "ref/other", "name": "x"}, "argument": {}}),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "x"}}),
        ("logging/setLevel", {"level": "loud"}),
    ],
    ids=str,
)
async def test_bad_parameters_are_refused(
    tmp_path: Path, method: str, params: dict[str, Any]
) -> None:
    async with running_daemon(daemon_config(tmp_path)) as daemon, client_of(daemon) as client:
        assert (await client.ask(method, **params))["error"]["code"] == "VALIDATION_ERROR"


async def test_what_one_may_not_see_is_as_if_it_were_not_there(daemon: RunningDaemon) -> None:
    async with client_of(daemon, OTHER) as client:
        assert await client.names("resources/list") == ["two://first", "two://second"]
        assert await client.names("resources/templates/list") == ["two://page/{number}"]
        assert await client.names("prompts/list") == ["two__greet", "old__sum_up"]
        hidden = await client.ask("prompts/get", name="one__greet")
        absent = await client.ask("prompts/get", name="one__great")
        assert hidden["error"]["message"].replace("greet", "great") == absent["error"]["message"]
        # The one server that it sees judges what nobody lists, hidden or not.
        for uri in ("one://first", "file:///a", "nobody://has"):
            expected = {"uri": uri, "scheme": "two"}
            assert await client.refusal("resources/read", uri=uri) == (-32002, expected)


async def test_a_server_that_does_not_say_what_it_has_keeps_its_tools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exai.upstream.instance._LISTING_PATIENCE_S", 0.1)
    evil = archive("--mute", "resources/list", "--fail", "prompts/list")
    async with serving(tmp_path, {"evil": evil}) as daemon, client_of(daemon) as client:
        assert await client.result("evil__tell", messages=[]) == "done"
        assert await client.names("resources/list") == []
        assert await client.names("prompts/list") == []
        reasons = {e.kind: e.reason for e in daemon.events.of(UpstreamUnlisted)}
        assert reasons == {"resources": "it does not answer", "prompts": "no"}


async def test_what_cannot_be_offered_is_left_out_and_told(tmp_path: Path) -> None:
    deep: Any = []
    for _ in range(70):
        deep = [deep]
    listed = having(
        tmp_path / "first.json",
        resources=[
            {"uri": 7},
            {"name": "none"},
            {"uri": "u:" + "x" * 9000},
            {"uri": "u:twice", "name": "first"},
            {"uri": "u:twice", "name": "second"},
            {"uri": "u:deep", "_meta": {"x": deep}},
            {"uri": "u:large", "description": "x" * 300_000},
            {"uri": "u:good"},
        ],
        prompts=[{"name": "a b"}, {"name": "a_b"}, {"name": 7}],
    )
    same = having(tmp_path / "second.json", resources=[{"uri": "u:good"}])
    both = {"first": archive(*listed), "second": archive(*same)}
    async with serving(tmp_path, both) as daemon, client_of(daemon) as client:
        listing = (await client.result("resources/list"))["resources"]
        assert listing == [{"uri": "u:twice", "name": "first"}, {"uri": "u:good"}]
        assert await client.names("prompts/list") == ["first__a_b", "second__sum_up"]
        got = await client.result("prompts/get", name="first__a_b")
        assert json.loads(got["description"])["name"] == "a_b"
        told = daemon.events.of(OfferUnavailable)
        assert {(e.upstream, e.name[:10]): e.reason for e in told} == {
            ("first", "7"): "its name is no text of 1 to 8,192 characters",
            ("first", "None"): "its uri is no text of 1 to 8,192 characters",
            ("first", "u:xxxxxxxx"): "its uri is no text of 1 to 8,192 characters",
            ("first", "u:twice"): "its server has another one of this uri",
            ("first", "u:deep"): "its description is nested deeper than 64 levels",
            ("first", "u:large"): "its description has more than 262,144 bytes",
            ("first", "a b"): "another prompt is first__a_b",
            ("second", "u:good"): "first has a resource of this URI",
        }


async def test_equal_reads_of_one_principal_are_one_and_those_of_two_are_two(
    tmp_path: Path,
) -> None:
    slow = archive("--mute", "resources/read")
    async with (
        serving(tmp_path, {"slow": slow}) as daemon,
        client_of(daemon) as client,
        client_of(daemon) as same,
        client_of(daemon, OTHER) as other,
    ):
        for each in (client, same, other):
            await each.wire.begin("resources/read", "x", arguments={"uri": "file:///a"})
        asked = json.loads(await client.result("slow__asked"))
        assert [method for method, _ in asked].count("resources/read") == 2
