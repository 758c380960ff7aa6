"""What HTTP can carry."""

import pytest

from exai.core.http_syntax import is_header_name, is_header_value, is_http_url


@pytest.mark.parametrize(
    "url",
    [
        "http://there",
        "https://there.example:8443/mcp?key=a",
        "http://a_b/",
        "http://bücher.example/",
        "http://me:secret@10.0.0.1/",
        "http://[::1]:80/",
        "http://[fe80::1%eth0]/",
    ],
)
def test_an_address_with_a_host_is_one(url: str) -> None:
    assert is_http_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "there",
        "ftp://there/",
        "http://",
        "http:///mcp",
        "http://@/",
        "http://[bad/",
        "http://there:0/",
        "http://there:99999/",
        "http://a b/",
        "http://a%20b/",
        "http://a*b/",
        "http://a\\b/",
        "http://there/a b",
        "http://there/\x00",
    ],
)
def test_an_address_that_leads_nowhere_is_none(url: str) -> None:
    assert not is_http_url(url)


def test_a_header_has_a_name_and_one_line() -> None:
    assert is_header_name("X-Api_Key.2")
    assert not any(map(is_header_name, ("", "A B", "A:", "Ä", "A\n")))
    assert all(map(is_header_value, ("", "x", "Bearer a\tb", "ü")))
    assert not any(map(is_header_value, (" x", "x ", "x\n", "a\r\nB: 2", "\x7f", "€")))
