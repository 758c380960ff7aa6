"""Sessions of MCP over HTTP, as clients of before 2026 have them, and who may have which."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from exai.core.config import Config, LimitsConfig, PrincipalConfig, Secret, ServerConfig
from exai.core.events import SessionEnded, SessionOpened
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from exai.testing.scripted_tool import Gates, ScriptedTool
from tests.journeys.mcp_by_hand import INITIALIZE, LIST, call, events_of, http_client
from tests.journeys.mcp_doors import DOORS, PATIENCE_S, mcp_client

OTHER = "token-of-somebody-else-0123"
TWO = {
    "default": PrincipalConfig(token=Secret(TOKEN)),
    "other": PrincipalConfig(token=Secret(OTHER)),
}


@pytest.fixture
def gates() -> Gates:
    return Gates()


@asynccontextmanager
async def started(config: Config, gates: Gates) -> AsyncIterator[RunningDaemon]:
    async with running_daemon(config, [ScriptedTool("gate", gates)]) as daemon:
        yield daemon


@pytest.mark.parametrize("token", [None, "wrong-token-0123456789"])
async def test_without_a_token_nothing_is_said(
    tmp_path: Path, gates: Gates, token: str | None
) -> None:
    async with started(daemon_config(tmp_path), gates) as daemon, http_client(daemon, token) as me:
        for message in (INITIALIZE, LIST, "garbage"):
            refused = await me.post(message)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert refused.json() == {"error": "unauthorized"}


async def test_a_session_goes_on_after_a_restart_as_if_there_was_none(
    tmp_path: Path, gates: Gates
) -> None:
    config = daemon_config(tmp_path)
    async with started(config, gates) as daemon, http_client(daemon) as me:
        await me.initialize()
        headers = me.headers
    async with started(config, gates) as daemon, http_client(daemon) as me:
        me.headers = headers
        (listing,) = events_of(await me.post(LIST))
        assert "gate" in {tool["name"] for tool in listing["result"]["tools"]}
        gates.open("a")
        (answer,) = events_of(await me.post(call("a")))
        assert answer["result"]["content"][0]["text"] == "through a"


async def test_a_session_is_there_for_its_principal_alone(tmp_path: Path, gates: Gates) -> None:
    config = daemon_config(tmp_path, principals=TWO)
    async with started(config, gates) as daemon, http_client(daemon) as me:
        session_id = await me.initialize()
        async with http_client(daemon, OTHER) as other:
            stolen = await other.post(LIST, Mcp_Session_Id=session_id)
            unknown = await other.post(LIST, Mcp_Session_Id="x" * 32)
            assert (stolen.status_code, stolen.text) == (unknown.status_code, unknown.text)
            assert stolen.status_code == 404
            other.headers["Mcp-Session-Id"] = session_id
            assert (await other.delete()).status_code == 404
        assert (await me.post(LIST)).status_code == 200
    async with started(config, gates) as daemon, http_client(daemon, OTHER) as other:
        assert (await other.post(LIST, Mcp_Session_Id=session_id)).status_code == 404


async def test_a_session_that_its_client_ended_is_gone_for_good(
    tmp_path: Path, gates: Gates
) -> None:
    config = daemon_config(tmp_path)
    async with started(config, gates) as daemon, http_client(daemon) as me:
        await me.initialize()
        assert (await me.delete()).status_code == 200
        assert (await me.post(LIST)).status_code == 404
        headers = me.headers
    async with started(config, gates) as daemon, http_client(daemon) as me:
        me.headers = headers
        assert (await me.post(LIST)).status_code == 404


async def test_a_session_that_nobody_uses_ends(tmp_path: Path, gates: Gates) -> None:
    limits = LimitsConfig(mcp_session_idle_s=0.1, session_cleanup_interval_s=0.02)
    config = daemon_config(tmp_path, limits=limits)
    async with started(config, gates) as daemon, http_client(daemon) as me:
        session_id = await me.initialize()
        async with asyncio.TaskGroup() as tasks:
            calling = tasks.create_task(me.post(call("a")))
            await gates.until_inside("a")
            await asyncio.sleep(0.3)  # three times as long as it would be idle
            gates.open("a")
            assert (await calling).status_code == 200
        ended = await daemon.events.first_of(SessionEnded)
        assert (ended.session_id, ended.reason) == (session_id, "expired")
        assert (await me.post(LIST)).status_code == 404


async def test_there_are_no_more_sessions_than_may_be(tmp_path: Path, gates: Gates) -> None:
    config = daemon_config(tmp_path, limits=LimitsConfig(mcp_max_sessions=2))
    async with started(config, gates) as daemon, http_client(daemon) as me:
        one = await me.post(INITIALIZE)
        two = await me.post(INITIALIZE)
        refused = await me.post(INITIALIZE)
        assert [each.status_code for each in (one, two, refused)] == [200, 200, 503]
        assert "limits.mcp_max_sessions" in refused.json()["error"]["message"]
        me.headers["Mcp-Session-Id"] = one.headers["mcp-session-id"]
        assert (await me.delete()).status_code == 200
        del me.headers["Mcp-Session-Id"]
        assert (await me.post(INITIALIZE)).status_code == 200


async def test_one_more_session_takes_the_place_of_the_one_unused_for_longest(
    tmp_path: Path, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exai.connections.mcp_sessions._MAY_COME_BACK_WITHIN_S", 0.0)
    config = daemon_config(tmp_path, limits=LimitsConfig(mcp_max_sessions=3))
    async with started(config, gates) as daemon, http_client(daemon) as me:
        at_work, unused, used = [
            {"Mcp-Session-Id": (await me.post(INITIALIZE)).headers["mcp-session-id"]}
            for _ in range(3)
        ]
        own = dict(me.headers)
        me.headers = own | at_work
        async with me.posting(call("a")) as stream:
            await gates.until_inside("a")
            me.headers = own | used
            assert (await me.post(LIST)).status_code == 200
            me.headers = own
            assert (await me.post(INITIALIZE)).status_code == 200
            me.headers = own | unused
            assert (await me.post(LIST)).status_code == 404
            me.headers = own | used
            assert (await me.post(LIST)).status_code == 200
            gates.open("a")
            assert (await stream.message())["result"]["isError"] is False


LIMITS: list[tuple[dict[str, Any], str]] = [
    ({"server": ServerConfig(max_connections=2)}, "server.max_connections"),
    (
        {"principals": {"default": PrincipalConfig(token=Secret(TOKEN), max_connections=2)}},
        "principals.NAME.max_connections",
    ),
]


@pytest.mark.parametrize(("sections", "limit"), LIMITS, ids=[limit for _, limit in LIMITS])
async def test_streams_leave_room_for_those_who_watch_the_daemon(
    tmp_path: Path, gates: Gates, sections: dict[str, Any], limit: str
) -> None:
    config = daemon_config(tmp_path, **sections)
    async with started(config, gates) as daemon, http_client(daemon) as me:
        await me.initialize()
        async with me.posting(call("a", 5)):
            await gates.until_inside("a")  # so that what came before is over
            async with me.posting(call("b", 6)):
                await gates.until_inside("b")
                refused = await me.post(LIST)
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
                assert limit in refused.json()["error"]
                assert (await me.http.get(f"{daemon.address.http_url}livez")).status_code == 200
                gates.open("a")
                gates.open("b")
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if (await me.post(LIST)).status_code == 200:
                    break
                await asyncio.sleep(0.01)


async def test_what_does_not_initialize_leaves_nothing_behind(tmp_path: Path, gates: Gates) -> None:
    config = daemon_config(tmp_path, limits=LimitsConfig(mcp_max_sessions=2))
    broken = INITIALIZE | {"params": {"protocolVersion": 7}}
    async with started(config, gates) as daemon, http_client(daemon) as me:
        for message in [LIST, "garbage", [], 5, None, broken, {"jsonrpc": "2.0"}] * 3:
            answer = await me.post(message)
            assert 200 <= answer.status_code < 500, answer.text
        assert (await me.post(INITIALIZE)).status_code == 200
        assert (await me.post(INITIALIZE)).status_code == 200


async def test_a_body_that_is_too_long_is_not_read(tmp_path: Path, gates: Gates) -> None:
    config = daemon_config(tmp_path, server=ServerConfig(max_message_bytes=10_000))
    async with started(config, gates) as daemon, http_client(daemon) as me:
        answer = await me.post(INITIALIZE | {"padding": "x" * 20_000})
        assert answer.status_code == 413


@pytest.mark.parametrize("version", ["2025-11-25", "2026-07-28"])
async def test_what_would_take_too_long_to_read_is_not_read(
    tmp_path: Path, gates: Gates, version: str
) -> None:
    async with started(daemon_config(tmp_path), gates) as daemon, http_client(daemon) as me:
        await me.initialize("2025-11-25")
        odds: list[list[Any]] = [[0] * 100_001, [[[]]] * 33_334]
        for odd in odds:
            answer = await me.post(LIST | {"odd": odd}, MCP_Protocol_Version=version)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32700)


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [("Host", "evil.example", 421), ("Origin", "https://evil.example", 403)],
)
async def test_a_rebound_name_or_a_foreign_page_is_refused(
    tmp_path: Path, gates: Gates, header: str, value: str, status: int
) -> None:
    async with started(daemon_config(tmp_path), gates) as daemon, http_client(daemon) as me:
        me.headers[header] = value
        assert (await me.post(INITIALIZE)).status_code == status


async def test_an_unknown_version_is_told_what_is_known(tmp_path: Path, gates: Gates) -> None:
    async with started(daemon_config(tmp_path), gates) as daemon, http_client(daemon) as me:
        meta = {
            "io.modelcontextprotocol/protocolVersion": "2031-01-01",
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        message = LIST | {"params": {"_meta": meta}}
        answer = await me.post(message, MCP_Protocol_Version="2031-01-01", Mcp_Method="tools/list")
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == -32022
        assert answer.json()["error"]["data"]["supported"] == ["2026-07-28"]


async def test_a_key_may_come_as_a_header(tmp_path: Path, gates: Gates) -> None:
    gates.open("a")
    async with started(daemon_config(tmp_path), gates) as daemon, http_client(daemon) as me:
        await me.initialize()
        for request_id in (7, 8):
            (answer,) = events_of(await me.post(call("a", request_id), Idempotency_Key="key-1"))
            assert answer["result"]["isError"] is False
        assert gates.runs == ["a"]
        wrong = events_of(await me.post(call("a"), Idempotency_Key="two words"))[0]
        assert wrong["error"]["code"] == -32602


async def test_two_keys_are_one_too_many(tmp_path: Path, gates: Gates) -> None:
    async with started(daemon_config(tmp_path), gates) as daemon, http_client(daemon) as me:
        await me.initialize()
        keyed = call("a")
        keyed["params"]["_meta"] = {"exai/idempotencyKey": "key-1"}
        [answer] = events_of(await me.post(keyed, Idempotency_Key="key-2"))
        assert answer["error"]["code"] == -32602
        gates.open("a")
        [answer] = events_of(await me.post(keyed, Idempotency_Key="key-1"))
        assert answer["result"]["isError"] is False


@pytest.mark.parametrize("body_bytes", [40, 60_000])
async def test_a_refused_request_does_not_spoil_the_connection(
    tmp_path: Path, gates: Gates, body_bytes: int
) -> None:
    async with started(daemon_config(tmp_path), gates) as daemon:
        at = urlsplit(daemon.address.http_url)
        reader, writer = await asyncio.open_connection(at.hostname, at.port)
        head = f"POST /mcp HTTP/1.1\r\nHost: {at.netloc}\r\nContent-Length: {body_bytes}\r\n\r\n"
        async with asyncio.timeout(4.0):
            writer.write(head.encode())
            await writer.drain()
            await asyncio.sleep(0.05)  # as a client does that sends head and body apart
            writer.write(b"x" * body_bytes)
            assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
            writer.write(f"GET /livez HTTP/1.1\r\nHost: {at.netloc}\r\n\r\n".encode())
            rest = await reader.readuntil(b'{"status":"ok"}')
            assert b"HTTP/1.1 200 OK" in rest
        writer.close()
        await writer.wait_closed()


async def test_a_refused_request_that_goes_on_and_on_ends_with_its_answer(
    tmp_path: Path, gates: Gates
) -> None:
    async with started(daemon_config(tmp_path), gates) as daemon:
        at = urlsplit(daemon.address.http_url)
        reader, writer = await asyncio.open_connection(at.hostname, at.port)
        writer.write(
            f"POST /mcp HTTP/1.1\r\nHost: {at.netloc}\r\nContent-Length: 9000000\r\n\r\n".encode()
        )
        async with asyncio.timeout(4.0):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert b"connection: close" in answer.lower()
        writer.close()


async def test_a_session_of_another_kind_is_none_of_http(tmp_path: Path, gates: Gates) -> None:
    async with (
        started(daemon_config(tmp_path), gates) as daemon,
        http_client(daemon) as me,
        mcp_client(daemon, DOORS[0]) as modern,
    ):
        await modern.list_tools()
        other = await daemon.events.first_of(SessionOpened)
        assert (await me.post(LIST, Mcp_Session_Id=other.session_id)).status_code == 404
