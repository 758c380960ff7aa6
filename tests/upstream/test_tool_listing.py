"""Listings come whole, page by page, and have an end even where the server knows none."""

from exai.upstream.tool_listing import MAX_TOOLS
from tests.upstream.running_server import running, scripted


async def test_all_pages_are_asked_for() -> None:
    async with running({"all": scripted(), "paged": scripted("--page-size", "3")}) as both:
        assert both.listings["paged"] == both.listings["all"]
        assert len(both.listings["paged"][0]) > 9


async def test_a_listing_without_an_end_is_cut() -> None:
    async with running(scripted("--endless")) as srv:
        assert len(srv.listings["srv"][0]) == MAX_TOOLS + 1
