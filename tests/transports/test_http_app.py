"""The HTTP port: alive, ready, healthy, and closed to web pages."""

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exai.core.config import ServerConfig
from exai.core.identity import Principal
from exai.transports.health_routes import health_routes
from exai.transports.http_app import HttpServer

PICTURE: dict[str, Any] = {"status": "ok", "sessions": 3}
TOKEN = "the-right-token"


PRINCIPALS = {TOKEN: Principal("default"), "narrow": Principal("narrow", tools=("echo",))}


class Part:
    """What the routes ask."""

    def __init__(self) -> None:
        self.blocked_by: dict[str, str] = {}


@pytest.fixture
def part() -> Part:
    return Part()


async def metrics() -> bytes:
    return b"exai_calls_total 1\n"


@pytest.fixture
async def client(part: Part) -> AsyncIterator[httpx2.AsyncClient]:
    config = ServerConfig(http_port=0, allowed_hosts=("box.lan",), allowed_origins=("http://ui",))
    routes = health_routes(
        status=lambda: "ok",
        blocked_by=lambda: part.blocked_by,
        health=lambda principal: PICTURE,
        metrics=metrics,
        authenticate=lambda token: PRINCIPALS.get(token or ""),
    )
    async with (
        HttpServer(config, routes) as server,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as client,
    ):
        yield client


async def test_livez_answers_without_a_token(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/livez")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert answer.headers["content-type"] == "application/json"
    assert "server" not in answer.headers


async def test_readyz_names_the_parts_that_are_not_ready(
    client: httpx2.AsyncClient, part: Part
) -> None:
    ready = await client.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "ok", "blocked_by": {}})
    part.blocked_by = {"upstream:box": "starting"}
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {"status": "not ready", "blocked_by": part.blocked_by}


@pytest.mark.parametrize(
    ("authorization", "seen"),
    [
        (None, {"status": "ok"}),
        ("Bearer wrong", {"status": "ok"}),
        (f"Basic {TOKEN}", {"status": "ok"}),
        (f"Bearer {TOKEN}", PICTURE),
        (f"bearer {TOKEN}", PICTURE),
    ],
)
async def test_the_whole_picture_is_for_those_with_a_token(
    client: httpx2.AsyncClient, authorization: str | None, seen: dict[str, Any]
) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    answer = await client.get("/health", headers=headers)
    assert (answer.status_code, answer.json()) == (200, seen)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", ""])
async def test_a_rebound_name_is_refused(client: httpx2.AsyncClient, host: str) -> None:
    assert (await client.get("/livez", headers={"host": host})).status_code == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "[::1]:8082", "box.lan"])
async def test_loopback_and_configured_names_are_answered(
    client: httpx2.AsyncClient, host: str
) -> None:
    assert (await client.get("/livez", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    ("origin", "status"), [("http://evil.example", 403), ("null", 403), ("http://ui", 200)]
)
async def test_foreign_pages_are_refused(
    client: httpx2.AsyncClient, origin: str, status: int
) -> None:
    answer = await client.get("/livez", headers={"origin": origin})
    assert answer.status_code == status
    assert not any(name.startswith("access-control") for name in answer.headers)


async def test_other_paths_and_methods_are_refused_in_json(client: httpx2.AsyncClient) -> None:
    missing = await client.get("/nothing-here")
    assert (missing.status_code, missing.json()) == (404, {"error": "Not Found"})
    posted = await client.post("/livez")
    assert (posted.status_code, posted.json()) == (405, {"error": "Method Not Allowed"})
    assert (await client.head("/livez")).status_code == 200


async def test_headers_without_end_are_not_kept(client: httpx2.AsyncClient) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
    writer.write(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nx-long: " + b"x" * 100_000)
    async with asyncio.timeout(10):
        assert (await reader.readline()).startswith(b"HTTP/1.1 400")
    writer.close()


async def test_a_port_in_use_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = ServerConfig(http_port=taken.getsockname()[1])
        with pytest.raises(OSError, match="in use"):
            async with HttpServer(config, []):
                pass


async def test_two_tokens_are_none(client: httpx2.AsyncClient) -> None:
    twice = [("authorization", f"Bearer {TOKEN}")] * 2
    assert (await client.get("/health", headers=twice)).json() == {"status": "ok"}


async def test_a_slash_too_many_is_another_path(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/livez/")).status_code == 404


async def test_scanners_leave_nothing_in_the_log(
    client: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "uvicorn")
    reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
    writer.write(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
    async with asyncio.timeout(10):
        assert (await reader.read()).startswith(b"HTTP/1.1 400")
    writer.close()
    assert (await client.get("/livez")).status_code == 200
    assert caplog.records == []


async def test_a_defect_is_told_without_its_details_and_logged_with_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def break_down(request: Request) -> Response:
        raise ZeroDivisionError("a defect")

    async with (
        HttpServer(ServerConfig(http_port=0), [Route("/", break_down)]) as server,
        httpx2.AsyncClient(trust_env=False) as client,
    ):
        answer = await client.get(f"http://127.0.0.1:{server.port}/")
    assert (answer.status_code, answer.json()) == (500, {"error": "internal error"})
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


async def test_an_answer_under_way_is_finished_before_the_end() -> None:
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def answer_late(request: Request) -> Response:
        asked.set()
        await may_answer.wait()
        return Response("done")

    server = HttpServer(ServerConfig(http_port=0), [Route("/", answer_late)])
    async with httpx2.AsyncClient(trust_env=False) as client, asyncio.TaskGroup() as tasks:
        await server.open()
        answer = tasks.create_task(client.get(f"http://127.0.0.1:{server.port}/"))
        await asked.wait()
        closing = tasks.create_task(server.close())
        await asyncio.wait([closing], timeout=0.05)
        assert not closing.done()
        may_answer.set()
    assert answer.result().text == "done"


async def test_signals_stay_with_the_daemon() -> None:
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in signals]
    async with HttpServer(ServerConfig(http_port=0), []):
        assert [signal.getsignal(number) for number in signals] == before


async def test_an_inherited_socket_is_served() -> None:
    server = HttpServer(ServerConfig(http_port=1), [])
    await server.open(socket.create_server(("127.0.0.1", 0)))
    async with httpx2.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"http://127.0.0.1:{server.port}/")).status_code == 404
    await server.close()


@pytest.mark.parametrize(
    ("token", "status"), [(None, 401), ("wrong", 401), ("narrow", 403), (TOKEN, 200)]
)
async def test_metrics_are_for_those_from_whom_nothing_is_hidden(
    client: httpx2.AsyncClient, token: str | None, status: int
) -> None:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    answer = await client.get("/metrics", headers=headers)
    assert answer.status_code == status
    assert ("exai_calls_total" in answer.text) == (status == 200)
