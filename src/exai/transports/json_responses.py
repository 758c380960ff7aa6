"""Answers of the HTTP port in JSON, which nobody may keep."""

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response

_encode = msgspec.json.Encoder().encode


def json_response(
    body: dict[str, Any] | msgspec.Struct,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return the answer with this body."""
    return Response(
        _encode(body),
        status,
        headers={"cache-control": "no-store", **(headers or {})},
        media_type="application/json",
    )


def unauthorized() -> Response:
    """Return the answer to whom nothing is told without a token."""
    return json_response({"error": "unauthorized"}, 401, {"www-authenticate": "Bearer"})
