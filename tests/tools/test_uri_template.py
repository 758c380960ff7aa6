"""Whether a URI may have come from a template is told rightly, and in no time."""

import time

import pytest

from exai.tools.uri_template import UriTemplate


@pytest.mark.parametrize(
    ("template", "uri"),
    [
        ("a://b", "a://b"),
        ("a://{x}", "a://b"),
        ("a://{x}/c", "a://b/c"),
        ("a://{x}-{y}", "a://1-2-3"),
        ("file://{+path}", "file:///etc/hosts"),
        ("file://{+path}/{name}", "file:///a/b/c"),
        ("a://{x}/{+rest}/z", "a://1/2/3/z"),
        ("a://b{?q,lang}", "a://b"),
        ("a://b{?q,lang}", "a://b?q=1"),
        ("a://b{/path*}", "a://b/c/d"),
        ("a://b{.ext}", "a://b.txt"),
        ("a://b{#part}", "a://b#c/d"),
        ("{scheme}://x", "a://x"),
    ],
)
def test_a_uri_that_comes_from_a_template_matches_it(template: str, uri: str) -> None:
    assert UriTemplate(template).matches(uri)


@pytest.mark.parametrize(
    ("template", "uri"),
    [
        ("a://b", "a://bc"),
        ("a://{x}", "a://b/c"),
        ("a://{x}/c", "a://b/d"),
        ("a://{x}/c", "a://c"),
        ("a://b{?q}", "a://bc"),
        ("a://b{.ext}", "a://b/txt"),
        ("aba{x}aba", "aba"),
        ("aba{x}aba", "ababa"),
        ("a://{x}/{y}/z", "a://1/z"),
    ],
)
def test_another_uri_does_not(template: str, uri: str) -> None:
    assert not UriTemplate(template).matches(uri)


@pytest.mark.parametrize("template", ["{x}a" * 2000, "{+x}a" * 2000, "{x}" * 2000, "{" * 8000])
def test_no_template_takes_long(template: str) -> None:
    started_at = time.perf_counter()
    UriTemplate(template).matches("a" * 8191 + "b")
    assert time.perf_counter() - started_at < 0.5
