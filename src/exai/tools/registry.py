"""Every tool that can be called now, by name, and who may see it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence, Set
from difflib import get_close_matches
from typing import Any, Protocol

from exai.core.errors import ToolNotFound, UpstreamFailed, daemon_stopping
from exai.core.identity import Principal
from exai.core.tool import Tool, ToolSpec
from exai.upstream.names import Namespace

_OLD_SUFFIXES = ("_EXAI-WS", "-EXAI-WS", "_EXAI_WS", "-EXAI_WS")
_SHOWN_LENGTH = 64


class Methods(Protocol):
    """What can be called by these `names` as tools can, and is not listed as one."""

    names: frozenset[str]

    async def tool_for(
        self, name: str, arguments: dict[str, Any], principal: Principal, *, is_owed: bool
    ) -> Tool:
        """Return the tool that does it with these arguments; `ExaiError` where none does."""


class ToolRegistry:
    """Tools by name. Each source (the daemon itself, an MCP server) replaces its own.

    Of two sources that offer one name, the one that is expected earlier has it, for as long as
    it offers it; those that nobody expects, as the daemon itself, come first of all.
    """

    def __init__(self, expected: Mapping[str, Namespace] | None = None) -> None:
        self._expected: Mapping[str, Namespace] = {}
        self._rank: dict[str, int] = {}
        self._awaited: set[str] = set()
        self._is_starting = True
        self._is_stopping = False
        self._replaced = asyncio.Event()
        self._by_source: dict[str, dict[str, Tool]] = {}
        self._holders: dict[str, str] = {}
        self._tools: dict[str, Tool] = {}
        self._methods: Methods | None = None
        self._listeners: list[Callable[[Set[str]], None]] = []
        self.expect(expected or {})

    def __len__(self) -> int:
        """Return how many tools there are."""
        return len(self._tools)

    def on_change(self, listener: Callable[[Set[str]], None]) -> None:
        """Call `listener` with the names of tools that came, went or changed, whenever any do."""
        self._listeners.append(listener)

    def offer_methods(self, methods: Methods) -> None:
        """Let these be called, too, by everybody."""
        self._methods = methods

    def expect(self, sources: Mapping[str, Namespace]) -> None:
        """Let these be the sources, besides those that nobody expects, and this their order.

        Those that were expected and are no more have nothing any longer. Of the new ones the
        tools are still to come: while the daemon starts, calls wait for them; once it has
        started, only calls that are owed.
        """
        gone = self._expected.keys() - sources.keys()
        self._awaited = (self._awaited - gone) | (sources.keys() - self._expected.keys())
        self._expected = sources
        self._rank = {source: rank for rank, source in enumerate(sources)}
        self._settle({s: tools for s, tools in self._by_source.items() if s not in gone})

    def replace(self, source: str, tools: Sequence[Tool]) -> None:
        """Let `tools` be all that `source` offers from now on."""
        self._awaited.discard(source)
        self._settle({**self._by_source, source: {tool.spec.name: tool for tool in tools}})

    def holder_of(self, name: str) -> str | None:
        """Return the source that has the tool of this very name."""
        return self._holders.get(name)

    def _settle(self, by_source: dict[str, dict[str, Tool]]) -> None:
        before, self._tools, self._holders = self._tools, {}, {}
        self._by_source = by_source
        for source in sorted(by_source, key=self._place_of, reverse=True):
            self._tools.update(by_source[source])
            self._holders.update(dict.fromkeys(by_source[source], source))
        names = before.keys() | self._tools.keys()
        changed = {name for name in names if _spec(before, name) != _spec(self._tools, name)}
        if changed:
            for listener in self._listeners:
                listener(changed)
        self._tell_replaced()

    def _place_of(self, source: str) -> int:
        return self._rank.get(source, -1)

    def require_tool(self, name: str, principal: Principal) -> Tool:
        """Return the tool that `principal` means by `name`.

        Raises `ToolNotFound`, the same for a tool that is not there and one that this
        principal may not see.
        """
        for candidate in readings_of(name):
            tool = self._tools.get(candidate)
            if tool is not None and principal.may_use(candidate):
                return tool
        visible = [spec.name for spec in self.visible_to(principal)]
        closest = get_close_matches(name[:_SHOWN_LENGTH], visible)
        hint = f"; did you mean {closest[0]}?" if closest else ""
        raise ToolNotFound(f"there is no tool {name[:_SHOWN_LENGTH]!r}{hint}", closest=closest)

    def end_start(self) -> None:
        """Let new calls wait no more for sources that have not said what they offer."""
        self._is_starting = False
        self._tell_replaced()

    def stop_waiting(self) -> None:
        """Refuse new calls that wait for a source: the daemon stops."""
        self._is_stopping = True
        self.end_start()

    async def wait_for_tool(
        self,
        name: str,
        principal: Principal,
        *,
        arguments: dict[str, Any] | None = None,
        is_owed: bool = False,
    ) -> Tool:
        """Return the tool as `require_tool` does, once its source has said what it offers.

        Of a method, the tool depends on the arguments.

        A call that `is_owed` its answer waits as long as it takes. Raises `UpstreamFailed` for a
        source that has not started, whose tools nobody knows yet.
        """
        if self._methods is not None and name in self._methods.names:
            return await self._methods.tool_for(name, arguments or {}, principal, is_owed=is_owed)
        while (is_owed or self._is_starting) and self._awaited_source(name):
            await self._replaced.wait()
        source = self._awaited_source(name)
        if source is not None and self._is_stopping:
            raise daemon_stopping()
        if source is not None and principal.may_use(name):
            raise UpstreamFailed(f"{source} has not started yet", retryable=True)
        return self.require_tool(name, principal)

    async def wait_for_source(self, *, is_owed: bool) -> bool:
        """Wait until another source says what it offers; False where none is waited for."""
        if not (self._awaited and (is_owed or self._is_starting)):
            return False
        await self._replaced.wait()
        return True

    def _awaited_source(self, name: str) -> str | None:
        """Return a source that may still say that it has this name.

        A tool that is there is kept waiting for earlier sources only while the daemon starts.
        """
        holder = next((h for n in readings_of(name) if (h := self._holders.get(n))), None)
        if not self._awaited or (holder is not None and not self._is_starting):
            return None
        before = len(self._rank) if holder is None else self._place_of(holder)
        for source in sorted(self._awaited, key=self._place_of):
            may_hold = self._expected[source].may_hold
            if self._place_of(source) < before and any(map(may_hold, readings_of(name))):
                return source
        return None

    def _tell_replaced(self) -> None:
        self._replaced.set()
        self._replaced = asyncio.Event()

    def has(self, name: str) -> bool:
        """Tell whether there is a tool, or a method, of this very name."""
        return name in self._tools or (self._methods is not None and name in self._methods.names)

    def provider_of(self, name: str) -> str | None:
        """Return who serves the tool of this very name."""
        tool = self._tools.get(name)
        return None if tool is None else tool.spec.provider

    def visible_to(self, principal: Principal) -> list[ToolSpec]:
        """Return the specs of all tools that `principal` may use, by name."""
        return [self._tools[name].spec for name in sorted(self._tools) if principal.may_use(name)]


def readings_of(name: str) -> list[str]:
    """Return the name itself, then what it means if it carries an old client's suffix."""
    if not name.endswith(_OLD_SUFFIXES):
        return [name]
    return [name, *(name.removesuffix(s) for s in _OLD_SUFFIXES if name.endswith(s))]


def _spec(tools: dict[str, Tool], name: str) -> ToolSpec | None:
    tool = tools.get(name)
    return None if tool is None else tool.spec
