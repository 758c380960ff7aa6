"""The tools of MCP servers, offered as our own: `server__tool`, otherwise untouched.

Knows how a server describes a tool, which descriptions are too much, and what the
operator says over their annotations; knows nothing of processes or of the wire.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from exai.core.config import UpstreamConfig
from exai.core.events import EventSink, ToolUnavailable
from exai.core.identity import Principal
from exai.core.outcomes import Completed
from exai.core.tool import (
    WIDEST_SHARE,
    Demand,
    SharingPolicy,
    Tool,
    ToolRun,
    ToolSpec,
    policy_of,
    upstream_scope,
)
from exai.tools.argument_schema import ArgumentSchema, SchemaUnusable
from exai.tools.registry import ToolRegistry
from exai.tools.schema_cost import MAX_DEPTH, measure
from exai.upstream.server import UpstreamServer
from exai.upstream.tool_listing import MAX_TOOLS

_MAX_TOOL_BYTES = 262_144
_MAX_NAME_LENGTH = 128

_encode = msgspec.json.Encoder(order="deterministic").encode

Description = dict[str, Any]
"""A tool as its server describes it."""


class _Listed(msgspec.Struct, frozen=True, rename="camel"):
    """What is read of a description."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=_MAX_NAME_LENGTH)]
    input_schema: dict[str, Any]
    description: str | None = None
    title: str | None = None
    output_schema: dict[str, Any] | None = None
    annotations: dict[str, Any] | None = None
    icons: list[dict[str, Any]] | None = None
    meta: dict[str, Any] | None = msgspec.field(default=None, name="_meta")


class UpstreamTool(Tool):
    """One tool of an MCP server."""

    def __init__(
        self, server: UpstreamServer, name: str, spec: ToolSpec, schema: ArgumentSchema
    ) -> None:
        self.spec = spec
        self._server = server
        self._name = name
        self._schema = schema

    def check(self, arguments: dict[str, Any]) -> None:
        """Check the arguments against the server's schema, as far as that is surely cheap."""
        self._schema.check(arguments)

    async def demand_of(self, arguments: dict[str, Any], principal: Principal) -> Demand:
        """Ask for a permit of the server: it gets only so many calls at once."""
        return Demand(upstream_scope(self._server.name))

    async def run(self, arguments: dict[str, Any], run: ToolRun) -> Completed:
        """Let the server do it."""
        idempotent = self.spec.policy.idempotent
        return await self._server.call(self._name, arguments, run, idempotent=idempotent)


class _Offer:
    """A server's tools as they are offered, and those that cannot be."""

    def __init__(self) -> None:
        self.tools: dict[str, tuple[Description, UpstreamTool]] = {}
        self.unavailable: dict[str, str] = {}


class UpstreamTools:
    """Keeps the registry true to what each server lists."""

    def __init__(self, registry: ToolRegistry, events: EventSink) -> None:
        self._registry = registry
        self._events = events
        self._offers: dict[str, _Offer] = {}

    async def offer(self, server: UpstreamServer, listing: Sequence[Description]) -> None:
        """Let `listing` be the server's tools from now on; schemas are compiled in a thread."""
        before = self._offers.get(server.name, _Offer())
        offer = await asyncio.to_thread(_prepare, server, listing, before)
        self._offers[server.name] = offer
        for name, reason in offer.unavailable.items():
            if before.unavailable.get(name) != reason:
                self._events.emit(ToolUnavailable(server.name, name, reason))
        self._registry.replace(server.name, [tool for _, tool in offer.tools.values()])

    def unavailable(self) -> dict[str, Mapping[str, str]]:
        """Return, per server, the tools that cannot be offered and why."""
        return {name: offer.unavailable for name, offer in self._offers.items()}


def _prepare(server: UpstreamServer, listing: Sequence[Description], before: _Offer) -> _Offer:
    offer = _Offer()
    for description in listing:
        name = str(description.get("name"))[:_MAX_NAME_LENGTH]
        known, tool = before.tools.get(name, (None, None))
        try:
            _check_place(name, offer)
            if tool is None or known != description:
                tool = _tool_of(server, description)
        except (SchemaUnusable, msgspec.ValidationError) as error:
            offer.unavailable[name] = str(error)
        else:
            offer.tools[name] = (description, tool)
    for name in server.config.tools.keys() - offer.tools.keys() - offer.unavailable.keys():
        offer.unavailable[name] = "named in exai.tools, but its server lists no such tool"
    return offer


def _check_place(name: str, offer: _Offer) -> None:
    if len(offer.tools) >= MAX_TOOLS:
        raise SchemaUnusable(f"its server has more than {MAX_TOOLS:,} tools")
    if name in offer.tools:
        raise SchemaUnusable("its server has another tool of this name")


def _tool_of(server: UpstreamServer, description: Description) -> UpstreamTool:
    """Return the tool; raises `SchemaUnusable`, `msgspec.ValidationError`."""
    if measure(description, _MAX_TOOL_BYTES, MAX_DEPTH) is None:
        raise SchemaUnusable(f"its description is nested deeper than {MAX_DEPTH} levels")
    encoded = _encode(description)
    if len(encoded) > _MAX_TOOL_BYTES:
        raise SchemaUnusable(f"its description has more than {_MAX_TOOL_BYTES:,} bytes")
    listed = msgspec.convert(description, _Listed)
    digest = hashlib.sha256(server.server_version.encode() + b"\0" + encoded)
    spec = ToolSpec(
        name=f"{server.name}__{listed.name}",
        title=listed.title,
        description=listed.description or "",
        input_schema=listed.input_schema,
        output_schema=listed.output_schema,
        annotations=listed.annotations,
        icons=listed.icons,
        meta=listed.meta,
        provider=server.name,
        version=digest.hexdigest()[:16],
        policy=_policy_of(listed, server.config),
        timeout_s=server.config.timeout_s,
    )
    return UpstreamTool(server, listed.name, spec, ArgumentSchema(listed.input_schema))


def _policy_of(listed: _Listed, config: UpstreamConfig) -> SharingPolicy:
    said = config.tools.get(listed.name, {})
    widest = WIDEST_SHARE[config.instance]
    return policy_of(listed.annotations, said, trusted=config.trust_annotations, widest=widest)
