"""What MCP servers tell by themselves reaches whom it concerns: changes, updates and logs."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from exai.core.config import LimitsConfig
from exai.core.events import SessionEnded, UpstreamStarted, UpstreamStopped
from exai.testing.running_daemon import TOKEN, RunningDaemon
from tests.journeys.mcp_servers import OTHER, Client, archive, client_of, library, serving

pytestmark = pytest.mark.slow

UPDATED = "notifications/resources/updated"
MESSAGE = "notifications/message"


@pytest.fixture
async def old(tmp_path: Path) -> AsyncIterator[RunningDaemon]:
    async with serving(tmp_path, {"old": archive()}, other_sees="old__a*") as running:
        yield running


@pytest.fixture
async def new(tmp_path: Path) -> AsyncIterator[RunningDaemon]:
    async with serving(tmp_path, {"new": library("new")}) as running:
        yield running


async def tell(client: Client, method: str, /, **params: Any) -> None:
    """Have the old server send a notification."""
    message = {"method": method, "params": params}
    assert await client.result("old__tell", messages=[message]) == "done"


async def asked(client: Client, *methods: str) -> list[tuple[str, Any]]:
    """Return which of these methods the old server was asked, with their parameters."""
    all_ = json.loads(await client.result("old__asked"))
    return [(method, params) for method, params in all_ if method in methods]


async def frames_before_now(client: Client) -> list[str]:
    """Return what has come before the answer to what is asked now."""
    frames: list[str] = []
    await client.wire.say("health")
    while (frame := await client.wire.hear())["op"] != "health_res":
        frames.append(frame["op"])
    return frames


async def is_quiet(client: Client, op: str) -> bool:
    """Tell whether nothing of this kind has come before the answer to what is asked now."""
    return op not in await frames_before_now(client)


async def test_updates_reach_only_those_who_watch(old: RunningDaemon) -> None:
    async with client_of(old) as client, client_of(old) as idle:
        await client.result("resources/subscribe", uri="file:///a")
        await tell(idle, UPDATED, uri="file:///b")
        await tell(idle, UPDATED, uri="file:///a/part")
        heard = await client.wire.hear_op("resource_updated")
        assert heard["uri"] == "file:///a/part"
        assert await is_quiet(idle, "resource_updated")
        await client.result("resources/unsubscribe", uri="file:///a")
        await tell(idle, UPDATED, uri="file:///a")
        assert await is_quiet(client, "resource_updated")


async def test_a_server_is_asked_once_for_all_and_told_when_the_last_has_left(
    old: RunningDaemon,
) -> None:
    kinds = ("resources/subscribe", "resources/unsubscribe")
    uri = {"uri": "file:///a"}
    async with client_of(old) as client:
        async with client_of(old) as second:
            await client.result("resources/subscribe", **uri)
            await second.result("resources/subscribe", **uri)
            await second.result("resources/subscribe", **uri)
            await client.result("resources/unsubscribe", **uri)
            await tell(client, UPDATED, **uri)
            await second.wire.hear_op("resource_updated", **uri)
            assert await asked(client, *kinds) == [("resources/subscribe", uri)]
        await old.events.wait_for(SessionEnded, 1)
        while len(told := await asked(client, *kinds)) < 2:
            pass
        assert told == [("resources/subscribe", uri), ("resources/unsubscribe", uri)]


async def test_after_a_restart_a_server_is_asked_again_and_what_was_missed_is_told(
    old: RunningDaemon,
) -> None:
    uri = {"uri": "file:///a"}
    async with client_of(old) as client:
        await client.result("resources/subscribe", **uri)
        await client.result("logging/setLevel", level="error")
        await client.ask("old__exit")
        await client.wire.hear_op("resource_updated", **uri)
        assert await asked(client, "resources/subscribe", "logging/setLevel") == [
            ("logging/setLevel", {"level": "error"}),
            ("resources/subscribe", uri),
        ]


async def test_who_watches_goes_on_to_when_the_operator_restarts_the_server(
    old: RunningDaemon,
) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with client_of(old) as client:
        await client.result("resources/subscribe", uri="file:///a")
        async with httpx2.AsyncClient(base_url=old.address.http_url, trust_env=False) as http:
            answer = await http.post("/upstreams/old/restart", headers=headers, timeout=20)
        assert answer.status_code == 200, answer.text
        for _ in range(2):
            await client.wire.hear_op("resource_updated", uri="file:///a")
            await tell(client, UPDATED, uri="file:///a")


async def test_of_many_updates_at_once_few_are_told_and_the_last(old: RunningDaemon) -> None:
    async with client_of(old) as client, client_of(old) as teller:
        await client.result("resources/subscribe", uri="file:///a")
        flood = [{"method": UPDATED, "params": {"uri": "file:///a"}}] * 5000
        await teller.result("old__tell", messages=flood)
        for _ in range(2):
            await client.wire.hear_op("resource_updated")
        assert (await frames_before_now(client)).count("resource_updated") < 100


async def test_a_session_watches_only_so_many_resources(tmp_path: Path) -> None:
    limits = LimitsConfig(session_max_subscriptions=2)
    async with (
        serving(tmp_path, {"old": archive()}, limits=limits) as daemon,
        client_of(daemon) as client,
    ):
        for uri in ("u:1", "u:2", "u:2"):
            await client.result("resources/subscribe", uri=uri)
        error = (await client.ask("resources/subscribe", uri="u:3"))["error"]
        assert (error["code"], error["details"]["scope"]) == ("OVER_CAPACITY", "subscriptions")
        await client.result("resources/unsubscribe", uri="u:1")
        await client.result("resources/subscribe", uri="u:3")


async def test_a_refused_subscription_is_the_servers_error(tmp_path: Path) -> None:
    refusing = archive("--fail", "resources/subscribe")
    async with (
        serving(tmp_path, {"old": refusing}) as daemon,
        client_of(daemon) as client,
        client_of(daemon) as teller,
    ):
        for _ in range(2):
            assert await client.refusal("resources/subscribe", uri="file:///a") == (-32603, None)
        await tell(teller, UPDATED, uri="file:///a")
        assert await is_quiet(client, "resource_updated")


async def test_changed_lists_are_told_to_those_whom_they_concern(tmp_path: Path) -> None:
    upstreams = {"new": library("new"), "old": archive()}
    async with (
        serving(tmp_path, upstreams, other_sees="old__*") as daemon,
        client_of(daemon) as client,
        client_of(daemon, OTHER) as other,
    ):
        await client.result("new__add_book", name="third")
        await client.wire.hear_op("resources_changed")
        assert "new://third" in await client.names("resources/list")
        await client.result("new__add_prompt", name="part")
        await client.wire.hear_op("prompts_changed")
        assert "new__part" in await client.names("prompts/list")
        assert await is_quiet(other, "resources_changed")


async def test_a_server_of_2026_is_listened_to_for_the_union(new: RunningDaemon) -> None:
    async with client_of(new) as client, client_of(new) as second:
        await client.result("resources/subscribe", uri="new://first")
        await second.result("resources/subscribe", uri="new://second")
        both = ["new://first", "new://second"]
        assert json.loads(await client.result("new__listeners")) == both
        await client.result("new__touch", uri="new://second")
        await second.wire.hear_op("resource_updated", uri="new://second")
        await client.result("new__touch", uri="new://first")
        await client.wire.hear_op("resource_updated", uri="new://first")
        await client.result("resources/unsubscribe", uri="new://first")
        while json.loads(await client.result("new__listeners")) == both:
            pass
        assert json.loads(await client.result("new__listeners")) == ["new://second"]
        await client.ask("new__exit")
        await new.events.wait_for(UpstreamStarted, 2)
        await second.wire.hear_op("resource_updated", uri="new://second")


async def test_a_server_of_2026_that_hangs_up_is_listened_to_again(new: RunningDaemon) -> None:
    async with client_of(new) as client, client_of(new) as second:
        await client.result("resources/subscribe", uri="new://first")
        await client.result("new__hang_up")
        await client.wire.hear_op("resource_updated", uri="new://first")
        await client.result("new__hang_up")
        await second.result("resources/subscribe", uri="new://second")  # it does not wait
        await client.result("new__touch", uri="new://second")
        await second.wire.hear_op("resource_updated", uri="new://second")


async def test_a_line_of_the_log_reaches_the_call_that_it_belongs_to(old: RunningDaemon) -> None:
    entry = {"level": "warning", "logger": "x", "data": {"a": [1]}, "_meta": {"k": 1}}
    async with client_of(old) as client, client_of(old) as same, client_of(old, OTHER) as other:
        await same.wire.begin("old__wait", "w")
        await tell(client, MESSAGE, **entry)
        for each in (client, same):
            heard = await each.wire.hear_op("progress")
            assert heard["log"] == entry
            assert (heard["level"], heard["message"]) == ("warning", '{"a":[1]}')
        await other.result("old__asked")
        assert await is_quiet(other, "progress")


async def test_a_line_belongs_to_nobody_where_calls_of_two_principals_run(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, {"old": archive()}) as daemon,
        client_of(daemon) as client,
        client_of(daemon, OTHER) as other,
    ):
        await other.wire.begin("old__wait", "w")
        await tell(client, MESSAGE, level="info", data="a secret of somebody")
        assert await is_quiet(client, "progress")
        assert await is_quiet(other, "progress")


async def test_a_flood_of_lines_is_cut_and_odd_ones_are_dropped(old: RunningDaemon) -> None:
    async with client_of(old) as client:
        odd = [{}, {"level": "loud", "data": 1}, {"level": "info"}, {"level": ["info"], "data": 1}]
        messages = [{"method": MESSAGE, "params": params} for params in odd]
        messages += [{"method": MESSAGE, "params": {"level": "info", "data": "x" * 70_000}}]
        messages += [{"method": MESSAGE, "params": {"level": "info", "data": "x"}}] * 1000
        await client.wire.say(
            "call_tool", name="old__tell", request_id="t", arguments={"messages": messages}
        )
        lines = []
        while (frame := await client.wire.hear())["op"] != "call_tool_res":
            if "log" in frame:
                lines.append(frame["log"]["data"])
        assert lines[0] == "[1 lines were left out]"
        assert 90 <= len(lines) <= 150
        assert set(lines[1:]) <= {"x"} | {line for line in lines if line.startswith("[")}


async def test_servers_are_as_verbose_as_anybody_wants(old: RunningDaemon) -> None:
    async with client_of(old) as client, client_of(old) as second:
        await client.result("logging/setLevel", level="error")
        await second.result("logging/setLevel", level="info")
        await client.result("logging/setLevel", level="warning")
        while len(told := await asked(client, "logging/setLevel")) < 2:
            pass
        assert [params["level"] for _, params in told] == ["error", "info"]


async def test_a_server_of_2026_is_told_the_level_with_each_request(new: RunningDaemon) -> None:
    async with client_of(new) as client:
        log = {"level": "notice", "text": "heard"}
        await client.result("new__log", **log)
        assert await is_quiet(client, "progress")
        key = "io.modelcontextprotocol/logLevel"
        await client.wire.say(
            "call_tool", name="new__log", request_id="l", arguments=log, meta={key: "debug"}
        )
        heard = await client.wire.hear_op("progress", request_id="l")
        assert heard["log"] == {"level": "notice", "logger": "library", "data": "heard"}
        await client.result("logging/setLevel", level="notice")
        await client.result("new__log", **log)
        assert (await client.wire.hear_op("progress"))["log"]["data"] == "heard"


async def test_each_principals_own_instance_tells_only_that_principal(tmp_path: Path) -> None:
    apart = archive(instance="principal")
    async with (
        serving(tmp_path, {"old": apart}) as daemon,
        client_of(daemon) as client,
        client_of(daemon, OTHER) as other,
    ):
        for each in (client, other):
            await each.result("resources/subscribe", uri="file:///a")
        await tell(client, UPDATED, uri="file:///a")
        await client.wire.hear_op("resource_updated")
        await other.result("old__asked")
        assert await is_quiet(other, "resource_updated")


async def test_a_subscription_that_a_server_never_answers_ends_with_its_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exai.upstream.subscriber._PATIENCE_S", 0.2)
    silent = archive("--mute", "resources/subscribe")
    async with serving(tmp_path, {"old": silent}) as daemon, client_of(daemon) as client:
        await client.wire.begin("resources/subscribe", "s", arguments={"uri": "file:///a"})
        await client.wire.say("cancel_tool", request_id="s")
        assert (await client.wire.result("s"))["error"]["code"] == "CANCELLED"
        code, _ = await client.refusal("resources/subscribe", uri="file:///b")
        assert code == -32601
        await tell(client, UPDATED, uri="file:///a")
        assert await is_quiet(client, "resource_updated")
        assert await client.result("resources/read", uri="file:///a")


async def test_a_session_that_ends_while_it_subscribes_leaves_nothing(
    tmp_path: Path,
) -> None:
    silent = archive("--mute", "resources/subscribe", instance="principal", idle_stop_s=0.2)
    async with serving(tmp_path, {"old": silent}) as daemon:
        async with client_of(daemon) as client:
            await client.wire.begin("resources/subscribe", "s", arguments={"uri": "file:///a"})
            await daemon.events.wait_for(UpstreamStarted, 2)
        await daemon.events.wait_for(UpstreamStopped, 2)


async def test_an_instance_that_is_watched_is_not_idle(tmp_path: Path) -> None:
    apart = archive(instance="principal", idle_stop_s=0.2)
    async with serving(tmp_path, {"old": apart}) as daemon, client_of(daemon) as client:
        await client.result("resources/subscribe", uri="file:///a")
        await daemon.events.wait_for(UpstreamStopped, 1)  # it had only listed what there is
        own = daemon.events.of(UpstreamStarted)[1]
        await client.result("resources/unsubscribe", uri="file:///a")
        await daemon.events.wait_for(UpstreamStopped, 2)
        assert daemon.events.of(UpstreamStopped)[1].pid == own.pid


async def test_what_an_evil_server_says_of_updates_is_harmless(old: RunningDaemon) -> None:
    async with client_of(old) as client, client_of(old) as teller:
        await client.result("resources/subscribe", uri="file:///a")
        odd: list[Any] = [{}, {"uri": 7}, {"uri": None}, {"uri": "file:///a/" + "x" * 9000}, []]
        odd += [{"uri": "file:///ab"}, {"uri": "/" * 8000}, {"uri": ""}]
        messages = [{"method": UPDATED, "params": params} for params in odd]
        agreed = {"notifications": {"resourceSubscriptions": [7, "file:///a"]}}
        messages += [{"method": "notifications/subscriptions/acknowledged", "params": agreed}]
        await teller.result("old__tell", messages=messages)
        assert await is_quiet(client, "resource_updated")
        many = [f"file:///a/{number}" for number in range(3000)]
        flood = [{"method": UPDATED, "params": {"uri": uri}} for uri in many]
        await teller.result("old__tell", messages=flood)
        await client.wire.hear_op("resource_updated", uri="file:///a/0")
        assert 0 < (await frames_before_now(client)).count("resource_updated") < 3000
