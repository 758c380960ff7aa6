"""Message rates and failed hellos over sockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from exai.core.config import (
    LimitsConfig,
    PrincipalConfig,
    RatesConfig,
    Secret,
    ServerConfig,
)
from exai.core.events import ConnectionRefused
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from tests.journeys.wire import open_wire

OTHER_TOKEN = "token-of-somebody-else-0123456789"
PROXIES = ("127.0.0.1", "10.0.0.0/8")
RATES = RatesConfig(principal_per_s=20, principal_burst=10, failed_hellos_per_minute=3)


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[RunningDaemon]:
    config = daemon_config(
        tmp_path,
        rates=RATES,
        server=ServerConfig(trusted_proxies=PROXIES, max_connections_per_address=2),
        limits=LimitsConfig(session_max_waiting=500),
        principals={
            "default": PrincipalConfig(token=Secret(TOKEN)),
            "other": PrincipalConfig(token=Secret(OTHER_TOKEN)),
        },
    )
    async with running_daemon(config) as running:
        yield running


async def test_calls_over_the_rate_are_refused_and_pass_when_it_allows(
    daemon: RunningDaemon,
) -> None:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        for n in range(30):
            await wire.say("call_tool", name="echo", request_id=f"r{n}", arguments={"text": "x"})
        told = [await wire.result(f"r{n}") for n in range(30)]
        refused = [answer["error"] for answer in told if not answer["ok"]]
        assert all(answer["ok"] for answer in told[:10])
        assert len(refused) > 10
        assert {error["code"] for error in refused} == {"RATE_LIMITED"}
        assert all(error["retryable"] and error["retry_after_s"] <= 0.05 for error in refused)
        async with open_wire(daemon.url, token=OTHER_TOKEN) as other:
            assert (await other.call("echo", arguments={"text": "x"}))["ok"]
        async with asyncio.timeout(10):
            while not (await wire.call("echo", "again", arguments={"text": "x"}))["ok"]:
                pass


async def test_what_is_no_work_is_read_more_slowly_and_never_refused(
    daemon: RunningDaemon,
) -> None:
    loop = asyncio.get_running_loop()
    async with open_wire(daemon.url, token=TOKEN) as wire:
        begun_at = loop.time()
        for n in range(20):
            await wire.say("health", request_id=f"h{n}")
        for n in range(20):
            await wire.hear_op("health_res", request_id=f"h{n}")
        assert loop.time() - begun_at >= 0.4
        await wire.say("list_tools", request_id="l1")
        refused = await wire.hear_op("error", request_id="l1")
        assert refused["error"]["code"] == "RATE_LIMITED"


async def test_too_many_failed_hellos_are_closed_unheard_and_a_valid_token_is_let_in(
    daemon: RunningDaemon,
) -> None:
    closes = []
    for _ in range(6):
        async with open_wire(daemon.url, greet=False) as wire:
            await wire.say("hello", token="wrong-token-0123456789")
            closes.append(await wire.closed())
    assert closes == [(4003, "unauthorized")] * 3 + [(1008, "too many failed attempts")] * 3
    reasons = [event.reason for event in daemon.events.of(ConnectionRefused)]
    assert reasons == ["unauthorized"] * 3 + ["too many failed attempts"]
    async with open_wire(daemon.url, token=TOKEN) as wire:
        assert (await wire.call("echo", arguments={"text": "x"}))["ok"]


async def test_a_trusted_proxy_tells_who_is_there(daemon: RunningDaemon) -> None:
    def coming_from(address: str) -> dict[str, str]:
        return {"X-Forwarded-For": address}

    url, far, near = daemon.url, coming_from("2001:db8::1"), coming_from("2001:db8::2")
    async with (
        open_wire(url, token=TOKEN, additional_headers=far),
        open_wire(url, token=TOKEN, additional_headers=near),
        open_wire(url, greet=False, additional_headers=far) as third,
        open_wire(url, token=TOKEN, additional_headers=coming_from("192.0.2.1")),
        open_wire(url, token=TOKEN),
        open_wire(url, token=TOKEN),
        open_wire(url, token=TOKEN),
    ):
        assert await third.closed() == (1008, "connection limit")


async def test_a_trusted_proxy_that_names_nobody_has_no_limit_per_address(
    daemon: RunningDaemon,
) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(4):
            wire = await stack.enter_async_context(
                open_wire(
                    daemon.url, token=TOKEN, additional_headers={"X-Forwarded-For": "10.1.1.1"}
                )
            )
        assert (await wire.call("echo", arguments={"text": "x"}))["ok"]
