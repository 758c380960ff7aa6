"""The resources of the conformance suite's server."""

import json
import re

import mcp_types as types
from mcp.shared.exceptions import MCPError

from tests.conformance.fixture_media import PNG_BASE64
from tests.conformance.fixture_questions import Context

STATIC_TEXT = "test://static-text"
STATIC_BINARY = "test://static-binary"
WATCHED = "test://watched-resource"
TEMPLATE = "test://template/{id}/data"
MIME_TYPES = {STATIC_TEXT: "text/plain", STATIC_BINARY: "image/png", WATCHED: "text/plain"}


async def list_resources(
    context: Context, params: types.PaginatedRequestParams | None
) -> types.ListResourcesResult:
    """Return all resources."""
    return types.ListResourcesResult(
        resources=[
            types.Resource(uri=uri, name=uri.removeprefix("test://"), mime_type=mime_type)
            for uri, mime_type in MIME_TYPES.items()
        ]
    )


async def list_templates(
    context: Context, params: types.PaginatedRequestParams | None
) -> types.ListResourceTemplatesResult:
    """Return the one template."""
    template = types.ResourceTemplate(
        name="template", uri_template=TEMPLATE, mime_type="application/json"
    )
    return types.ListResourceTemplatesResult(resource_templates=[template])


async def read_resource(
    context: Context, params: types.ReadResourceRequestParams
) -> types.ReadResourceResult:
    """Return one resource, or one that the template makes."""
    return types.ReadResourceResult(contents=[_contents(params.uri)])


def _contents(uri: str) -> types.TextResourceContents | types.BlobResourceContents:
    if uri == STATIC_BINARY:
        return types.BlobResourceContents(uri=uri, mime_type="image/png", blob=PNG_BASE64)
    if uri == STATIC_TEXT:
        text = "This is the content of the static text resource."
        return types.TextResourceContents(uri=uri, mime_type="text/plain", text=text)
    if uri == WATCHED:
        return types.TextResourceContents(uri=uri, mime_type="text/plain", text="Watch me.")
    if made := re.fullmatch(r"test://template/([^/]+)/data", uri):
        id_ = made[1]
        text = json.dumps({"id": id_, "templateTest": True, "data": f"Data for ID: {id_}"})
        return types.TextResourceContents(uri=uri, mime_type="application/json", text=text)
    raise MCPError(types.INVALID_PARAMS, "Resource not found", {"uri": uri})


async def subscribe(context: Context, params: types.SubscribeRequestParams) -> types.EmptyResult:
    """Take note of nothing: what is watched here never changes."""
    return types.EmptyResult()


async def unsubscribe(
    context: Context, params: types.UnsubscribeRequestParams
) -> types.EmptyResult:
    """Forget what nobody took note of."""
    return types.EmptyResult()
