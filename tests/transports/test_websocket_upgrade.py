"""Who may open a WebSocket, and what that costs, on both libraries."""

import logging
from typing import Any

import pytest

from exai.testing.raw_peer import (
    TEXT,
    frame,
    raw_peer,
    request,
)
from tests.transports.websocket_desk import serving

pytestmark = pytest.mark.timeout(15)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request(), 101),
        (request(host="localhost:8079"), 101),
        (request(connection="keep-alive, Upgrade"), 101),
        (request(upgrade="WebSocket"), 101),
        (request("/?token=secret"), 101),
        (request(sec_websocket_extensions="permessage-deflate; client_max_window_bits"), 101),
        (request(sec_websocket_protocol="exai.v1"), 101),
        (request(sec_websocket_protocol="mcp, exai.v1"), 101),
        (request(origin="https://console.example"), 101),
        (request(host="daemon.example:1"), 101),
        (request(host="evil.example"), 421),
        (request(host=None), 421),
        (request(origin="https://evil.example"), 403),
        (request(origin="null"), 403),
        (request("/elsewhere"), 404),
        (request(sec_websocket_protocol="mcp"), 401),
        (request(upgrade=None), 426),
        (request(upgrade=None, connection=None, sec_websocket_key=None), 426),
        (request(sec_websocket_key="short"), 400),
    ],
)
async def test_an_upgrade_is_let_in_or_told_why_not(library: str, sent: bytes, status: int) -> None:
    settings: dict[str, Any] = {
        "allowed_hosts": ("daemon.example",),
        "allowed_origins": ("https://console.example", "null"),
    }
    async with serving(library, **settings) as (server, _), raw_peer(server.port) as peer:
        answered, headers, body = await peer.ask(sent)
        assert answered == status
        assert "server" not in headers
        assert "sec-websocket-extensions" not in headers
        if status != 101:
            assert body.strip()
            assert headers["content-type"].startswith("text/plain")
            await peer.end()
        if status == 426:
            assert headers["upgrade"] == "websocket"


async def test_the_subprotocol_is_the_one_agreed_on(library: str) -> None:
    async with serving(library) as (server, desk), raw_peer(server.port) as peer:
        _, headers, _ = await peer.ask(request(sec_websocket_protocol="mcp, exai.v1"))
        assert headers["sec-websocket-protocol"] == "exai.v1"
        assert (await desk.next_channel()).subprotocol == "exai.v1"


async def test_no_token_is_read_from_the_url(library: str) -> None:
    async with serving(library) as (server, desk), raw_peer(server.port) as peer:
        await peer.ask(request("/?token=secret&access_token=secret"))
        assert (await desk.next_channel()).bearer_token is None


async def test_a_request_that_never_ends_is_dropped(library: str) -> None:
    async with (
        serving(library, hello_timeout_s=0.2) as (server, _),
        raw_peer(server.port) as peer,
    ):
        await peer.send(request()[:-2])
        await peer.end()


async def test_a_request_that_never_gets_to_its_end_costs_little(library: str) -> None:
    async with serving(library) as (server, _), raw_peer(server.port) as peer:
        await peer.send(b"GET / HTTP/1.1\r\n")
        with pytest.raises(ConnectionError):
            for _ in range(100_000):
                await peer.send(b"X: " + b"y" * 4000 + b"\r\n")


@pytest.mark.parametrize(
    "noise",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
        b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\n\r\nabc",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nNo colon\r\n\r\n",
        request(host="evil.example"),
        request(sec_websocket_version="12"),
        request() + frame(TEXT, b"x", rsv=7),
        request() + frame(TEXT, b"\xff"),
    ],
)
async def test_scanners_leave_nothing_in_the_log(
    library: str, noise: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with serving(library) as (server, desk):
        async with raw_peer(server.port) as peer:
            await peer.send(noise)
            peer.writer.write_eof()
            await peer.end()
        async with raw_peer(server.port) as peer:
            await peer.upgrade()  # and the port still serves
        desk.leave()
    assert caplog.records == []
