"""Asking a server what it has, page by page, with bounds."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from exai.core.mcp_words import (
    LIST_PROMPTS,
    LIST_RESOURCES,
    LIST_TEMPLATES,
    LIST_TOOLS,
    METHOD_NOT_FOUND,
    PROMPTS_CHANGED,
    RESOURCES_CHANGED,
    TOOLS_CHANGED,
    Era,
)
from exai.upstream.handshake import Terms
from exai.upstream.json_rpc import BrokenAnswer, ErrorAnswer, JsonRpcConnection

MAX_LISTED = 1000
MAX_URI_LENGTH = 8192

_MAX_PAGES = 200
_MAX_LISTING_BYTES = 33_554_432

Description = dict[str, Any]
"""A tool, a resource, a template of resources or a prompt, as its server describes it."""


class Kind(NamedTuple):
    """What there may be a list of: how it is asked for, where it stands in the answer, what
    capability its server has then, and what people call it.
    """

    method: str
    key: str
    capability: str
    words: str


TOOLS = Kind(LIST_TOOLS, "tools", "tools", "tools")
RESOURCES = Kind(LIST_RESOURCES, "resources", "resources", "resources")
TEMPLATES = Kind(LIST_TEMPLATES, "resourceTemplates", "resources", "templates")
PROMPTS = Kind(LIST_PROMPTS, "prompts", "prompts", "prompts")

KINDS_BESIDE_TOOLS = (RESOURCES, TEMPLATES, PROMPTS)
KINDS_CHANGED_BY: Mapping[str, tuple[Kind, ...]] = {
    TOOLS_CHANGED: (TOOLS,),
    RESOURCES_CHANGED: (RESOURCES, TEMPLATES),
    PROMPTS_CHANGED: (PROMPTS,),
}

Listed = Mapping[Kind, list[Description] | None]
"""Lists as a server has them now; None where it has no such thing."""


async def list_all(connection: JsonRpcConnection, terms: Terms, kind: Kind) -> list[Description]:
    """Return all of a kind as the server describes it, at most one beyond `MAX_LISTED`.

    Raises what `JsonRpcConnection.request` raises.
    """
    listed: list[Description] = []
    params: dict[str, Any] = {"_meta": terms.request_meta} if terms.era is Era.MODERN else {}
    received_before_bytes = connection.received_bytes
    for _ in range(_MAX_PAGES):
        try:
            page = await connection.request(kind.method, params)
        except ErrorAnswer as error:
            if error.code == METHOD_NOT_FOUND:
                return []
            raise
        listed += _page_of(page, kind)
        cursor = page.get("nextCursor")
        if not isinstance(cursor, str) or len(listed) > MAX_LISTED:
            break
        if connection.received_bytes - received_before_bytes > _MAX_LISTING_BYTES:
            raise BrokenAnswer(
                f"its list of {kind.words} has more than {_MAX_LISTING_BYTES:,} bytes"
            )
        params = {**params, "cursor": cursor}
    return listed[: MAX_LISTED + 1]


def _page_of(page: dict[str, Any], kind: Kind) -> list[Description]:
    listed = page.get(kind.key)
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise BrokenAnswer(f"its list of {kind.words} is none")
    return listed
