"""MCP servers come, go and change while a daemon runs, and nobody else notices."""

import asyncio
import gc
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from exai.core.config import AuthConfig, LimitsConfig, PrincipalConfig, Secret, UpstreamConfig
from exai.core.events import UpstreamsReloaded, UpstreamStarted
from exai.core.upstream_reports import ConfigRead
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from exai.upstream.instance import ServerInstance
from exai.upstream.server import UpstreamServer
from exai.upstream.wishes import Wishes
from tests.journeys.wire import Wire, open_wire
from tests.upstream.running_server import is_alive, scripted, until

BOB, BOSS = "token-of-bob-0123456789", "token-of-the-boss-0123456789"
PRINCIPALS = {
    "default": PrincipalConfig(token=Secret(TOKEN), admin=True),
    "bob": PrincipalConfig(token=Secret(BOB), tools=("a__echo", "echo")),
    "nobody": PrincipalConfig(token=Secret(BOSS), tools=("echo",), admin=True),
}


class World:
    """A daemon, and the configuration that it finds when it reads it again."""

    def __init__(self, **servers: UpstreamConfig) -> None:
        self.servers = servers
        self.problems: list[str] = []
        self.daemon: RunningDaemon

    def read(self) -> ConfigRead:
        return ConfigRead(
            upstreams=self.servers,
            problems=self.problems,
            warnings=["careful"],
            for_a_restart=["server.port"],
        )

    async def ask(
        self, path: str, method: str = "GET", token: str | None = TOKEN
    ) -> httpx2.Response:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        url = self.daemon.address.http_url
        async with httpx2.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
            return await client.request(method, path, headers=headers)

    async def reload(self, **servers: UpstreamConfig) -> dict[str, Any]:
        self.servers = servers
        answer = await self.ask("/reload", "POST")
        assert answer.status_code == 200, answer.text
        report: dict[str, Any] = answer.json()
        return report

    async def reports(self, token: str = TOKEN) -> dict[str, Any]:
        answer = await self.ask("/upstreams", token=token)
        return {report["name"]: report for report in answer.json()["upstreams"]}

    async def wait_started(self, count: int) -> None:
        await self.daemon.events.wait_for(UpstreamStarted, count)


@asynccontextmanager
async def world(
    state_dir: Path, sections: dict[str, Any] | None = None, /, **servers: UpstreamConfig
) -> AsyncIterator[World]:
    it = World(**servers)
    limits = LimitsConfig(cancel_grace_s=0.2)
    defaults = {"limits": limits, "principals": PRINCIPALS, "upstreams": servers}
    config = daemon_config(state_dir, **(defaults | (sections or {})))
    async with running_daemon(config, environment=os.environ, read_config=it.read) as it.daemon:
        await it.wait_started(len(servers))
        yield it


async def names(wire: Wire) -> set[str]:
    listing = await wire.ask("list_tools", "list_tools_res")
    return {tool["name"] for tool in listing["tools"]}


async def pools(it: World) -> dict[str, tuple[int, int]]:
    """Return the limit of each scope, and how many of its permits are held."""
    health = (await it.ask("/health")).json()
    return {pool["scope"]: (pool["limit"], pool["in_use"]) for pool in health["pools"]}


async def test_what_is_the_same_goes_on_and_what_differs_comes_and_goes(tmp_path: Path) -> None:
    async with (
        world(tmp_path, a=scripted(), b=scripted()) as it,
        open_wire(it.daemon.url, token=TOKEN) as wire,
    ):
        await wire.begin("a__wait", "r1")
        before = await it.reports()
        report = await it.reload(a=scripted(), c=scripted())
        assert {key: report[key] for key in ("added", "removed", "restarted", "adjusted")} == {
            "added": ["c"],
            "removed": ["b"],
            "restarted": [],
            "adjusted": [],
        }
        assert (report["warnings"], report["for_a_restart"]) == (["careful"], ["server.port"])
        await wire.hear_op("tools_changed")
        await it.wait_started(3)
        after = await it.reports()
        assert list(after) == ["a", "c"]
        assert (after["a"]["pid"], after["a"]["running_count"]) == (before["a"]["pid"], 1)
        assert not any(name.startswith("b__") for name in await names(wire))
        assert (await wire.call("c__echo", "r2", arguments={"text": "hi"}))["text"] == "hi"
        assert (await wire.call("b__echo", "r3"))["error"]["code"] == "TOOL_NOT_FOUND"
        await until(lambda: not is_alive(before["b"]["pid"]))
        await wire.say("cancel_tool", request_id="r1")
        assert (await wire.result("r1"))["error"]["code"] == "CANCELLED"


async def test_a_changed_command_restarts_a_server_and_calls_that_have_not_begun_wait(
    tmp_path: Path,
) -> None:
    async with (
        world(tmp_path, a=scripted(max_inflight=1)) as it,
        open_wire(it.daemon.url, token=TOKEN) as wire,
    ):
        await wire.begin("a__wait", "r1")
        await wire.begin("a__environment", "r2")
        report = await it.reload(a=scripted(env={"LEVEL": "two"}))
        assert report["restarted"] == ["a"]
        broken = await wire.result("r1")
        assert broken["error"]["code"] == "UPSTREAM_ERROR"
        assert broken["error"]["details"]["may_have_run"]
        assert '"LEVEL": "two"' in (await wire.result("r2"))["text"]
        assert (await it.reports())["a"]["start_count"] == 2


async def test_a_call_that_ends_in_its_grace_is_answered_by_a_server_that_goes(
    tmp_path: Path,
) -> None:
    sections = {"limits": LimitsConfig(cancel_grace_s=20.0), "principals": PRINCIPALS}
    async with (
        world(tmp_path, sections, a=scripted()) as it,
        open_wire(it.daemon.url, token=TOKEN) as wire,
    ):
        await wire.begin("a__slowly", "r1", arguments={"seconds": 0.5, "text": "late"})
        await it.reload()
        assert (await wire.result("r1"))["text"] == "late"


async def test_names_filters_and_limits_change_without_a_restart(tmp_path: Path) -> None:
    async with (
        world(tmp_path, a=scripted(max_inflight=1)) as it,
        open_wire(it.daemon.url, token=TOKEN) as wire,
    ):
        pid = (await it.reports())["a"]["pid"]
        await wire.begin("a__wait", "r1")
        await wire.begin("a__wait", "r2")
        changed = scripted(
            max_inflight=3, prefix="", allow=("echo", "wait"), tools={"wait": {"name": "a_wait"}}
        )
        assert (await it.reload(a=changed))["adjusted"] == ["a"]
        report = (await it.reports())["a"]
        assert (report["pid"], report["running_count"], report["tools"]) == (pid, 2, ["a_wait"])
        assert report["unavailable"] == {"echo": "its name echo belongs to a tool of exai"}
        assert {"a_wait", "echo"} <= await names(wire)
        await it.reload(a=scripted(max_inflight=1))
        assert (await it.reports())["a"]["pid"] == pid
        assert "a__echo" in await names(wire)
        assert (await pools(it))["upstream:a"] == (1, 2)
        for request_id in ("r1", "r2"):
            await wire.say("cancel_tool", request_id=request_id)
            await wire.result(request_id)
        await wire.begin("a__wait", "r3")
        await wire.begin("a__wait", "r4")
        async with asyncio.timeout(20):
            while (await pools(it))["upstream:a"] != (1, 1):
                pass
        assert (await it.reports())["a"]["running_count"] == 1


CHANGES: dict[str, tuple[Any, str]] = {
    "command": ("/bin/false", "restarted"),
    "args": (("-c", "0"), "restarted"),
    "env": ({"LEVEL": "two"}, "restarted"),
    "cwd": (Path("/"), "restarted"),
    "instance": ("principal", "restarted"),
    "disabled": (True, "removed"),
    "prefix": ("x_", "adjusted"),
    "allow": (("echo",), "adjusted"),
    "deny": (("echo",), "adjusted"),
    "tools": ({"echo": {"read_only": True}}, "adjusted"),
    "trust_annotations": (False, "adjusted"),
    "max_inflight": (3, "adjusted"),
    "timeout_s": (7.0, "adjusted"),
    "start_timeout_s": (7.0, "adjusted"),
    "idle_stop_s": (7.0, "adjusted"),
    "max_instances": (3, "adjusted"),
}


async def test_each_setting_is_followed_and_only_some_cost_a_restart(tmp_path: Path) -> None:
    assert {*CHANGES, "url", "headers"} == set(UpstreamConfig.__struct_fields__)
    before = scripted()
    async with world(tmp_path, a=before) as it:
        for setting, (value, kind) in CHANGES.items():
            report = await it.reload(a=msgspec.structs.replace(before, **{setting: value}))
            said = {each: report[each] for each in ("added", "removed", "restarted", "adjusted")}
            assert said == {"added": [], "removed": [], "restarted": [], "adjusted": []} | {
                kind: ["a"]
            }, setting
            await it.reload(a=before)


def census() -> Counter[type]:
    """Count what is made anew for servers that come."""
    gc.collect()
    kinds = (UpstreamServer, ServerInstance, Wishes, asyncio.Task, asyncio.Lock)
    return Counter(type(each) for each in gc.get_objects() if isinstance(each, kinds))


async def test_servers_that_come_and_go_under_other_names_leave_nothing_behind(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, a=scripted()) as it:
        before = census()
        for number in range(20):
            await it.reload(**{f"a{number}": scripted()})
            await it.wait_started(number + 2)
        await it.reload(a=scripted())
        await it.wait_started(22)
        await until(lambda: (census() - before).total() < 10)
        assert list(await it.reports()) == ["a"]


async def test_a_name_that_a_removed_server_had_goes_to_the_one_that_wanted_it(
    tmp_path: Path,
) -> None:
    one, other = scripted(prefix="", allow=("wait",)), scripted(prefix="", allow=("wait",))
    async with world(tmp_path, a=one, b=other) as it:
        assert (await it.reports())["b"]["unavailable"] == {
            "wait": "its name wait belongs to a tool of a"
        }
        await it.reload(b=other)
        report = (await it.reports())["b"]
        assert (report["tools"], report["unavailable"]) == (["wait"], {})
        await it.reload(a=one, b=other)
        await it.wait_started(3)
        assert (await it.reports())["b"]["tools"] == []


async def test_a_configuration_with_faults_changes_nothing(tmp_path: Path) -> None:
    async with world(tmp_path, a=scripted()) as it:
        before = await it.reports()
        it.servers, it.problems = {}, ["mcp.json: a.command is missing"]
        answer = await it.ask("/reload", "POST")
        assert answer.status_code == 422
        assert answer.json()["problems"] == it.problems
        assert await it.reports() == before
        assert not it.daemon.events.of(UpstreamsReloaded)


async def test_a_server_that_is_disabled_is_one_that_is_not_there(tmp_path: Path) -> None:
    async with world(tmp_path, a=scripted()) as it:
        assert (await it.reload(a=scripted(disabled=True)))["removed"] == ["a"]
        assert await it.reports() == {}
        assert (await it.reload(a=scripted()))["added"] == ["a"]


async def test_a_restart_ends_running_calls_as_a_crash_would(tmp_path: Path) -> None:
    async with world(tmp_path, a=scripted()) as it, open_wire(it.daemon.url, token=TOKEN) as wire:
        pid = (await it.reports())["a"]["pid"]
        await wire.begin("a__wait", "r1")
        answer = await it.ask("/upstreams/a/restart", "POST")
        report = answer.json()
        assert (answer.status_code, report["state"], report["start_count"]) == (200, "ready", 2)
        assert report["pid"] != pid
        error = (await wire.result("r1"))["error"]
        assert (error["code"], error["details"]["may_have_run"]) == ("UPSTREAM_ERROR", True)
        assert (await wire.call("a__echo", "r2", arguments={"text": "again"}))["text"] == "again"


async def test_a_restart_of_what_had_given_up_tries_again_at_once(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    script = f'test -e {marker} || exit 3; exec "$0" "$@"'
    works = scripted()
    assert works.command is not None
    config = UpstreamConfig(command="/bin/sh", args=("-c", script, works.command, *works.args))
    async with world(tmp_path / "state") as it:
        await it.reload(a=config)
        while (await it.reports())["a"]["state"] != "gave_up":
            if (await it.ask("/upstreams/a/restart", "POST")).json()["state"] == "backing_off":
                break
        marker.touch()
        report = (await it.ask("/upstreams/a/restart", "POST")).json()
        assert report["state"] == "ready"


async def test_who_may_do_what(tmp_path: Path) -> None:
    async with world(tmp_path, a=scripted(), b=scripted()) as it:
        assert list(await it.reports(BOB)) == ["a"]
        seen = (await it.reports(BOB))["a"]
        assert (seen["tools"], seen["command"], seen["unavailable"]) == (["a__echo"], None, {})
        assert await it.reports(BOSS) == {}
        statuses = {
            (method, path, token): (await it.ask(path, method, token)).status_code
            for token in (None, "wrong", BOB, BOSS)
            for method, path in (
                ("GET", "/upstreams"),
                ("GET", "/upstreams/a/logs"),
                ("POST", "/upstreams/a/restart"),
                ("POST", "/upstreams/b/restart"),
                ("POST", "/reload"),
            )
        }
        assert [statuses[key] for key in statuses if key[2] is None] == [401] * 5
        assert [statuses[key] for key in statuses if key[2] == "wrong"] == [401] * 5
        assert [statuses[key] for key in statuses if key[2] == BOB] == [200, 403, 403, 404, 403]
        assert [statuses[key] for key in statuses if key[2] == BOSS] == [200, 404, 404, 404, 200]
        refused = await it.ask("/reload", "POST", BOB)
        assert refused.json() == {"error": "the principal bob is no admin (principals.bob.admin)"}
        assert (await it.ask("/upstreams/nope/restart", "POST")).status_code == 404
        assert (await it.ask("/upstreams/a/restart")).status_code == 405
        assert (await it.ask("/reload")).status_code == 405


async def test_a_daemon_without_tokens_lets_everybody_look_after_it_but_no_web_page(
    tmp_path: Path,
) -> None:
    sections = {"auth": AuthConfig(mode="none"), "principals": {}}
    async with world(tmp_path, sections, a=scripted()) as it:
        assert (await it.ask("/reload", "POST", None)).status_code == 200
        url = it.daemon.address.http_url
        async with httpx2.AsyncClient(base_url=url, trust_env=False) as client:
            headers = {"origin": "https://evil.example"}
            assert (await client.post("/reload", headers=headers)).status_code == 403


async def test_what_a_server_said_is_kept_with_its_starts_and_ends(tmp_path: Path) -> None:
    async with world(tmp_path, a=scripted()) as it, open_wire(it.daemon.url, token=TOKEN) as wire:
        await wire.call("a__exit")
        await it.wait_started(2)
        log = (await it.ask("/upstreams/a/logs")).json()
        texts = [line["text"] for line in log["lines"]]
        assert texts[0].startswith("[started: pid ")
        assert "last words" in texts
        assert any(text.startswith("[exited with status 1; started again in") for text in texts)
        assert [line["number"] for line in log["lines"]] == list(range(1, log["last"] + 1))
        (last,) = (await it.ask("/upstreams/a/logs?n=1")).json()["lines"]
        assert last["number"] == log["last"]
        newer = (await it.ask(f"/upstreams/a/logs?after={log['last']}")).json()
        assert newer == {"lines": [], "last": log["last"]}
        for query in ("n=-1", "n=x", "after=-1"):
            assert (await it.ask(f"/upstreams/a/logs?{query}")).status_code == 400


@pytest.mark.slow
async def test_nothing_is_lost_while_it_is_reloaded_again_and_again(tmp_path: Path) -> None:
    """Calls of a server that stays are all answered; those of one that changes are told why."""
    async with (
        world(tmp_path, a=scripted(), b=scripted()) as it,
        open_wire(it.daemon.url, token=TOKEN) as wire,
    ):

        async def reload_often() -> None:
            for n in range(12):
                others = {} if n % 3 == 2 else {"b": scripted(env={"N": str(n)})}
                await it.reload(a=scripted(max_inflight=1 + n % 8), **others)

        async with asyncio.TaskGroup() as group:
            reloading = group.create_task(reload_often())
            n = 0
            codes: set[str] = set()
            while not reloading.done():
                n += 1
                for name in ("a", "b"):
                    fields = {"name": f"{name}__echo", "arguments": {"text": name}}
                    await wire.say("call_tool", request_id=f"{name}{n}", **fields)
                assert (await wire.result(f"a{n}"))["text"] == "a"
                answer = await wire.result(f"b{n}")
                codes.add("ok" if answer["ok"] else answer["error"]["code"])
        assert codes <= {"ok", "UPSTREAM_ERROR", "TOOL_NOT_FOUND"}
        assert not (await it.ask("/health")).json()["leaked_permits"]
        assert [s for s in await pools(it) if s.startswith("upstream:")] == ["upstream:a"]
