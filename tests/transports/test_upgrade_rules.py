"""Who is let in, as a table of headers; the same over real sockets stands beside each port."""

from typing import Any

import pytest

from exai.core.config import ServerConfig
from exai.transports.upgrade_rules import (
    Headers,
    OriginRules,
    Refusal,
    Upgrade,
    UpgradeRules,
    bearer_token_of,
)

HERE = ("Host", "127.0.0.1:8079")
UPGRADE = ("Upgrade", "websocket")
VERSION = ("Sec-WebSocket-Version", "13")


def judge(*headers: tuple[str, str], **settings: Any) -> int | None:
    refusal = OriginRules(ServerConfig(**settings)).judge(headers)
    return refusal.status if refusal else None


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.9.9.9:5", "[::1]:8079", "localhost."]
)
def test_loopback_is_always_a_host(host: str) -> None:
    assert judge(("Host", host)) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "0.0.0.0",
        "",
        "2130706433",
    ],
)
def test_any_other_name_may_have_been_rebound(host: str) -> None:
    assert judge(("Host", host)) == 421


def test_a_request_has_one_host() -> None:
    assert judge() == 421
    assert judge(HERE, HERE) == 421


@pytest.mark.parametrize("configured", ["Daemon.Example", "daemon.example:8079", "daemon.example."])
def test_a_configured_host_is_one_at_any_port(configured: str) -> None:
    assert judge(("Host", "DAEMON.example:1"), allowed_hosts=(configured,)) is None


def test_the_address_that_is_bound_is_one_but_no_wildcard_is() -> None:
    assert judge(("Host", "192.0.2.7:8079"), host="192.0.2.7") is None
    assert judge(("Host", "192.0.2.7:8079"), host="0.0.0.0") == 421
    assert judge(("Host", "0.0.0.0:8079"), host="0.0.0.0") == 421
    assert judge(("Host", "[::]:8079"), host="::") == 421
    assert judge(("Host", ""), allowed_hosts=("",)) == 421


@pytest.mark.parametrize(
    ("origins", "status"),
    [
        ([], None),
        (["https://console.example"], None),
        (["HTTPS://Console.example"], None),
        (["https://console.example:8443"], 403),
        (["http://console.example"], 403),
        (["https://console.example.evil.example"], 403),
        (["null"], 403),
        ([""], 403),
        (["https://console.example", "https://evil.example"], 403),
    ],
)
def test_a_page_is_let_in_only_if_its_origin_is_configured(
    origins: list[str], status: int | None
) -> None:
    configured = ("https://console.example/", "null", "")
    headers = [("Origin", origin) for origin in origins]
    assert judge(HERE, *headers, allowed_origins=configured) == status


def test_every_header_is_read_whatever_its_case() -> None:
    rules = UpgradeRules(ServerConfig())
    headers = [
        ("hOST", "localhost"),
        ("UPGRADE", "WebSocket"),
        ("sEC-WEBSOCKET-VERSION", "13"),
        ("aUTHORIZATION", "bEARER abc"),
    ]
    assert rules.judge("/", headers) == Upgrade(None, "abc")


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [
        ([], None),
        (["exai.v1"], "exai.v1"),
        (["mcp, exai.v1"], "exai.v1"),
        (["mcp", "exai.v1"], "exai.v1"),
        (["mcp"], "mcp"),
        (["mcp", "other"], "mcp"),
        (["EXAI.V1"], 400),
        ([" , "], None),
    ],
)
def test_a_subprotocol_is_ours_or_none(offered: list[str], agreed: str | int | None) -> None:
    headers = [HERE, UPGRADE, VERSION, *(("Sec-WebSocket-Protocol", value) for value in offered)]
    verdict = UpgradeRules(ServerConfig(), lambda token: True).judge("/", headers)
    assert (verdict.status if isinstance(verdict, Refusal) else verdict.subprotocol) == agreed


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ([], 401),
        ([("Authorization", "Bearer wrong")], 401),
        ([("Authorization", "Bearer a")], "mcp"),
    ],
)
def test_mcp_has_no_other_place_for_a_token(sent: Headers, expected: str | int) -> None:
    headers = [HERE, UPGRADE, VERSION, ("Sec-WebSocket-Protocol", "mcp"), *sent]
    verdict = UpgradeRules(ServerConfig(), lambda token: token == "a").judge("/", headers)
    assert (verdict.status if isinstance(verdict, Refusal) else verdict.subprotocol) == expected


def test_a_foreign_page_learns_nothing_about_the_paths() -> None:
    verdict = UpgradeRules(ServerConfig()).judge(
        "/secret", [HERE, ("Origin", "https://evil.example")]
    )
    assert isinstance(verdict, Refusal)
    assert verdict.status == 403


@pytest.mark.parametrize(
    ("given", "token"),
    [
        ([], None),
        (["Bearer abc"], "abc"),
        (["bearer  abc "], "abc"),
        (["Bearer"], None),
        (["Bearer "], None),
        (["Basic abc"], None),
        (["BearerX abc"], None),
        (["abc"], None),
        (["Bearer abc", "Bearer abc"], None),
    ],
)
def test_a_bearer_token_is_read_from_one_header_only(given: list[str], token: str | None) -> None:
    assert bearer_token_of([("Authorization", value) for value in given]) == token


@pytest.mark.parametrize("version", [(), ("8",), ("13", "13"), ("13, 8",)])
def test_only_version_13_of_websocket_is_spoken(version: tuple[str, ...]) -> None:
    headers = [HERE, UPGRADE, *(("Sec-WebSocket-Version", value) for value in version)]
    refusal = UpgradeRules(ServerConfig()).judge("/", headers)
    assert isinstance(refusal, Refusal)
    assert refusal.status == 426
    assert ("Sec-WebSocket-Version", "13") in refusal.headers
