"""What must hold between the values of a configuration, key by key valid or not.

Pure functions of the tree: they find faults, and do not know how they are told.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

from exai.core.addresses import canonical_host, is_loopback
from exai.core.config import OPEN_ACCESS, Config, is_glob
from exai.core.http_syntax import is_http_url
from exai.core.tokens import TOKEN_MIN_LENGTH
from exai.core.tool import OWN_SOURCE, WIDEST_SHARE, is_wider

_PRINCIPAL_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_PROVIDER_NAME = re.compile(r"[a-z0-9-]{1,32}\Z")


def problems_of(config: Config, sources: Mapping[str, str]) -> Iterator[str]:
    """Say everything that keeps a daemon from starting with this configuration."""
    for check in (
        _tokens,
        _open_access,
        _principal_names,
        _providers,
        _models,
        _upstreams,
        _numbers,
        _networks,
        _certificate,
    ):
        yield from check(config, sources)


def warnings_of(config: Config) -> Iterator[str]:
    """Say what works, but may not be meant."""
    if config.auth.mode == "none":
        yield OPEN_ACCESS
        if config.principals:
            names = ", ".join(config.principals)
            yield f"auth.mode = none: nobody is asked for the token of {names}"


def _tokens(config: Config, sources: Mapping[str, str]) -> Iterator[str]:
    owners: dict[str, str] = {}
    for name, principal in config.principals.items():
        key, token = f"principals.{name}.token", principal.token.reveal()
        place = f"{sources[key]}: {key}"
        if len(token) < TOKEN_MIN_LENGTH:
            yield f"{place}: a token has at least {TOKEN_MIN_LENGTH} characters"
        if not token.isascii() or " " in token:
            yield f"{place}: a token has ASCII characters only, and no spaces"
        if token in owners:
            yield f"{place}: {owners[token]} has the same token; a token names one principal"
        owners[token] = name


def _open_access(config: Config, sources: Mapping[str, str]) -> Iterator[str]:
    if config.auth.mode == "none" and not is_loopback(canonical_host(config.server.host)):
        yield (
            f"auth.mode = none is refused for server.host = {config.server.host}: "
            "without tokens the daemon listens on this machine alone (127.0.0.1, ::1, localhost)"
        )


def _principal_names(config: Config, sources: Mapping[str, str]) -> Iterator[str]:
    for name in config.principals:
        if not _PRINCIPAL_NAME.match(name):
            yield f"the principal name {name!r} is not 1 to 64 of a-z, A-Z, 0-9, ., _ and -"


def _providers(config: Config, sources: Mapping[str, str]) -> Iterator[str]:
    for name, provider in config.providers.items():
        if not _PROVIDER_NAME.match(name):
            yield f"the provider name {name!r} is not 1 to 32 of a-z, 0-9 and -"
        if name == "local":
            yield "providers.local: the name belongs to the model on this machine; see [local]"
        if not is_http_url(provider.base_url):
            yield f"providers.{name}.base_url: expected an http:// or https:// address"


def _models(config: Config, sources: Mapping[str, str]) -> Iterator[str]:
    owners = {config.local.model_name: "local"}
    for name, provider in config.providers.items():
        for model in provider.models:
            if not is_glob(model) and (owner := owners.setdefault(model, name)) != name:
                yield f"providers.{name}.models: {model!r} belongs to {owner} already"
    default = config.tools.default_model
    if default not in (None, "auto") and not _is_served(default, config):
        yield f"tools.default_model: no provider serves {default!r}"


def _is_served(model: str, config: Config) -> bool:
    known = [config.local.model_name, *(m for p in config.providers.values() for m in p.models)]
    prefix = model.partition("/")[0]
    return any(fnmatchcase(model, one) for one in known) or prefix in {*config.providers, "local"}


def _upstreams(config: Config, sources: Mapping[str, str]) -> Iterator[str]:
    for name, upstream in config.upstreams.items():
        if name in config.providers or name == "local":
            yield f"the MCP server {name!r} has the name of a provider; give it another"
        if name == OWN_SOURCE:
            yield f"the MCP server {name!r} has the name of the daemon itself; give it another"
        widest = WIDEST_SHARE[upstream.instance]
        for tool, policy in upstream.tools.items():
            if is_wider(policy.get("share", "none"), widest):
                yield (
                    f"mcpServers.{name}.exai.tools.{tool}: with instance = {upstream.instance} "
                    f"results are shared at most with share = {widest}"
                )
            if policy.get("read_only") is False and policy.get("cache_ttl_s"):
                yield (
                    f"mcpServers.{name}.exai.tools.{tool}: a result that is served again "
                    "(cache_ttl_s) cannot be that of a tool with read_only = false"
                )
            if policy.get("share") == "none" and policy.get("cache_ttl_s"):
                yield (
                    f"mcpServers.{name}.exai.tools.{tool}: with share = none nobody is served "
                    "a result again (cache_ttl_s)"
                )


def _networks(config: Config, sources: Mapping[str, str]) -> Iterator[str]:
    for network in config.server.trusted_proxies:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            yield f"server.trusted_proxies: {network!r} is no address and no network (10.0.0.0/8)"


def _certificate(config: Config, sources: Mapping[str, str]) -> Iterator[str]:
    if config.server.tls_key and not config.server.tls_certificate:
        yield "server.tls_key is the key of no certificate: set server.tls_certificate as well"
    if config.server.tls_certificate and config.server.websocket_library == "picows":
        yield "server.websocket_library = picows serves without TLS only: take auto or websockets"


def _numbers(config: Config, sources: Mapping[str, str]) -> Iterator[str]:
    server, limits = config.server, config.limits
    if server.port and server.port == server.http_port:
        yield f"server.port and server.http_port are both {server.port}"
    if limits.session_max_waiting >= limits.global_max_waiting:
        yield (
            f"limits.session_max_waiting = {limits.session_max_waiting} is not less than "
            f"limits.global_max_waiting = {limits.global_max_waiting}: "
            "one session could shut out all others"
        )
    if limits.idempotency_ttl_s < limits.result_ttl_s:
        yield (
            f"limits.idempotency_ttl_s = {limits.idempotency_ttl_s:g} is less than "
            f"limits.result_ttl_s = {limits.result_ttl_s:g}: a key is to outlive its result"
        )
    talk = config.conversations
    if talk.max_bytes > talk.principal_max_bytes:
        yield (
            f"conversations.max_bytes = {talk.max_bytes} is more than "
            f"conversations.principal_max_bytes = {talk.principal_max_bytes}"
        )
