"""What MCP servers have beside tools: resources, templates and prompts, and who has which.

Knows the servers' order, by which the first has what two list, and what each principal sees;
knows nothing of how servers are asked. Descriptions stay untouched but for a prompt's name.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, Protocol

from exai.core.events import EventSink, OfferUnavailable, UpstreamUnlisted
from exai.core.identity import Principal
from exai.tools.descriptions import DescriptionUnusable, encode_within_bounds
from exai.tools.uri_template import UriTemplate
from exai.upstream.catalog_listener import CatalogListener
from exai.upstream.listing import (
    MAX_LISTED,
    MAX_URI_LENGTH,
    PROMPTS,
    RESOURCES,
    TEMPLATES,
    Description,
    Kind,
    Listed,
)
from exai.upstream.names import Namespace

_MAX_SHOWN = 200
_IDENTIFIED_BY = {RESOURCES: "uri", TEMPLATES: "uriTemplate", PROMPTS: "name"}

Entries = dict[str, Description]
"""Descriptions by what identifies them, in the order of the server."""


class Announcing(Protocol):
    """Whoever tells clients of the changes."""

    def tell_prompts_changed(self, names: Set[str]) -> None:
        """Tell whoever sees one of these prompts."""

    def tell_resources_changed(self, server: str) -> None:
        """Tell whoever sees a server's resources."""

    def tell_updated(self, server: str, uri: str, session_ids: Set[str]) -> None:
        """Tell these sessions that a resource of a server changed."""


class _Shelf:
    """What one server has, and the templates as matchers."""

    def __init__(self) -> None:
        self.entries: dict[Kind, Entries] = {RESOURCES: {}, TEMPLATES: {}, PROMPTS: {}}
        self.unusable: dict[Kind, dict[str, str]] = {}
        self.has_resources = False
        self.matchers: list[UriTemplate] = []


class Catalogs(CatalogListener):
    """All that servers have beside tools. `namespaces` has their order and their prefixes."""

    def __init__(
        self, namespaces: Mapping[str, Namespace], events: EventSink, announcing: Announcing
    ) -> None:
        self._namespaces = namespaces
        self._events = events
        self._announcing = announcing
        self._shelves: dict[str, _Shelf] = {}
        self._prompts: dict[str, tuple[str, str]] = {}
        """By the name under which it is offered, a prompt's server and its own name."""
        self._described: Entries = {}
        """By the same names, the prompts as they are offered."""
        self._unavailable: dict[tuple[str, Kind, str], str] = {}

    def expect(self, namespaces: Mapping[str, Namespace]) -> None:
        """Let these be the servers from now on, and this their order; others have nothing."""
        self._namespaces = namespaces
        gone = self._shelves.keys() - namespaces.keys()
        had_resources = [name for name in gone if self._shelves[name].has_resources]
        for name in gone:
            del self._shelves[name]
        for name in had_resources:
            self._announcing.tell_resources_changed(name)
        self._settle()

    async def take_lists(self, server: str, lists: Listed) -> None:
        """Hear what a server has now; what was known of other kinds stays."""
        shelved = await asyncio.to_thread(_shelve, lists)
        if server not in self._namespaces or not shelved:
            return
        shelf = self._shelves.setdefault(server, _Shelf())
        has_news = any(
            list(shelf.entries[kind].items()) != list(entries.items())
            for kind, (entries, _) in shelved.items()
            if kind is not PROMPTS
        )
        for kind, (entries, unusable) in shelved.items():
            shelf.entries[kind], shelf.unusable[kind] = entries, unusable
        if RESOURCES in lists:
            shelf.has_resources = lists[RESOURCES] is not None
        if TEMPLATES in lists:
            shelf.matchers = [UriTemplate(each) for each in shelf.entries[TEMPLATES]]
        if has_news:
            self._announcing.tell_resources_changed(server)
        self._settle()

    def note_unlisted(self, server: str, kind: Kind, reason: str) -> None:
        """Let the operator know; what was known stays."""
        self._events.emit(UpstreamUnlisted(server, kind.words, reason))

    def note_updated(self, server: str, uri: str, session_ids: Set[str]) -> None:
        """Tell the sessions that watch a resource."""
        self._announcing.tell_updated(server, uri, session_ids)

    def resources(self, principal: Principal) -> list[Description]:
        """Return every resource that a principal sees, once."""
        return self._merged(RESOURCES, principal)

    def templates(self, principal: Principal) -> list[Description]:
        """Return every template of resources that a principal sees, once."""
        return self._merged(TEMPLATES, principal)

    def prompts(self, principal: Principal) -> list[Description]:
        """Return every prompt that a principal sees, under the name by which it is got."""
        return [
            description for name, description in self._described.items() if principal.may_use(name)
        ]

    def find_prompt(self, name: str, principal: Principal) -> tuple[str, str] | None:
        """Return the server of a prompt and how that calls it."""
        return self._prompts.get(name) if principal.may_use(name) else None

    def find_resource(self, uri: str, principal: Principal) -> str | None:
        """Return the server that lists a resource, or else has a template for it."""
        visible = list(self._visible(principal))
        for name, shelf in visible:
            if uri in shelf.entries[RESOURCES]:
                return name
        for name, shelf in visible:
            if any(matcher.matches(uri) for matcher in shelf.matchers):
                return name
        return None

    def find_template(self, template: str, principal: Principal) -> str | None:
        """Return the server that lists a template."""
        for name, shelf in self._visible(principal):
            if template in shelf.entries[TEMPLATES]:
                return name
        return None

    def find_only(self, principal: Principal) -> str | None:
        """Return the server that has resources, where a principal sees just one."""
        names = [name for name, shelf in self._visible(principal) if shelf.has_resources]
        return names[0] if len(names) == 1 else None

    def _visible(self, principal: Principal) -> Iterator[tuple[str, _Shelf]]:
        return (each for each in self._in_order() if principal.may_see_resources(each[0]))

    def _merged(self, kind: Kind, principal: Principal) -> list[Description]:
        merged: Entries = {}
        for _, shelf in self._visible(principal):
            for identity, description in shelf.entries[kind].items():
                merged.setdefault(identity, description)
        return list(merged.values())

    def _settle(self) -> None:
        """Give each prompt its name, and say what has changed and what is unavailable now."""
        before, unavailable = self._described, dict(self._unusable())
        self._prompts, self._described = {}, {}
        for server, shelf in self._in_order():
            prompts = shelf.entries[PROMPTS]
            names = Namespace(self._namespaces[server].prefix)
            assigned = names.assign(prompts)
            for own, description in prompts.items():
                name = names.name_of(own)
                if own in assigned and name not in self._prompts:
                    self._prompts[name] = (server, own)
                    self._described[name] = {**description, "name": name}
                else:
                    unavailable[server, PROMPTS, own] = f"another prompt is {name}"
        names_before = before.keys() | self._described.keys()
        changed = {n for n in names_before if before.get(n) != self._described.get(n)}
        if changed:
            self._announcing.tell_prompts_changed(changed)
        self._tell_unavailable(unavailable)

    def _in_order(self) -> Iterator[tuple[str, _Shelf]]:
        for name in self._namespaces:
            if name in self._shelves:
                yield name, self._shelves[name]

    def _unusable(self) -> Iterator[tuple[tuple[str, Kind, str], str]]:
        """Yield what cannot be offered whatever the prompts are called, and why."""
        holders: dict[str, str] = {}
        for server, shelf in self._in_order():
            for kind, reasons in shelf.unusable.items():
                for identity, reason in reasons.items():
                    yield (server, kind, identity), reason
            for uri in shelf.entries[RESOURCES]:
                if (holder := holders.setdefault(uri, server)) != server:
                    yield (server, RESOURCES, uri), f"{holder} has a resource of this URI"

    def _tell_unavailable(self, unavailable: dict[tuple[str, Kind, str], str]) -> None:
        before, self._unavailable = self._unavailable, unavailable
        for (server, kind, identity), reason in unavailable.items():
            if before.get((server, kind, identity)) != reason:
                shown = identity[:_MAX_SHOWN]
                self._events.emit(OfferUnavailable(server, kind.words, shown, reason))


def _shelve(lists: Listed) -> dict[Kind, tuple[Entries, dict[str, str]]]:
    """Return, per kind, what can be offered, and why the rest cannot."""
    return {kind: _usable_of(kind, listed or []) for kind, listed in lists.items()}


def _usable_of(kind: Kind, listed: Sequence[Description]) -> tuple[Entries, dict[str, str]]:
    entries: Entries = {}
    unusable: dict[str, str] = {}
    for description in listed:
        identity = description.get(_IDENTIFIED_BY[kind])
        try:
            _check(kind, identity, description, entries)
        except DescriptionUnusable as reason:
            unusable[str(identity)[:_MAX_SHOWN]] = str(reason)
        else:
            entries[str(identity)] = description
    return entries, unusable


def _check(kind: Kind, identity: Any, description: Description, entries: Entries) -> None:
    """Raise `DescriptionUnusable` where something cannot be offered beside what already is."""
    if not isinstance(identity, str) or not 0 < len(identity) <= MAX_URI_LENGTH:
        raise DescriptionUnusable(
            f"its {_IDENTIFIED_BY[kind]} is no text of 1 to {MAX_URI_LENGTH:,} characters"
        )
    if identity in entries:
        raise DescriptionUnusable(f"its server has another one of this {_IDENTIFIED_BY[kind]}")
    if len(entries) >= MAX_LISTED:
        raise DescriptionUnusable(f"its server has more than {MAX_LISTED:,} {kind.words}")
    encode_within_bounds(description)
