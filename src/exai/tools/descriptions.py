"""How much a server may say of one thing that it offers, whatever that is."""

from typing import Any

import msgspec

from exai.tools.schema_cost import MAX_DEPTH, measure

MAX_DESCRIPTION_BYTES = 262_144

_encode = msgspec.json.Encoder(order="deterministic").encode


class DescriptionUnusable(Exception):
    """It is too much, or says too little; `str()` says of what."""


def encode_within_bounds(description: dict[str, Any]) -> bytes:
    """Return a description as bytes, the same for equal ones; raises `DescriptionUnusable`."""
    if measure(description, MAX_DESCRIPTION_BYTES, MAX_DEPTH) is None:
        raise DescriptionUnusable(f"its description is nested deeper than {MAX_DEPTH} levels")
    encoded = _encode(description)
    if len(encoded) > MAX_DESCRIPTION_BYTES:
        raise DescriptionUnusable(f"its description has more than {MAX_DESCRIPTION_BYTES:,} bytes")
    return encoded
