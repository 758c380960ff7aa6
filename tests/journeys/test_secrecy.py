"""What a daemon writes down of those who try to get in: who and when, and nothing of a token."""

import asyncio
import json
import os
import random
import re
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from exai.testing.raw_peer import TEXT, frame, raw_peer, request
from tests.journeys.wire import open_wire

MINUTES_A_DAY = 1440
SIGNS = "^~`|"
"""Tokens here are made of these; nothing else that is written down holds one of them."""

chance = random.Random(11)


def some_token() -> str:
    return "".join(chance.choices(SIGNS, k=32))


TOKEN = some_token()


class Served(NamedTuple):
    port: int
    http_port: int
    log: Path

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/"


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """Run `exai serve` as it is run, with everything that it can write."""
    environment = {
        "HOME": str(tmp_path),
        "PATH": os.defpath,
        "EXAI_WS_TOKEN": TOKEN,
        "EXAI_WS_PORT": "0",
        "EXAI_SERVER_HTTP_PORT": "0",
        "EXAI_SERVER_LOG_LEVEL": "debug",
        "EXAI_RATES_FAILED_HELLOS_PER_MINUTE": "0",
        "EXAI_LOCAL_ENABLED": "false",
    }
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "exai", "serve"), env=environment, stdout=PIPE, stderr=stderr
        )
    assert process.stdout is not None
    ready = (await process.stdout.readline()).decode()
    port, http_port = map(int, re.findall(r":(\d+)/", ready))
    try:
        yield Served(port, http_port, log)
    finally:
        process.terminate()
        await process.wait()


async def in_the_hello(served: Served) -> None:
    async with open_wire(served.url, greet=False, says_bye=False) as wire:
        assert (await wire.hello(token=some_token()))["error"] == "unauthorized"
        assert await wire.closed() == (4003, "unauthorized")


async def in_the_header(served: Served) -> None:
    headers = {"Authorization": f"Bearer {some_token()}"}
    async with open_wire(
        served.url, greet=False, says_bye=False, additional_headers=headers
    ) as wire:
        assert (await wire.hello())["error"] == "unauthorized"


async def in_two_places_that_differ(served: Served) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with open_wire(
        served.url, greet=False, says_bye=False, additional_headers=headers
    ) as wire:
        assert (await wire.hello(token=some_token()))["error"] == "unauthorized"


async def in_the_address(served: Served) -> None:
    async with raw_peer(served.port) as peer:
        assert (await peer.ask(request(f"/?token={some_token()}")))[0] == 101
    async with raw_peer(served.port) as peer:
        assert (await peer.ask(request(f"/{some_token()}")))[0] == 404


async def as_another_header(served: Served) -> None:
    for name in ("Origin", "Host", "Sec-WebSocket-Protocol"):
        async with raw_peer(served.port) as peer:
            assert (await peer.ask(request(**{name: some_token()})))[0] in (400, 403, 421)


async def as_no_hello_at_all(served: Served) -> None:
    hello = {"op": "hello", "token": some_token()}
    for message in (
        json.dumps(hello)[:-1],
        json.dumps(hello | {"token": [some_token()]}),
        json.dumps(hello | {"op": some_token()}),
        some_token(),
    ):
        async with raw_peer(served.port) as peer:
            await peer.upgrade()
            await peer.send(frame(TEXT, message.encode()))
            await peer.end()


async def at_the_http_port(served: Served) -> None:
    headers = {"authorization": f"Bearer {some_token()}", "upgrade": None, "connection": "close"}
    async with raw_peer(served.http_port) as peer:
        status, _, body = await peer.ask(request("/health", **headers))
        assert (status, json.loads(body)) == (200, {"status": "ok"})
    async with raw_peer(served.http_port) as peer:
        assert (await peer.ask(request(f"/{some_token()}", **headers)))[0] == 404


async def as_one_to_be_replaced(served: Served) -> None:
    async with open_wire(served.url, token=TOKEN) as wire:
        answer = await wire.ask(
            "rotate_token", "rotate_token_res", old=some_token(), new=some_token()
        )
        assert answer["error"] == "unauthorized"
        await wire.say(some_token(), request_id=some_token())
        assert (await wire.hear())["op"] == "error"
        resume = {"session_id": some_token(), "resume_token": some_token()}
    async with open_wire(served.url, greet=False) as wire:
        answer = await wire.hello(token=TOKEN, resume=resume)
        assert answer["resume_error"] == "unknown_session"


WAYS: tuple[Callable[[Served], Awaitable[None]], ...] = (
    in_the_hello,
    in_the_header,
    in_two_places_that_differ,
    in_the_address,
    as_another_header,
    as_no_hello_at_all,
    at_the_http_port,
    as_one_to_be_replaced,
)


@pytest.mark.slow
async def test_a_day_of_wrong_tokens_leaves_no_byte_of_one_in_the_log(served: Served) -> None:
    """One try a minute, in every way that there is, and everything is written that can be."""
    for minute in range(MINUTES_A_DAY):
        await WAYS[minute % len(WAYS)](served)
    async with open_wire(served.url, token=TOKEN) as wire:
        assert (await wire.call("echo", arguments={"text": "hi"}))["ok"]
    written = served.log.read_text("utf-8")
    assert written.count("connections.refused") > MINUTES_A_DAY / 2
    assert not set(SIGNS) & set(written)
