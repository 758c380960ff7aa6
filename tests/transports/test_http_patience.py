"""The HTTP port does not wait for ever for those who say nothing."""

import asyncio
from contextlib import suppress

import pytest

from exai.core.config import ServerConfig
from exai.testing.raw_peer import raw_peer
from exai.transports import http_app
from exai.transports.health_routes import health_routes
from exai.transports.http_app import HttpServer


@pytest.mark.parametrize("said", [b"", b"GET /livez HTT"])
async def test_a_connection_without_a_request_is_dropped(
    said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_app, "_FIRST_REQUEST_WITHIN_S", 0.1)
    async with HttpServer(ServerConfig(http_port=0), []) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(said)
        async with asyncio.timeout(10):
            with suppress(ConnectionResetError):  # where bytes were unread
                assert await reader.read() == b""
        writer.close()


async def test_a_body_without_end_is_answered_and_not_read() -> None:
    async with (
        HttpServer(ServerConfig(http_port=0, close_timeout_s=1.0), []) as server,
        raw_peer(server.port) as peer,
    ):
        status, _, _ = await peer.ask(
            b"POST /elsewhere HTTP/1.1\r\nhost: localhost\r\ncontent-length: 999999999\r\n\r\n"
        )
        assert status == 404
        with pytest.raises(ConnectionError):
            await peer.send(b"x" * 40_000_000)


async def nothing() -> bytes:
    return b""


async def test_more_connections_than_the_configured_number_are_refused() -> None:
    routes = health_routes(
        status=lambda: "ok",
        blocked_by=dict,
        health=lambda principal: {},
        metrics=nothing,
        authenticate=lambda token: None,
    )
    config = ServerConfig(http_port=0, max_connections=2)
    async with HttpServer(config, routes) as server, asyncio.timeout(10):
        most = config.max_connections + 15  # some more, so that it can be asked how it is
        silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(most)]
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 503")
        for _, other in [*silent, (reader, writer)]:
            other.close()


async def test_who_has_just_come_is_answered_by_a_server_that_closes() -> None:
    server = HttpServer(ServerConfig(http_port=0), [])
    await server.open()
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        _, silent = await asyncio.open_connection("127.0.0.1", server.port)
        closing = tasks.create_task(server.close())
        await asyncio.wait([closing], timeout=0.05)
        assert not closing.done()
        writer.write(b"GET /nowhere HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 404")
        await reader.read()
        await closing
    writer.close()
    silent.close()
