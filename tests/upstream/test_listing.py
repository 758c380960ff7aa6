"""Listings come whole, page by page, and have an end even where the server knows none."""

import pytest

from exai.core.errors import UpstreamFailed
from exai.upstream.listing import MAX_LISTED
from tests.upstream.running_server import running, scripted


async def test_all_pages_are_asked_for() -> None:
    async with running({"all": scripted(), "paged": scripted("--page-size", "3")}) as both:
        assert both.listings["paged"] == both.listings["all"]
        assert len(both.listings["paged"][0]) > 9


async def test_a_listing_without_an_end_is_cut() -> None:
    async with running(scripted("--endless")) as srv:
        assert len(srv.listings["srv"][0]) == MAX_LISTED + 1


async def test_a_server_without_tools_is_ready_all_the_same() -> None:
    async with running(scripted("--no-tools")) as srv:
        assert srv.listings["srv"] == [[]]
        assert await srv.say("echo", text="unlisted") == "unlisted"


async def test_a_listing_of_endless_bytes_is_a_fault() -> None:
    async with running(scripted("--long-pages")) as srv:
        with pytest.raises(UpstreamFailed, match="list of tools has more than 33,554,432 bytes"):
            await srv.call("echo")
