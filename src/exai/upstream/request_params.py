"""What a server is sent with a request that is made for a call.

Knows what of a run concerns the server, in each era; knows nothing of how it is sent.
"""

from typing import Any

from exai.core.mcp_words import CLIENT_CAPABILITIES_KEY, LOG_LEVEL_KEY, RESERVED_PREFIX, Era
from exai.core.tool import ToolRun
from exai.upstream.handshake import Terms


def request_params(
    params: dict[str, Any],
    given: dict[str, Any],
    run: ToolRun,
    terms: Terms,
    log_level: str | None,
) -> dict[str, Any]:
    """Return the params with what is `given` because a server of 2026 has asked for it.

    Such a server is also told with each request from which `log_level` on it is to log.
    """
    is_modern = terms.era is Era.MODERN
    named = {**params, "_meta": _request_meta(run, terms)}
    if is_modern and log_level is not None:
        named["_meta"].setdefault(LOG_LEVEL_KEY, log_level)
    return {**given, **named} if is_modern else named


def _request_meta(run: ToolRun, terms: Terms) -> dict[str, Any]:
    """Return the `_meta` of a request: who we are, and what comes from the caller.

    What a client can do is for the client to say. A server of before 2026 is told nothing of
    that here.
    """
    meta = {**run.meta, **terms.request_meta}
    if terms.era is Era.HANDSHAKE:
        meta = {key: value for key, value in meta.items() if not key.startswith(RESERVED_PREFIX)}
    elif CLIENT_CAPABILITIES_KEY in run.meta:
        meta[CLIENT_CAPABILITIES_KEY] = run.meta[CLIENT_CAPABILITIES_KEY]
    if run.traceparent is not None:
        meta["traceparent"] = run.traceparent
    return meta
