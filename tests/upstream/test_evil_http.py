"""Whatever a server behind HTTP does, a call ends with an error that says what happened."""

import asyncio
import gzip
import json
import os
import ssl
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import trustme

from exai.core.config import UpstreamConfig
from exai.core.errors import ErrorInfo, ResultTooLarge, ToolFailed, UpstreamFailed
from exai.core.events import UpstreamDied, UpstreamSpoke
from exai.core.outcomes import text_of
from exai.upstream.server_state import ServerState
from tests.upstream.evil_http import TEXT, Answer, Asked, evil
from tests.upstream.loop_time import loop_time
from tests.upstream.running_server import Run, Running, running, until

RAN: dict[str, Any] = {"may_have_run": True}
JSON = "application/json"


async def failure_of(srv: Running, **kwargs: Any) -> ErrorInfo:
    async with asyncio.timeout(5):
        with pytest.raises(UpstreamFailed) as failed:
            await srv.server.call("evil", {}, Run(), **kwargs)
    return failed.value.describe()


def saying(status: int, body: str = "", **headers: str) -> Answer:
    async def answer(asked: Asked) -> None:
        await asked.say(status, body, **headers)

    return answer


@pytest.mark.parametrize(
    ("status", "body", "headers", "message", "details"),
    [
        (401, "who?", {}, "does not accept our credentials (401 Unauthorized): who?", {}),
        (403, "<h1>no</h1>", {"content_type": "text/html"}, "refuses access (403 Forbidden)", {}),
        (405, "", {}, "takes no such request at its url (405 Method Not Allowed)", {}),
        (413, "", {}, f"finds the request too large (413 {HTTPStatus(413).phrase})", {}),
        (418, "tea\x1b[1m", {}, r"refuses the request (418 I'm a Teapot): tea\x1b[1m", {}),
        (500, "oops", {}, "failed (500 Internal Server Error): oops", RAN),
        (502, "", {}, "is not there, says what stands before it (502 Bad Gateway)", RAN),
        (503, "", {}, "cannot answer now (503 Service Unavailable)", RAN),
        (599, "", {}, "failed (599)", RAN),
    ],
)
async def test_a_status_is_said_in_words(
    status: int, body: str, headers: dict[str, str], message: str, details: dict[str, Any]
) -> None:
    async with evil() as server, running(server.config()) as srv:
        server.answers["tools/call"] = saying(status, body, **headers)
        error = await failure_of(srv)
        assert error.message == f"srv {message}"
        assert error.details == {**details, "status": status}
        assert not error.retryable
        assert (await failure_of(srv, idempotent=True)).retryable is (status >= 500)
        del server.answers["tools/call"]
        assert await srv.say("evil") == "fine"
        assert srv.server.statistics().start_count == 1


async def test_a_server_that_is_asked_too_often_says_when_to_come_back() -> None:
    async with evil() as server, running(server.config()) as srv:
        for said, retry_after_s in (("7", 7.0), ("1e9", 86400.0), ("nan", None), ("soon", None)):
            server.answers["tools/call"] = saying(429, retry_after=said)
            error = await failure_of(srv)
            assert error.retryable
            assert (error.retry_after_s or None) == retry_after_s


@pytest.mark.parametrize("status", [200, 400, 404, 500])
async def test_an_error_of_json_rpc_counts_with_any_status(status: int) -> None:
    async with evil() as server:
        server.answers["initialize"] = _without_session
        async with running(server.config()) as srv:
            error = {"code": -32602, "message": "bad zone", "data": {"x": 1}}
            body = json.dumps({"jsonrpc": "2.0", "id": None, "error": error})
            server.answers["tools/call"] = saying(status, body, content_type=JSON)
            with pytest.raises(ToolFailed, match="bad zone"):
                await srv.call("evil")


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        ("<html>Welcome", "text/html; charset=utf-8", "the answer is text/html (status 200)"),
        ("", "", "the answer is without a type (status 200), not JSON"),
        ("{}", JSON, "the answer is none"),
        ("[]", JSON, "the answer is no JSON object"),
        ("garbage", JSON, "the answer is no JSON object"),
        ('{"jsonrpc":"2.0","id":1,"result":{', JSON, "the answer is no valid JSON"),
        ('{"jsonrpc":"2.0","id":"?"}', JSON, "the answer has no result"),
        ("[" * 100_000, JSON, "the answer is no JSON object"),
        ('{"a":' * 100_000, JSON, "the answer is no valid JSON"),
        ("\x00\xff", JSON, "the answer is no JSON object"),
        ('{"jsonrpc":"2.0","method":"ping","id":1}', JSON, "the answer is none"),
    ],
)
async def test_garbage_breaks_the_protocol(body: str, content_type: str, message: str) -> None:
    async with evil() as server, running(server.config()) as srv:
        server.answers["tools/call"] = saying(200, body, content_type=content_type)
        error = await failure_of(srv)
        assert error.message.startswith(f"srv broke the protocol: {message}")
        assert error.details == RAN
        assert srv.server.statistics().start_count == 1


@pytest.mark.parametrize("status", [202, 204])
async def test_a_request_that_is_taken_for_a_notification_does_not_hang(status: int) -> None:
    async with evil() as server, running(server.config()) as srv:
        server.answers["tools/call"] = saying(status)
        assert f"status {status}" in (await failure_of(srv)).message


async def test_an_answer_with_another_id_is_that_of_its_own_exchange() -> None:
    async with evil() as server, running(server.config()) as srv:
        body = json.dumps({"jsonrpc": "2.0", "id": None, "result": TEXT})
        server.answers["tools/call"] = saying(200, body, content_type=JSON)
        assert await srv.say("evil") == "fine"


async def test_compression_that_nobody_asked_for_is_refused() -> None:
    async def bomb(asked: Asked) -> None:
        body = gzip.compress(b"x" * 50_000_000)
        await asked.say(200, body, content_type=JSON, content_encoding="gzip")

    async with evil() as server, running(server.config()) as srv:
        server.answers["tools/call"] = bomb
        assert "is compressed" in (await failure_of(srv)).message
        assert server.asked[-1].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("where", ["at once", "in the head", "in the body", "in the stream"])
async def test_a_connection_that_breaks_off_fails_its_call(where: str) -> None:
    async def break_off(asked: Asked) -> None:
        if where == "in the head":
            await asked.write(b"HTTP/1.1 200 OK\r\nContent-")
        elif where == "in the body":
            await asked.begin(200, content_type=JSON, content_length="1000")
            await asked.write(b'{"jsonrpc":"2.0","id":1')
        elif where == "in the stream":
            await asked.stream('data: {"jsonrpc":"2.0",')
        asked.writer.transport.abort()
        raise ConnectionError

    async with evil() as server, running(server.config()) as srv:
        server.answers["tools/call"] = break_off
        error = await failure_of(srv)
        assert "before it answered" in error.message
        assert (error.retryable, error.details) == (False, RAN)
        assert (await failure_of(srv, idempotent=True)).retryable
        assert srv.server.statistics().start_count == 1


async def test_a_stream_that_ends_without_an_answer_fails_its_call() -> None:
    async def end(asked: Asked) -> None:
        await asked.stream(": nothing\n\n", "event: ping\ndata: {}\n\n", "data\n\n")
        raise ConnectionError

    async with evil() as server, running(server.config()) as srv:
        server.answers["tools/call"] = end
        assert (await failure_of(srv)).message == "srv closed the stream before it answered"


@pytest.mark.parametrize("content_type", [JSON, "text/event-stream"])
async def test_an_endless_answer_is_too_large(content_type: str) -> None:
    async def endless(asked: Asked) -> None:
        await asked.begin(200, content_type=content_type)
        await asked.write(b"data: " if content_type != JSON else b"")
        await asked.write(b'{"jsonrpc":"2.0","id":1,"result":{"x":"')
        while True:
            await asked.write(b"x" * 65536)

    async with evil() as server, running(server.config(), max_result_bytes=1_000_000) as srv:
        server.answers["tools/call"] = endless
        async with asyncio.timeout(5):
            with pytest.raises(ResultTooLarge):
                await srv.call("evil")
        del server.answers["tools/call"]
        assert await srv.say("evil") == "fine"


async def test_a_stream_of_endless_news_ends_with_its_call_and_holds_no_loop() -> None:
    async def endless(asked: Asked) -> None:
        await asked.stream()
        news = b'data: {"jsonrpc":"2.0","method":"notifications/odd","params":{}}\n\n' * 500
        while True:
            await asked.write(news)

    async with evil() as server, running(server.config(), cancel_grace_s=0.1) as srv:
        server.answers["tools/call"] = endless
        before_kib = _resident_kib()
        with loop_time() as held, pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await srv.call("evil")
        assert held.longest_s < 0.1, held.name
        assert _resident_kib() - before_kib < 32 * 1024
        assert srv.server.statistics().running_count == 0
        del server.answers["tools/call"]
        assert await srv.say("evil") == "fine"


async def test_events_of_many_kinds_are_read() -> None:
    async def events(asked: Asked) -> None:
        answer = asked.event(TEXT).strip().replace('"result"', '\ndata: "result"')
        await asked.stream("\r\n", ":x\r\nid:1\r\nretry: x\r\n\r\n", answer.replace("\n", "\r\n"))
        await asked.write(b"\r\n\r\n")
        raise ConnectionError

    async with evil() as server, running(server.config()) as srv:
        server.answers["tools/call"] = events
        assert await srv.say("evil") == "fine"


async def test_a_server_that_keeps_the_stream_open_does_not_keep_the_call() -> None:
    async def keep_open(asked: Asked) -> None:
        await asked.stream(asked.event(TEXT))
        await asyncio.sleep(60)

    async with evil() as server, running(server.config()) as srv:
        server.answers["tools/call"] = keep_open
        started_s = time.monotonic()
        for _ in range(5):
            assert await srv.say("evil") == "fine"
        assert time.monotonic() - started_s < 0.5


async def test_a_connection_is_used_again() -> None:
    writers = set()

    async def answer(asked: Asked) -> None:
        writers.add(asked.writer)
        body = asked.event(TEXT)
        await asked.begin(200, content_type="text/event-stream", content_length=str(len(body)))
        await asked.write(body.encode())

    async with evil() as server, running(server.config()) as srv:
        server.answers["tools/call"] = answer
        for _ in range(10):
            await srv.say("evil")
            await asyncio.sleep(0.01)
    assert len(writers) < 3


@pytest.mark.parametrize("how", ["404", "400"])
async def test_a_session_that_was_forgotten_is_opened_anew_and_the_call_done_once(
    how: str,
) -> None:
    async def forgetful(asked: Asked) -> None:
        if asked.headers["mcp-session-id"] == "session-1":
            error = {"code": -32000, "message": "Bad Request: No valid session ID provided"}
            body = json.dumps({"jsonrpc": "2.0", "id": None, "error": error})
            await asked.say(int(how), body, content_type=JSON)
        else:
            await asked.result(TEXT)

    async with evil() as server, running(server.config()) as srv:
        server.answers["tools/call"] = forgetful
        assert await srv.say("evil") == "fine"
        assert len(server.of("tools/call")) == 2
        (died,) = srv.events.of(UpstreamDied)
        assert died.reason == "forgot its session with us"
        assert srv.server.statistics().start_count == 2
        assert "DELETE" not in server.methods()


async def test_a_session_that_is_always_forgotten_fails_the_call() -> None:
    async with evil() as server, running(server.config()) as srv:
        server.answers["tools/call"] = saying(404)
        error = await failure_of(srv)
        assert error.message == "srv forgot its session with us"
        assert error.retryable
        assert len(server.of("tools/call")) == 2


async def test_a_session_that_is_forgotten_in_mid_call_repeats_what_is_idempotent() -> None:
    async def in_mid_call(asked: Asked) -> None:
        if asked.headers["mcp-session-id"] == "session-3":
            await asked.result(TEXT)
        await asked.stream("id: 7\nretry: 10\ndata:\n\n")
        raise ConnectionError

    async with evil() as server, running(server.config()) as srv:
        server.answers["tools/call"] = in_mid_call
        server.answers["GET"] = saying(404)
        error = await failure_of(srv)
        assert error.message == "srv forgot its session with us"
        assert error.details == RAN
        completed = await srv.server.call("evil", {}, Run(), idempotent=True)
        assert text_of(completed.outputs) == "fine"


async def test_a_stream_is_resumed_from_where_it_broke() -> None:
    async def break_off(asked: Asked) -> None:
        await asked.stream("id: a1\nretry: 10\ndata:\n\n", "id: lost\ndata: {")
        raise ConnectionError

    async def go_on(asked: Asked) -> None:
        (call,) = server.of("tools/call")
        if len(server.of("GET")) < 4:
            await asked.stream("id: a2\ndata:\n\n")
        else:
            await asked.stream(call.event(TEXT))
        raise ConnectionError

    async with evil() as server, running(server.config()) as srv:
        await until(lambda: len(server.of("GET")) == 1)
        server.answers["tools/call"] = break_off
        server.answers["GET"] = go_on
        assert await srv.say("evil") == "fine"
        resumed = server.of("GET")[1:]
        assert [get.headers["last-event-id"] for get in resumed] == ["a1", "a2", "a2"]
        assert {get.headers["mcp-session-id"] for get in resumed} == {"session-1"}


async def test_a_stream_that_cannot_be_resumed_fails_its_call() -> None:
    async def break_off(asked: Asked) -> None:
        await asked.stream("id: a1\nretry: 10\ndata:\n\n")
        raise ConnectionError

    async with evil() as server, running(server.config()) as srv:
        server.answers["tools/call"] = break_off
        error = await failure_of(srv)
        assert error.message.startswith("srv closed the stream before it answered")
        assert error.details == RAN
        server.answers["GET"] = saying(503)
        assert (await failure_of(srv)).details == RAN


async def test_a_redirect_to_another_origin_is_not_followed() -> None:
    async with evil() as other, evil() as server:
        key = "a-very-long-key-of-somebody"
        headers = {"Authorization": "Bearer secret-token"}
        async with running(server.config(headers=headers)) as srv:
            target = f"http://127.0.0.1:{other.port}/{key}?token=x"
            server.answers["tools/call"] = saying(307, location=target)
            error = await failure_of(srv)
            shown = f"http://127.0.0.1:{other.port}/…?…"
            assert (
                error.message == f"srv redirects to {shown}, which is not followed: correct its url"
            )
            assert other.asked == []


@pytest.mark.parametrize("status", [301, 302, 303])
async def test_a_redirect_that_would_lose_the_message_is_not_followed(status: int) -> None:
    async with evil() as server, running(server.config()) as srv:
        server.answers["tools/call"] = saying(status, location="/mcp")
        assert "redirects to" in (await failure_of(srv)).message
        assert len(server.of("tools/call")) == 1


async def test_a_redirect_with_a_user_and_password_is_not_followed() -> None:
    async with evil() as server, running(server.config()) as srv:
        target = f"http://eve:secret@127.0.0.1:{server.port}/mcp"
        server.answers["tools/call"] = saying(307, location=target)
        message = (await failure_of(srv)).message
        assert f"redirects to http://127.0.0.1:{server.port}/mcp, which" in message
        assert len(server.of("tools/call")) == 1


async def test_a_redirect_in_a_circle_ends() -> None:
    async with evil() as server, running(server.config()) as srv:
        server.answers["tools/call"] = saying(308, location="/mcp")
        assert "redirects to" in (await failure_of(srv)).message
        assert len(server.of("tools/call")) < 10


async def test_what_a_server_quotes_of_our_secrets_is_not_shown() -> None:
    async def quote(asked: Asked) -> None:
        said = f"{asked.path} {asked.headers['authorization']} {asked.headers['x-key']}"
        await asked.say(401, said)

    async with evil() as server:
        headers = {"Authorization": "Bearer secret-token", "X-Key": "secret-key"}
        config = server.config(headers=headers)
        url = f"http://127.0.0.1:{server.port}/secret-path-of-mine/mcp?key=secret-query"
        async with running(type(config)(url=url, headers=headers)) as srv:
            server.answers["tools/call"] = quote
            error = await failure_of(srv)
            shown = error.message + repr(srv.pool.statistics()) + repr(srv.events.events)
            assert "***" in error.message
            assert "secret" not in shown


async def test_a_certificate_that_nobody_vouches_for_is_refused() -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    async with evil(tls) as server, running(server.config()) as srv:
        assert "cannot be reached: unable to get local issuer" in (await failure_of(srv)).message


async def test_a_server_without_tls_is_not_asked_for_it_for_ever() -> None:
    async with evil() as server:
        url = server.url.replace("http:", "https:")
        async with running(UpstreamConfig(url=url)) as srv:
            assert "cannot be reached: " in (await failure_of(srv)).message


async def test_cookies_are_not_kept() -> None:
    async with evil() as server, running(server.config()) as srv:

        async def bake(asked: Asked) -> None:
            await asked.result(TEXT, set_cookie="who=you; Path=/")

        server.answers["tools/call"] = bake
        await srv.say("evil")
        await srv.say("evil")
        assert not any("cookie" in asked.headers for asked in server.asked)


async def test_no_proxy_stands_between_us_and_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with evil() as server, running(server.config()) as srv:
        assert await srv.say("evil") == "fine"


async def test_a_server_that_never_answers_the_handshake_is_given_its_time_only() -> None:
    async def mute(asked: Asked) -> None:
        await asyncio.sleep(60)

    async with evil() as server:
        server.answers["server/discover"] = server.answers["initialize"] = mute
        async with running(server.config(start_timeout_s=0.5)) as srv:
            assert "did not become ready in time" in (await failure_of(srv)).message


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (saying(401, "no"), "does not accept our credentials (401 Unauthorized): no"),
        (saying(404), "serves nothing at its url (404 Not Found)"),
        (saying(200, "<html>", content_type="text/html"), "the answer is text/html"),
        (saying(503), "cannot answer now (503 Service Unavailable)"),
        (saying(301, location="https://elsewhere.example/"), "redirects to https://elsewhere"),
    ],
)
async def test_what_stands_against_the_handshake_is_said(answer: Answer, message: str) -> None:
    async with evil() as server:
        server.answers["server/discover"] = server.answers["initialize"] = answer
        async with running(server.config()) as srv:
            assert message in (await failure_of(srv)).message
            assert srv.server.statistics().state is not ServerState.READY
            assert message in (srv.server.statistics().last_end or "")


async def test_the_session_and_the_version_go_along_with_everything() -> None:
    async with evil() as server:
        async with running(server.config()) as srv:
            await srv.say("evil")
            await until(lambda: bool(server.of("GET")))
        own = [a for a in server.asked if a.method not in ("initialize", "server/discover")]
        assert {a.headers["mcp-session-id"] for a in own} == {"session-1"}
        assert {a.headers["mcp-protocol-version"] for a in own} == {"2025-11-25"}
        (initialize,) = server.of("initialize")
        assert "mcp-protocol-version" not in initialize.headers
        assert "mcp-session-id" not in initialize.headers
        assert server.methods()[-1] == "DELETE"
        assert server.methods().index("notifications/initialized") < server.methods().index(
            "tools/list"
        )


async def test_tools_are_listed_again_after_nobody_listened_for_a_while() -> None:
    async def listen(asked: Asked) -> None:
        await asked.stream("retry: 100\n\n")
        raise ConnectionError

    async with evil() as server:
        server.answers["GET"] = listen
        async with running(server.config()) as srv:
            await until(lambda: len(srv.listings["srv"]) > 1)
            assert srv.server.statistics().start_count == 1


async def test_news_on_the_stream_of_nobody_is_heard() -> None:
    async def listen(asked: Asked) -> None:
        changed = '{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}'
        await asked.stream(f"data: {changed}\n\n")
        await asyncio.sleep(60)

    async with evil() as server:
        server.answers["GET"] = listen
        async with running(server.config()) as srv:
            await until(lambda: len(srv.listings["srv"]) == 2)


async def test_a_server_that_never_ends_its_session_is_left_in_time() -> None:
    async def mute(asked: Asked) -> None:
        await asyncio.sleep(60)

    async with evil() as server:
        server.answers["DELETE"] = server.answers["notifications/cancelled"] = mute
        async with running(server.config()):
            started_s = time.monotonic()
        assert time.monotonic() - started_s < 4


async def test_a_server_that_asks_for_ever_and_takes_no_answer_is_given_up() -> None:
    async def ask(asked: Asked) -> None:
        await asked.stream()
        for n in range(1000):
            await asked.write(b'data: {"jsonrpc":"2.0","method":"ping","id":%d}\n\n' % n)
        await asyncio.sleep(60)

    async def mute(asked: Asked) -> None:
        await asyncio.sleep(60)

    async with evil() as server, running(server.config()) as srv:
        server.answers["tools/call"] = ask
        server.answers["POST"] = mute  # answers to pings have no method
        call = asyncio.ensure_future(failure_of(srv))
        await srv.events.wait_for(UpstreamDied)
        assert "does not take what it is sent" in srv.events.of(UpstreamDied)[0].reason
        call.cancel()
        await asyncio.wait([call])


@pytest.mark.parametrize("is_modern", [True, False])
async def test_a_tool_that_names_a_header_wrongly_is_left_out(is_modern: bool) -> None:
    """As MCP of 2026 demands of every client."""

    async def discover(asked: Asked) -> None:
        await asked.result(
            {
                "supportedVersions": ["2026-07-28"],
                "capabilities": {"tools": {}},
                "resultType": "complete",
                "ttlMs": 0,
                "cacheScope": "public",
            }
        )

    async def list_tools(asked: Asked) -> None:
        named = {"type": "object", "properties": {"x": {"type": "string", "x-mcp-header": "a b"}}}
        tools = [
            {"name": "misnamed", "inputSchema": named},
            {"name": "evil", "inputSchema": {"type": "object"}},
        ]
        await asked.result({"tools": tools})

    async with evil() as server:
        if is_modern:
            server.answers["server/discover"] = discover
        server.answers["tools/list"] = list_tools
        async with running(server.config()) as srv:
            assert srv.listings["srv"] == [["evil"] if is_modern else ["misnamed", "evil"]]
            said = [spoken.line for spoken in srv.events.of(UpstreamSpoke)]
            assert any("misnamed is left out" in line for line in said) is is_modern
            assert await srv.say("evil") == "fine"


async def test_nothing_of_an_unreadable_answer_is_shown() -> None:
    async with evil() as server, running(server.config()) as srv:
        server.answers["tools/call"] = saying(200, '{"id":1,"SECRET":NaN', content_type=JSON)
        await failure_of(srv)
        assert not any("SECRET" in event.line for event in srv.events.of(UpstreamSpoke))


async def _without_session(asked: Asked) -> None:
    await asked.result(
        {
            "protocolVersion": "2025-11-25",
            "serverInfo": {"name": "evil", "version": "6"},
            "capabilities": {"tools": {}},
        }
    )


def _resident_kib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
