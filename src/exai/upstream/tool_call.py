"""What a server is sent to call one of its tools.

Knows what of a run concerns the server, in each era; knows nothing of how it is sent.
"""

from typing import Any

from exai.core.tool import ToolRun
from exai.upstream.handshake import Terms

_PROTOCOL_META = "io.modelcontextprotocol/"
_CLIENT_CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"


def tool_call_params(
    tool: str, arguments: dict[str, Any], run: ToolRun, terms: Terms
) -> dict[str, Any]:
    """Return the params of `tools/call`."""
    params = {"name": tool, "arguments": arguments, "_meta": request_meta(run, terms)}
    return {**run.input, **params} if terms.request_meta else params


def request_meta(run: ToolRun, terms: Terms) -> dict[str, Any]:
    """Return the `_meta` of a request: who we are, and what comes from the caller.

    What a client can do is for the client to say. A server of before 2026 is told nothing of
    that here.
    """
    meta = {**run.meta, **terms.request_meta}
    if not terms.request_meta:
        meta = {key: value for key, value in meta.items() if not key.startswith(_PROTOCOL_META)}
    elif _CLIENT_CAPABILITIES in run.meta:
        meta[_CLIENT_CAPABILITIES] = run.meta[_CLIENT_CAPABILITIES]
    if run.traceparent is not None:
        meta["traceparent"] = run.traceparent
    return meta
