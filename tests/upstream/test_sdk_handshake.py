"""Both eras of MCP are spoken with whoever speaks them, and refusals are said in words."""

import asyncio
from collections.abc import Mapping
from typing import Any

import mcp.client.session
import pytest

from exai.core.mcp_words import Era
from exai.upstream.handshake import HandshakeFailed, Terms
from exai.upstream.json_rpc import NO_HEADERS, BrokenAnswer, ErrorAnswer, Requests, ServerLost
from exai.upstream.sdk_handshake import negotiate

UNSUPPORTED = ErrorAnswer(-32022, "unsupported", {"supported": ["2026-07-28"], "requested": "x"})
DISCOVERED = {
    "supportedVersions": ["2026-07-28"],
    "capabilities": {"tools": {"listChanged": True}},
    "resultType": "complete",
    "ttlMs": 0,
    "cacheScope": "public",
    "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "new", "version": "2"}},
}
INITIALIZED = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"tools": {}},
    "serverInfo": {"name": "old", "version": "1"},
}


Answer = dict[str, Any] | Exception | asyncio.Event
"""What is answered, or raised; an event is waited for."""


class Server(Requests):
    """Answers requests in their order, and keeps what it was sent."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.sent: list[tuple[str, dict[str, Any]]] = []

    async def request(
        self, method: str, params: dict[str, Any], *, headers: Mapping[str, str] = NO_HEADERS
    ) -> dict[str, Any]:
        self.sent.append((method, params))
        answer = self._answers.pop(0)
        if isinstance(answer, asyncio.Event):
            await answer.wait()
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, dict)
        return answer

    def notify(
        self, method: str, params: dict[str, Any], *, headers: Mapping[str, str] = NO_HEADERS
    ) -> None:
        self.sent.append((method, params))


async def agree(*answers: Answer, discover: bool = True) -> tuple[Terms, list[str]]:
    server = Server(*answers)
    terms = await negotiate(server, "1.2", discover)
    return terms, [method for method, _ in server.sent]


async def test_a_server_of_2026_is_discovered_and_each_request_introduces_us() -> None:
    terms, methods = await agree(DISCOVERED)
    assert methods == ["server/discover"]
    assert (terms.protocol_version, terms.server_version) == ("2026-07-28", "2")
    assert terms.era is Era.MODERN
    assert terms.offers("tools", "listChanged")
    assert not terms.offers("resources")
    assert terms.request_meta == {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "exai", "version": "1.2"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }


@pytest.mark.parametrize(
    "first",
    [
        ErrorAnswer(-32601, "Method not found"),
        ErrorAnswer(-32000, "Server not initialized"),
        ErrorAnswer(-32001, "no answer in time"),
        BrokenAnswer("the answer has no result"),
        {"hello": "world"},
        {**DISCOVERED, "supportedVersions": ["2025-11-25"]},
    ],
    ids=str,
)
async def test_whatever_else_answers_is_initialized_as_before(
    first: Answer,
) -> None:
    terms, methods = await agree(first, INITIALIZED)
    assert methods == ["server/discover", "initialize", "notifications/initialized"]
    assert terms == Terms(
        protocol_version="2025-11-25", server_version="1", capabilities={"tools": {}}
    )


async def test_a_server_of_2026_that_was_too_slow_at_first_is_asked_again() -> None:
    late = ErrorAnswer(-32001, "no answer in time")
    terms, methods = await agree(late, UNSUPPORTED, DISCOVERED)
    assert methods == ["server/discover", "initialize", "server/discover"]
    assert terms.protocol_version == "2026-07-28"


async def test_a_server_that_keeps_silent_on_discovery_is_initialized(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mcp.client.session, "DISCOVER_TIMEOUT_SECONDS", 0.01)
    terms, methods = await agree(asyncio.Event(), INITIALIZED)
    assert methods == ["server/discover", "initialize", "notifications/initialized"]
    assert terms.protocol_version == "2025-11-25"


async def test_a_server_that_must_not_be_discovered_is_initialized() -> None:
    _, methods = await agree(INITIALIZED, discover=False)
    assert methods == ["initialize", "notifications/initialized"]


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([ErrorAnswer(-32601, "no"), ErrorAnswer(-32603, "out of order")], "out of order"),
        ([ErrorAnswer(-32601, "no"), {**INITIALIZED, "protocolVersion": "1999"}], "1999"),
        ([ErrorAnswer(-32601, "no"), {}], "InitializeResult"),
        ([ServerLost("exited with status 1", was_written=True)], "exited with status 1"),
        ([ErrorAnswer(-32601, "no"), ServerLost("closed its output", was_written=True)], "closed"),
    ],
    ids=["error", "version", "nonsense", "lost", "lost later"],
)
async def test_a_refusal_says_why(answers: list[Answer], reason: str) -> None:
    with pytest.raises(HandshakeFailed, match=reason):
        await agree(*answers)
