"""Messages of MCP: which can be read, and whom the refusal of the others reaches."""

import json
from typing import Any

import pytest
from mcp_types import InitializeResult
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS

from exai.core.mcp_words import (
    CLIENT_CAPABILITIES_KEY,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LOG_LEVEL_KEY,
    METHOD_NOT_FOUND,
    UNSUPPORTED_PROTOCOL_VERSION,
    VERSION_KEY,
    Era,
)
from exai.core.message_ids import find_id
from exai.protocols.mcp_eras import (
    HANDSHAKE_VERSIONS,
    MODERN_VERSIONS,
    ServerInfo,
    check_era,
    era_of_first,
    initialize_result,
    meta_for_the_server,
)
from exai.protocols.mcp_logging import is_wanted, read_level
from exai.protocols.mcp_messages import (
    McpError,
    McpNotification,
    McpRequest,
    McpResponse,
    NotAMessage,
    encode_error,
    encode_notification,
    encode_result,
    read_message,
)
from exai.protocols.mcp_news import News, read_listen
from exai.protocols.mcp_progress import ProgressCount, progress_token

ENVELOPE = {VERSION_KEY: "2026-07-28", CLIENT_CAPABILITIES_KEY: {}}
US = ServerInfo("exai", "1")


def test_the_versions_are_those_of_the_sdk() -> None:
    assert HANDSHAKE_VERSIONS == HANDSHAKE_PROTOCOL_VERSIONS
    assert MODERN_VERSIONS == MODERN_PROTOCOL_VERSIONS


def test_each_kind_of_message_is_known_by_its_fields() -> None:
    rpc = {"jsonrpc": "2.0"}
    assert read_message(rpc | {"id": 0, "method": "m"}) == McpRequest(0, "m", {})
    assert read_message(rpc | {"id": "a", "method": "m", "params": {"x": 1}}) == McpRequest(
        "a", "m", {"x": 1}
    )
    assert read_message(rpc | {"method": "n", "params": None}) == McpNotification("n", {})
    assert read_message(rpc | {"id": 1, "result": {}}) == McpResponse(1, {}, None)
    assert read_message(rpc | {"id": 1, "error": {"code": 1}}) == McpResponse(1, None, {"code": 1})


@pytest.mark.parametrize(
    ("message", "id_", "code"),
    [
        ([], None, INVALID_REQUEST),
        (5, None, INVALID_REQUEST),
        ({"id": 1, "method": "m"}, 1, INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": 1}, 1, INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": 1, "method": 7}, 1, INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": True, "method": "m"}, None, INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": None, "method": "m"}, None, INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": 1.5, "method": "m"}, None, INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": [1], "method": "m"}, None, INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": 1, "method": "m", "params": [1]}, 1, INVALID_PARAMS),
        ({"jsonrpc": "2.0", "result": {}}, None, INVALID_REQUEST),
    ],
)
def test_what_is_no_message_is_refused_to_whom_it_may_concern(
    message: Any, id_: Any, code: int
) -> None:
    with pytest.raises(NotAMessage) as refusal:
        read_message(message)
    assert (refusal.value.id, refusal.value.code) == (id_, code)


def test_messages_are_written_as_json_rpc() -> None:
    assert json.loads(encode_result(1, {"a": 1})) == {
        "jsonrpc": "2.0",
        "id": 1,
        "result": {"a": 1},
    }
    assert json.loads(encode_error(None, McpError(-1, "no"))) == {
        "jsonrpc": "2.0",
        "id": None,
        "error": {"code": -1, "message": "no"},
    }
    assert json.loads(encode_error("a", McpError(-1, "no", [1])))["error"]["data"] == [1]
    assert json.loads(encode_notification("n")) == {"jsonrpc": "2.0", "method": "n"}
    assert json.loads(encode_notification("n", {"a": 1}))["params"] == {"a": 1}


@pytest.mark.parametrize(
    ("line", "id_"),
    [
        (b'{"jsonrpc":"2.0","id":7,"method":"m"', 7),
        (b' { "id" : "a", "params": {', "a"),
        (b'{"method":"m","params":{},"jsonrpc":"2.0","id":9}', 9),
        (b'{"method":"m","params":{"id":7,', None),
        (b'{"id":"a\xff",', None),
        (b'{"id":"a\x01",', None),
        (b'{"id":007,', None),
    ],
)
def test_the_id_of_what_cannot_be_decoded_is_found_at_either_end(line: bytes, id_: Any) -> None:
    assert find_id(line, line) == id_


def test_the_first_request_decides_the_era() -> None:
    enveloped = {"_meta": ENVELOPE}
    assert era_of_first(McpRequest(1, "server/discover", enveloped)) is Era.MODERN
    assert era_of_first(McpRequest(1, "initialize", enveloped)) is Era.HANDSHAKE
    assert era_of_first(McpRequest(1, "tools/list", {"_meta": 5})) is Era.HANDSHAKE


@pytest.mark.parametrize(
    ("method", "meta", "era", "code"),
    [
        ("tools/list", {VERSION_KEY: "2026-07-28"}, Era.MODERN, INVALID_PARAMS),
        ("tools/list", {}, Era.MODERN, INVALID_PARAMS),
        ("tools/list", ENVELOPE | {VERSION_KEY: 5}, Era.MODERN, INVALID_PARAMS),
        ("tools/list", ENVELOPE | {VERSION_KEY: "2"}, Era.MODERN, UNSUPPORTED_PROTOCOL_VERSION),
        ("initialize", ENVELOPE, Era.MODERN, UNSUPPORTED_PROTOCOL_VERSION),
        ("ping", ENVELOPE, Era.MODERN, METHOD_NOT_FOUND),
        ("resources/subscribe", ENVELOPE, Era.MODERN, METHOD_NOT_FOUND),
        ("tools/list", ENVELOPE, Era.HANDSHAKE, INVALID_REQUEST),
        ("server/discover", {}, Era.HANDSHAKE, METHOD_NOT_FOUND),
        ("tasks/list", {}, Era.HANDSHAKE, METHOD_NOT_FOUND),
    ],
)
def test_a_request_of_another_era_is_refused_as_the_sdk_does(
    method: str, meta: dict[str, Any], era: Era, code: int
) -> None:
    with pytest.raises(McpError) as refusal:
        check_era(McpRequest(1, method, {"_meta": meta}), era)
    assert refusal.value.code == code


def test_a_request_of_its_connections_era_passes() -> None:
    check_era(McpRequest(1, "tools/list", {"_meta": ENVELOPE}), Era.MODERN)
    check_era(McpRequest(1, "ping", {}), Era.HANDSHAKE)


@pytest.mark.parametrize(
    ("asked", "answered"), [*((v, v) for v in HANDSHAKE_VERSIONS), ("1999", "2025-11-25")]
)
def test_initialize_is_answered_in_the_clients_version(asked: str, answered: str) -> None:
    params = {"protocolVersion": asked, "capabilities": {}, "clientInfo": {"name": "a"}}
    result = InitializeResult.model_validate(initialize_result(params, US))
    assert (result.protocol_version, result.server_info.name) == (answered, "exai")


def test_an_initialize_that_lacks_something_is_refused() -> None:
    with pytest.raises(McpError):
        initialize_result({"protocolVersion": "2025-11-25"}, US)


def test_what_concerns_this_connection_alone_does_not_go_along() -> None:
    meta = {**ENVELOPE, "progressToken": 1, "exai/idempotencyKey": "k", "traceparent": "00", "x": 1}
    assert meta_for_the_server(meta) == {"traceparent": "00", "x": 1}
    declared = {CLIENT_CAPABILITIES_KEY: {"roots": {}}, LOG_LEVEL_KEY: "info"}
    assert meta_for_the_server(meta | declared) == {"traceparent": "00", "x": 1, **declared}


def test_progress_grows_whatever_is_said() -> None:
    count = ProgressCount("t", 100.0)
    waits = count.told(108.0, message="waiting")
    assert waits == {"progressToken": "t", "progress": 8.0, "message": "waiting"}
    real = [count.told(109.0, progress=p, total=10) for p in (1, 5, 2)]
    assert [(p["progress"], p["total"]) for p in real[:2]] == [(9.0, 18.0), (13.0, 18.0)]
    assert 13.0 < real[2]["progress"] < 13.1
    beat = count.told(120.0)
    assert real[2]["progress"] < beat["progress"] < 13.1
    assert beat["total"] == 18.0


def test_progress_that_begins_at_once_is_told_as_it_is() -> None:
    count = ProgressCount(1, 0.0)
    told = [count.told(0.1, progress=p, total=100) for p in (0, 50, 100)]
    assert [(p["progress"], p["total"]) for p in told] == [(0, 100), (50, 100), (100, 100)]


def test_streamed_text_is_progress_once_in_a_while() -> None:
    count = ProgressCount(1, 0.0)
    assert count.streamed(0.5) is None
    assert count.streamed(1.5) == {"progressToken": 1, "progress": 1.5}
    assert count.streamed(2.0) is None


@pytest.mark.parametrize(("meta", "token"), [({"progressToken": 0}, 0), ({}, None)])
def test_a_token_is_a_text_or_an_integer(meta: dict[str, Any], token: Any) -> None:
    assert progress_token(meta) == token
    assert progress_token({"progressToken": True}) is None


def test_a_log_is_heard_from_the_level_that_was_asked_for() -> None:
    entry = {"level": "warning", "data": 1}
    assert is_wanted(entry, "info")
    assert is_wanted(entry, "warning")
    assert not is_wanted(entry, "error")
    assert not is_wanted(entry, None)
    assert not is_wanted({"level": "loud", "data": 1}, "debug")
    assert read_level({"level": "debug"}) == "debug"
    with pytest.raises(McpError):
        read_level({"level": "loud"})


def test_a_subscription_hears_what_it_asked_for_and_no_more() -> None:
    listening = read_listen(
        5,
        {
            "notifications": {
                "toolsListChanged": True,
                "promptsListChanged": False,
                "resourceSubscriptions": ["a:b"],
            }
        },
    )
    meta = {"_meta": {"io.modelcontextprotocol/subscriptionId": 5}}
    assert listening.acknowledgement() == {
        "notifications": {"toolsListChanged": True, "resourceSubscriptions": ["a:b"]},
        **meta,
    }
    assert listening.result() == meta
    updated = News("notifications/resources/updated", "a:b")
    assert listening.wants(updated)
    assert updated.params(5) == {"uri": "a:b", **meta}
    assert not listening.wants(News("notifications/resources/updated", "c:d"))
    assert listening.wants(News("notifications/tools/list_changed"))
    assert not listening.wants(News("notifications/prompts/list_changed"))
    assert News("notifications/tools/list_changed").params() == {}


@pytest.mark.parametrize(
    "wanted", [None, {"resourceSubscriptions": "a"}, {"resourceSubscriptions": ["u"] * 1001}]
)
def test_a_subscription_that_cannot_be_read_is_refused(wanted: Any) -> None:
    with pytest.raises(McpError):
        read_listen(1, {"notifications": wanted})
