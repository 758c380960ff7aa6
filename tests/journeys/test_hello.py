"""Who is let in, who is not, and what each is told."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from exai.core.config import AuthConfig, PrincipalConfig, Secret, ServerConfig
from exai.core.events import ConnectionRefused, SessionOpened
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from tests.journeys.wire import open_wire

OTHER_TOKEN = "another-token-0123456789"


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[RunningDaemon]:
    async with running_daemon(daemon_config(tmp_path)) as running:
        yield running


async def refused(daemon: RunningDaemon, frame: str) -> tuple[dict[str, object], int | None]:
    """Send a first frame that is refused; return the answer and the close code."""
    async with open_wire(daemon.url, greet=False) as wire:
        await wire.socket.send(frame)
        answer = await wire.hear()
        code, _ = await wire.closed()
    return answer, code


async def test_a_hello_is_answered_with_all_that_a_client_must_know(
    daemon: RunningDaemon,
) -> None:
    async with open_wire(daemon.url, greet=False) as wire:
        ack = await wire.hello(token=TOKEN, client={"name": "me", "version": 1}, novelty=[1])
    assert ack.pop("session_id")
    assert ack.pop("resume_token")
    assert ack.pop("server")["name"] == "exai"
    assert ack == {
        "op": "hello_ack",
        "ok": True,
        "protocol": "exai.v1",
        "resumed": False,
        "durable": True,
        "limits": {
            "max_message_bytes": 33_554_432,
            "session_max_inflight": 8,
            "call_timeout_s": 180.0,
            "progress_interval_s": 8.0,
            "result_ttl_s": 600.0,
            "resume_window_s": 600.0,
            "idempotency_ttl_s": 86400.0,
            "session_max_unacked": 1000,
        },
        "pending": [],
    }


async def test_ids_and_resume_tokens_are_long_and_never_the_same(daemon: RunningDaemon) -> None:
    seen = set()
    for _ in range(5):
        async with open_wire(daemon.url, greet=False) as wire:
            ack = await wire.hello(token=TOKEN)
            seen |= {ack["session_id"], ack["resume_token"]}
    assert len(seen) == 10
    assert min(map(len, seen)) >= 22


@pytest.mark.parametrize("frame", ["", "{", "[]", '"hello"', "null", '{"op":"hello","x":NaN}'])
async def test_a_malformed_first_frame(daemon: RunningDaemon, frame: str) -> None:
    answer, code = await refused(daemon, frame)
    assert answer == {"op": "hello_ack", "ok": False, "error": "invalid_hello"}
    assert code == 4000


@pytest.mark.parametrize("frame", ["{}", '{"op":"call_tool","name":"echo"}', '{"op":7}'])
async def test_a_first_frame_that_is_no_hello(daemon: RunningDaemon, frame: str) -> None:
    answer, code = await refused(daemon, frame)
    assert answer["error"] == "missing_hello"
    assert code == 4001


@pytest.mark.parametrize("token", [None, "", "wrong-token-0123456789", TOKEN + " ", 7, [TOKEN]])
async def test_a_missing_or_wrong_token(daemon: RunningDaemon, token: object) -> None:
    answer, code = await refused(daemon, json.dumps({"op": "hello", "token": token}))
    assert answer == {"op": "hello_ack", "ok": False, "error": "unauthorized"}
    assert code == 4003
    assert daemon.events.of(SessionOpened) == []
    assert [event.reason for event in daemon.events.of(ConnectionRefused)] == ["unauthorized"]


async def test_no_hello_in_time(tmp_path: Path) -> None:
    config = daemon_config(tmp_path, server=ServerConfig(hello_timeout_s=0.05))
    async with running_daemon(config) as daemon, open_wire(daemon.url, greet=False) as wire:
        assert await wire.closed() == (4002, "hello timeout")


async def test_the_token_may_come_in_the_upgrade_instead(daemon: RunningDaemon) -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    async with open_wire(daemon.url, greet=False, additional_headers=bearer) as wire:
        assert (await wire.hello())["ok"]
    async with open_wire(daemon.url, greet=False, additional_headers=bearer) as wire:
        assert (await wire.hello(token=TOKEN))["ok"]


async def test_two_tokens_that_differ_open_nothing_even_if_one_is_right(
    daemon: RunningDaemon,
) -> None:
    bearer = {"Authorization": f"Bearer {OTHER_TOKEN}"}
    async with open_wire(daemon.url, greet=False, additional_headers=bearer) as wire:
        assert (await wire.hello(token=TOKEN))["error"] == "unauthorized"
        assert (await wire.closed())[0] == 4003


async def test_a_token_in_the_url_is_never_read(daemon: RunningDaemon) -> None:
    async with open_wire(f"{daemon.url}?token={TOKEN}", greet=False) as wire:
        assert (await wire.hello())["error"] == "unauthorized"


async def test_without_authentication_everybody_is_let_in(tmp_path: Path) -> None:
    config = daemon_config(tmp_path, auth=AuthConfig(mode="none"), principals={})
    async with running_daemon(config) as daemon, open_wire(daemon.url, greet=False) as wire:
        assert (await wire.hello())["ok"]
        health = (await wire.ask("health", "health_res"))["health"]
    assert health["auth"] == "none"


async def test_a_first_frame_over_64_kib_is_closed_unread(daemon: RunningDaemon) -> None:
    async with open_wire(daemon.url, greet=False) as wire:
        await wire.say("hello", token=TOKEN, padding="x" * 65_536)
        assert (await wire.closed())[0] == 1009


async def test_a_second_hello_is_an_error_and_the_session_goes_on(daemon: RunningDaemon) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        error = await wire.ask("hello", "error", token="wrong")
        assert error["error"]["code"] == "PROTOCOL_ERROR"
        assert (await wire.call("echo", arguments={"text": "x"}))["ok"]


async def test_garbage_after_the_hello_is_an_error_and_the_session_goes_on(
    daemon: RunningDaemon,
) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        for garbage in ("", "{", "[]", '{"op":"dance"}', '{"op":"call_tool","request_id":" "}'):
            await wire.socket.send(garbage)
            assert (await wire.hear())["op"] == "error"
        assert (await wire.call("echo", arguments={"text": "x"}))["ok"]


async def test_a_binary_frame_closes_the_connection(daemon: RunningDaemon) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        await wire.socket.send(b"\x00")
        assert (await wire.closed())[0] == 1003


async def test_a_full_daemon_says_try_again_later(tmp_path: Path) -> None:
    config = daemon_config(tmp_path, server=ServerConfig(max_connections=1))
    async with running_daemon(config) as daemon:
        async with (
            open_wire(daemon.url, token=TOKEN),
            open_wire(daemon.url, greet=False) as wire,
        ):
            assert await wire.closed() == (1013, "try again later")
        await until_admitted(daemon)


async def test_a_principal_has_its_own_limit_of_connections(tmp_path: Path) -> None:
    principals = {
        "narrow": PrincipalConfig(token=Secret(TOKEN), max_connections=1),
        "wide": PrincipalConfig(token=Secret(OTHER_TOKEN)),
    }
    async with running_daemon(daemon_config(tmp_path, principals=principals)) as daemon:
        async with open_wire(daemon.url, token=TOKEN):
            async with open_wire(daemon.url, greet=False) as wire:
                await wire.say("hello", token=TOKEN)
                assert await wire.closed() == (1008, "connection limit")
            async with open_wire(daemon.url, token=OTHER_TOKEN):
                pass
        await until_admitted(daemon)


async def until_admitted(daemon: RunningDaemon) -> None:
    """Wait until the daemon has noticed that a connection ended, and lets in another."""
    async with asyncio.timeout(10):
        admitted = False
        while not admitted:
            async with connect(daemon.url) as socket:
                await socket.send(json.dumps({"op": "hello", "token": TOKEN}))
                with suppress(ConnectionClosed):
                    admitted = json.loads(await socket.recv())["ok"]


async def test_events_name_the_peer_and_never_its_token(daemon: RunningDaemon) -> None:
    async with open_wire(daemon.url, greet=False) as wire:
        await wire.hello(token=TOKEN, client={"name": "agent\x1b[31m" + "x" * 100})
    [opened] = daemon.events.of(SessionOpened)
    assert opened.principal == "default"
    assert opened.remote_address == "127.0.0.1"
    assert opened.client_name == ("agent[31m" + "x" * 100)[:64]
    assert TOKEN not in repr(daemon.events.events)
