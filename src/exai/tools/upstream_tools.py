"""The tools of MCP servers, offered as our own: `server__tool`, otherwise untouched.

Knows how a server describes a tool, which descriptions are too much, and what the
operator says over them; knows nothing of processes or of the wire.
"""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any

import msgspec

from exai.core.config import UpstreamConfig, is_glob
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
from exai.tools.descriptions import DescriptionUnusable, encode_within_bounds
from exai.tools.present_server import ask_present_server
from exai.tools.registry import ToolRegistry
from exai.upstream.listing import MAX_LISTED
from exai.upstream.names import Namespace, namespace_of, namespaces_of
from exai.upstream.server import UpstreamServer

_MAX_NAME_LENGTH = 128

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
        self,
        servers: Mapping[str, UpstreamServer],
        name: str,
        spec: ToolSpec,
        schema: ArgumentSchema,
    ) -> None:
        self.spec = spec
        self._servers = servers
        self._name = name
        self._schema = schema

    def check(self, arguments: dict[str, Any]) -> None:
        """Check the arguments against the server's schema, as far as that is surely cheap."""
        self._schema.check(arguments)

    async def demand_of(self, arguments: dict[str, Any], principal: Principal) -> Demand:
        """Ask for a permit of the server: it gets only so many calls at once."""
        return Demand(upstream_scope(self.spec.provider))

    async def run(self, arguments: dict[str, Any], run: ToolRun) -> Completed:
        """Let the server do it; if it is replaced before it could begin, the one that follows."""
        idempotent = self.spec.policy.idempotent
        return await ask_present_server(
            self._servers,
            self.spec.provider,
            run,
            lambda server: server.call(self._name, arguments, run, idempotent=idempotent),
        )


class _Offer:
    """A server's tools as they are offered, and those that cannot be, all by their own names."""

    def __init__(self, config: UpstreamConfig, listing: Sequence[Description]) -> None:
        self.config = config
        self.listing = listing
        self.tools: dict[str, tuple[Description, UpstreamTool]] = {}
        self.unavailable: dict[str, str] = {}


class UpstreamTools:
    """Keeps the registry true to what each of the `servers` lists, whichever these are now."""

    def __init__(
        self, registry: ToolRegistry, servers: Mapping[str, UpstreamServer], events: EventSink
    ) -> None:
        self._registry = registry
        self._servers = servers
        self._events = events
        self._preparing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._offers: dict[str, _Offer] = {}
        self._told: dict[str, dict[str, str]] = {}

    async def offer(self, server: UpstreamServer, listing: Sequence[Description]) -> None:
        """Let `listing` be the server's tools from now on; schemas are compiled in a thread."""
        async with self._preparing[server.name]:
            await self._offer(server, listing)

    async def offer_anew(self, name: str) -> None:
        """Offer what a server has listed as its configuration says now."""
        async with self._preparing[name]:
            if name in self._offers:
                await self._offer(self._servers[name], self._offers[name].listing)

    def expect(self, configs: Mapping[str, UpstreamConfig]) -> None:
        """Let these be the servers that offer tools, in this order; those of others are gone."""
        names = namespaces_of(configs)
        for gone in self._offers.keys() - names.keys():
            del self._offers[gone]
        for gone in self._preparing.keys() - names.keys():
            del self._preparing[gone]  # what is being prepared there is offered no more
        self._registry.expect(names)
        self._tell_unavailable()

    async def _offer(self, server: UpstreamServer, listing: Sequence[Description]) -> None:
        before = self._offers.get(server.name)
        offer = await asyncio.to_thread(_prepare, self._servers, server, listing, before)
        if self._servers.get(server.name) is not server:
            return  # it was replaced or removed meanwhile
        self._offers[server.name] = offer
        self._registry.replace(server.name, [tool for _, tool in offer.tools.values()])
        self._tell_unavailable()

    def offered_by(self, server: str) -> list[str]:
        """Return the names under which a server's tools are offered."""
        tools = self._offers[server].tools.values() if server in self._offers else ()
        names = (tool.spec.name for _, tool in tools)
        return sorted(name for name in names if self._registry.holder_of(name) == server)

    def unavailable(self) -> dict[str, dict[str, str]]:
        """Return, per server, the tools that cannot be offered and why."""
        return {
            name: offer.unavailable | dict(self._taken(name, offer))
            for name, offer in self._offers.items()
        }

    def _taken(self, server: str, offer: _Offer) -> Iterator[tuple[str, str]]:
        for own, (_, tool) in offer.tools.items():
            holder = self._registry.holder_of(tool.spec.name)
            if holder != server:
                yield own, f"its name {tool.spec.name} belongs to a tool of {holder}"

    def _tell_unavailable(self) -> None:
        """Say what is unavailable and was not before: also of servers whose names were taken."""
        before, self._told = self._told, self.unavailable()
        for server, tools in self._told.items():
            for tool, reason in tools.items():
                if before.get(server, {}).get(tool) != reason:
                    self._events.emit(ToolUnavailable(server, tool, reason))


def _prepare(
    servers: Mapping[str, UpstreamServer],
    server: UpstreamServer,
    listing: Sequence[Description],
    before: _Offer | None,
) -> _Offer:
    config = server.config
    names, offer = namespace_of(server.name, config), _Offer(config, listing)
    kept = before.tools if before and before.config == config else {}
    wanted = [(own, each) for each in listing if _is_wanted(own := _own_name(each), config)]
    assigned = names.assign([own for own, _ in wanted])
    for own, description in wanted:
        known, tool = kept.get(own, (None, None))
        try:
            _check_place(own, offer, assigned, names)
            if tool is None or known != description:
                spec, schema = _read(server, config, assigned[own], description)
                tool = UpstreamTool(servers, own, spec, schema)
        except (DescriptionUnusable, SchemaUnusable, msgspec.ValidationError) as error:
            offer.unavailable[own] = str(error)
        else:
            offer.tools[own] = (description, tool)
    owns = set(map(_own_name, listing))
    for setting, own in _named_in(config):
        if own not in owns:
            offer.unavailable[own] = f"named in exai.{setting}, but its server lists no such tool"
    return offer


def _own_name(description: Description) -> str:
    return str(description.get("name"))[:_MAX_NAME_LENGTH]


def _is_wanted(own: str, config: UpstreamConfig) -> bool:
    is_allowed = any(fnmatchcase(own, glob) for glob in config.allow)
    return is_allowed and not any(fnmatchcase(own, glob) for glob in config.deny)


def _named_in(config: UpstreamConfig) -> Iterator[tuple[str, str]]:
    """Yield each tool that the operator has named, with the setting that does."""
    for setting, names in (("tools", config.tools), ("allow", config.allow), ("deny", config.deny)):
        yield from ((setting, name) for name in names if setting == "tools" or not is_glob(name))


def _check_place(own: str, offer: _Offer, assigned: Mapping[str, str], names: Namespace) -> None:
    if len(offer.tools) >= MAX_LISTED:
        raise SchemaUnusable(f"its server has more than {MAX_LISTED:,} tools")
    if own in offer.tools:
        raise SchemaUnusable("its server has another tool of this name")
    if own not in assigned:
        raise SchemaUnusable(f"another tool of its server is {names.name_of(own)}")


def _read(
    server: UpstreamServer, config: UpstreamConfig, name: str, description: Description
) -> tuple[ToolSpec, ArgumentSchema]:
    """Return what a description says; raises as is caught where it is asked for."""
    encoded = encode_within_bounds(description)
    listed = msgspec.convert(description, _Listed)
    digest = hashlib.sha256(server.server_version.encode() + b"\0" + encoded)
    spec = ToolSpec(
        name=name,
        title=listed.title,
        description=listed.description or "",
        input_schema=listed.input_schema,
        output_schema=listed.output_schema,
        annotations=listed.annotations,
        icons=listed.icons,
        meta=listed.meta,
        provider=server.name,
        version=digest.hexdigest()[:16],
        policy=_policy_of(listed, config),
        timeout_s=config.timeout_s,
    )
    return spec, ArgumentSchema(listed.input_schema)


def _policy_of(listed: _Listed, config: UpstreamConfig) -> SharingPolicy:
    said = {key: value for key, value in config.tools.get(listed.name, {}).items() if key != "name"}
    widest = WIDEST_SHARE[config.instance]
    return policy_of(listed.annotations, said, trusted=config.trust_annotations, widest=widest)
