"""MCP's methods beside `tools/…`, as what can be called: each finds the server that is to answer.

Knows the methods' parameters and who may see what they name; knows nothing of the wire. What one
may not see is answered as if it were not there.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import msgspec

from exai.core.errors import ArgumentsInvalid, ToolFailed
from exai.core.identity import Principal
from exai.core.mcp_words import (
    COMPLETE,
    GET_PROMPT,
    INVALID_PARAMS,
    LIST_PROMPTS,
    LIST_RESOURCES,
    LIST_TEMPLATES,
    READ_RESOURCE,
    RESOURCE_NOT_FOUND,
    SET_LEVEL,
    SUBSCRIBE,
    UNSUBSCRIBE,
)
from exai.core.outcomes import Completed, ExecutionFacts
from exai.core.tool import (
    WIDEST_SHARE,
    Demand,
    LogLevel,
    SharingPolicy,
    Tool,
    ToolRun,
    ToolSpec,
    is_wider,
    upstream_scope,
)
from exai.tools.catalogs import Catalogs
from exai.tools.present_server import Servers, ask_present_server
from exai.tools.registry import Methods, ToolRegistry
from exai.upstream.listing import MAX_URI_LENGTH
from exai.upstream.pool import UpstreamPool
from exai.upstream.server import UpstreamServer

_SHOWN_LENGTH = 200

Params = dict[str, Any]
T = TypeVar("T")
Uri = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_URI_LENGTH)]


class _OfResource(msgspec.Struct):
    uri: Uri


class _OfPrompt(msgspec.Struct):
    name: str
    arguments: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class _PromptReference(msgspec.Struct, tag="ref/prompt", tag_field="type"):
    name: str


class _ResourceReference(msgspec.Struct, tag="ref/resource", tag_field="type"):
    uri: Uri


class _Completion(msgspec.Struct):
    ref: _PromptReference | _ResourceReference
    argument: dict[str, Any]


class _Level(msgspec.Struct):
    level: LogLevel


class _Paged(msgspec.Struct):
    cursor: Any = None


class _MethodTool(Tool):
    """One method with its parameters, which were looked at when it was found."""

    def __init__(self, method: str, server: UpstreamServer | None = None, **policy: Any) -> None:
        self.spec = ToolSpec(
            name=method,
            description="",
            input_schema={"type": "object"},
            policy=SharingPolicy(idempotent=True, read_only=True, **policy),
        )
        self._scope = None
        if server is not None:
            self.spec = msgspec.structs.replace(
                self.spec,
                provider=server.name,
                version=f"{server.name} {server.server_version}",
                timeout_s=server.config.timeout_s,
            )
            self._scope = upstream_scope(server.name)

    def check(self, arguments: dict[str, Any]) -> None:
        """Accept the arguments: without good ones there would be no such tool."""

    async def demand_of(self, arguments: dict[str, Any], principal: Principal) -> Demand:
        """Ask for a permit of the server, if there is one."""
        return Demand(self._scope)


class _Answered(_MethodTool):
    """A method that the daemon answers by itself."""

    def __init__(self, method: str, answer: Callable[[ToolRun], Params]) -> None:
        super().__init__(method)
        self._answer = answer

    async def run(self, arguments: dict[str, Any], run: ToolRun) -> Completed:
        """Answer."""
        return Completed([], structured=self._answer(run))


class _Relayed(_MethodTool):
    """A method that a server answers, whose result stays as it is."""

    def __init__(
        self, method: str, servers: Servers, server: UpstreamServer, params: Params
    ) -> None:
        widest = WIDEST_SHARE[server.config.instance]
        super().__init__(
            method, server, share=widest if is_wider("principal", widest) else "principal"
        )
        self._servers = servers
        self._params = params

    async def run(self, arguments: dict[str, Any], run: ToolRun) -> Completed:
        """Let the server do it."""
        return await ask_present_server(
            self._servers,
            self.spec.provider,
            run,
            lambda server: server.relay(self.spec.name, self._params, run),
        )


class _Watched(_MethodTool):
    """Watching a resource, for the session that calls."""

    def __init__(self, method: str, servers: Servers, server: UpstreamServer, uri: str) -> None:
        super().__init__(method, server)
        self._servers = servers
        self._uri = uri

    async def run(self, arguments: dict[str, Any], run: ToolRun) -> Completed:
        """Have the session told of updates; returns once the server has agreed."""
        name = self.spec.provider
        await ask_present_server(
            self._servers, name, run, lambda server: server.watch(self._uri, run)
        )
        return Completed([], structured={}, facts=ExecutionFacts(provider=name))


class McpMethods(Methods):
    """The methods by name, and what they find: the tool that does one with these arguments."""

    def __init__(self, catalogs: Catalogs, pool: UpstreamPool, registry: ToolRegistry) -> None:
        self._catalogs = catalogs
        self._pool = pool
        self._registry = registry
        self._found_by: dict[str, Callable[[str, Params, _Caller], Awaitable[Tool]]] = {
            LIST_RESOURCES: self._list("resources", catalogs.resources),
            LIST_TEMPLATES: self._list("resourceTemplates", catalogs.templates),
            LIST_PROMPTS: self._list("prompts", catalogs.prompts),
            READ_RESOURCE: self._read,
            SUBSCRIBE: self._subscribe,
            UNSUBSCRIBE: self._unsubscribe,
            GET_PROMPT: self._get_prompt,
            COMPLETE: self._complete,
            SET_LEVEL: self._set_level,
        }
        self.names = frozenset(self._found_by)

    async def tool_for(
        self, name: str, arguments: dict[str, Any], principal: Principal, *, is_owed: bool
    ) -> Tool:
        """Return the tool that does a method with these arguments.

        While the daemon starts, waits for servers that may turn out to have what is named. Raises
        `ArgumentsInvalid`, and `ToolFailed` with the protocol's own error for what nobody has.
        """
        return await self._found_by[name](name, arguments, _Caller(principal, is_owed))

    def _list(
        self, key: str, entries: Callable[[Principal], list[Params]]
    ) -> "Callable[[str, Params, _Caller], Awaitable[Tool]]":
        async def find(method: str, params: Params, caller: _Caller) -> Tool:
            if _read_as(params, _Paged).cursor is not None:
                raise ArgumentsInvalid(
                    "there is no such cursor: all is on one page", path="/cursor"
                )
            return _Answered(method, lambda run: {key: entries(run.principal)})

        return find

    async def _read(self, method: str, params: Params, caller: "_Caller") -> Tool:
        uri = _read_as(params, _OfResource).uri
        return self._relayed(method, await self._server_of(uri, caller), params)

    async def _subscribe(self, method: str, params: Params, caller: "_Caller") -> Tool:
        uri = _read_as(params, _OfResource).uri
        return _Watched(method, self._pool.servers, await self._server_of(uri, caller), uri)

    async def _unsubscribe(self, method: str, params: Params, caller: "_Caller") -> Tool:
        uri = _read_as(params, _OfResource).uri
        return _Answered(method, lambda run: self._unwatch(uri, run))

    def _unwatch(self, uri: str, run: ToolRun) -> Params:
        for server in self._pool.servers.values():
            server.unwatch(uri, run)
        return {}

    async def _get_prompt(self, method: str, params: Params, caller: "_Caller") -> Tool:
        server, own = await self._prompt_of(_read_as(params, _OfPrompt).name, caller)
        return self._relayed(method, server, {**params, "name": own})

    async def _complete(self, method: str, params: Params, caller: "_Caller") -> Tool:
        match _read_as(params, _Completion).ref:
            case _PromptReference(name=name):
                server, own = await self._prompt_of(name, caller)
                return _Relayed(
                    method,
                    self._pool.servers,
                    server,
                    {**params, "ref": {**params["ref"], "name": own}},
                )
            case _ResourceReference(uri=uri):
                template = self._catalogs.find_template(uri, caller.principal)
                named = self._pool.servers.get(template) if template is not None else None
                return _Relayed(
                    method, self._pool.servers, named or await self._server_of(uri, caller), params
                )

    def _relayed(self, method: str, server: UpstreamServer, params: Params) -> Tool:
        return _Relayed(method, self._pool.servers, server, params)

    async def _set_level(self, method: str, params: Params, caller: "_Caller") -> Tool:
        level = _read_as(params, _Level).level
        return _Answered(method, lambda run: self._note_level(level, run))

    def _note_level(self, level: LogLevel, run: ToolRun) -> Params:
        self._pool.log_levels.set(run.session_id, run.principal.name, level)
        return {}

    async def _server_of(self, uri: str, caller: "_Caller") -> UpstreamServer:
        """Return the server that has a resource, or the one that alone may have it."""
        find = self._catalogs.find_resource
        name = await self._wait_found(lambda: find(uri, caller.principal), caller)
        name = name or self._catalogs.find_only(caller.principal)
        if name is None or name not in self._pool.servers:
            raise ToolFailed(
                f"there is no resource {uri[:_SHOWN_LENGTH]!r}",
                jsonrpc_code=RESOURCE_NOT_FOUND,
                jsonrpc_data={"uri": uri},
            )
        return self._pool.servers[name]

    async def _prompt_of(self, name: str, caller: "_Caller") -> tuple[UpstreamServer, str]:
        """Return the server of a prompt, and how that calls it."""
        find = self._catalogs.find_prompt
        found = await self._wait_found(lambda: find(name, caller.principal), caller)
        if found is None or found[0] not in self._pool.servers:
            raise ToolFailed(
                f"there is no prompt {name[:_SHOWN_LENGTH]!r}", jsonrpc_code=INVALID_PARAMS
            )
        return self._pool.servers[found[0]], found[1]

    async def _wait_found(self, find: Callable[[], T | None], caller: "_Caller") -> T | None:
        while (found := find()) is None:
            if not await self._registry.wait_for_source(is_owed=caller.is_owed):
                return None
        return found


class _Caller(msgspec.Struct, frozen=True):
    """Who calls, and whether the call is owed its answer, however long servers take to start."""

    principal: Principal
    is_owed: bool


def _read_as(params: Params, kind: type[T]) -> T:
    try:
        return msgspec.convert(params, kind)
    except msgspec.ValidationError as error:
        raise ArgumentsInvalid(str(error), path="") from None
