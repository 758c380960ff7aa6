"""The configuration as one frozen tree; each room is handed its own section.

Knows names, units and defaults; knows nothing of files, environment or command line
(`cli.config_file` reads those, once). Every key has a line in `docs/configuration.md`.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
"""0 lets the system choose."""
Count = Annotated[int, msgspec.Meta(ge=0)]
PositiveCount = Annotated[int, msgspec.Meta(ge=1)]
MAX_SECONDS = 31_536_000
"""At most a year: timers of the event loop know no infinity."""
Seconds = Annotated[float, msgspec.Meta(ge=0, le=MAX_SECONDS)]
PositiveSeconds = Annotated[float, msgspec.Meta(gt=0, le=MAX_SECONDS)]


class Secret:
    """A text that never shows: not in `repr`, not in a log, not in `exai config`."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text, for the one place that must send or compare it."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Root of all sections."""


class ServerConfig(Section, frozen=True, kw_only=True):
    """Where the daemon listens, and how a connection is kept."""

    host: str = "127.0.0.1"
    port: Port = 8079
    http_port: Port = 8082
    websocket_library: Literal["auto", "picows", "websockets"] = "auto"
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_reload_interval_s: PositiveSeconds = 10.0
    max_message_bytes: PositiveCount = 33_554_432
    hello_timeout_s: PositiveSeconds = 15.0
    ping_interval_s: PositiveSeconds = 20.0
    ping_timeout_s: PositiveSeconds = 20.0
    close_timeout_s: PositiveSeconds = 5.0
    progress_interval_s: PositiveSeconds = 8.0
    max_connections: PositiveCount = 1000
    max_connections_per_address: Count = 0
    outbox_bytes: PositiveCount = 33_554_432
    slow_consumer_s: PositiveSeconds = 60.0
    drain_s: Seconds = 30.0
    ready_wait_s: Seconds = 10.0
    health_file_interval_s: PositiveSeconds = 10.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class RatesConfig(Section, frozen=True, kw_only=True):
    """How many messages may come, each second and at once; a rate of 0 is none."""

    principal_per_s: Count = 1000
    principal_burst: PositiveCount = 2000
    address_per_s: Count = 0
    address_burst: PositiveCount = 2000
    daemon_per_s: Count = 0
    daemon_burst: PositiveCount = 10_000
    failed_hellos_per_minute: Count = 20


class AuthConfig(Section, frozen=True, kw_only=True):
    """How a peer proves who it is."""

    mode: Literal["token", "none"] = "token"


OPEN_ACCESS = "auth.mode = none: every program on this machine may call every tool"
"""What is said wherever people look at a daemon that asks for no token."""


class PrincipalConfig(Section, frozen=True, kw_only=True):
    """A named identity and its token."""

    token: Secret
    tools: tuple[str, ...] = ("*",)
    admin: bool = False
    may_rotate: bool = False
    max_connections: Count = 0


class LimitsConfig(Section, frozen=True, kw_only=True):
    """How much may run, wait and be kept."""

    global_max_inflight: PositiveCount = 24
    session_max_inflight: PositiveCount = 8
    session_max_waiting: PositiveCount = 64
    global_max_waiting: PositiveCount = 1024
    principal_max_waiting: PositiveCount = 512
    principal_max_waiting_bytes: PositiveCount = 67_108_864
    call_timeout_s: PositiveSeconds = 180.0
    cancel_grace_s: Seconds = 2.0
    result_ttl_s: PositiveSeconds = 600.0
    resume_window_s: PositiveSeconds = 600.0
    session_cleanup_interval_s: PositiveSeconds = 10.0
    principal_max_detached_sessions: PositiveCount = 200
    mcp_max_sessions: PositiveCount = 1000
    mcp_session_idle_s: PositiveSeconds = 1800.0
    mcp_max_requests: PositiveCount = 1000
    mcp_max_listeners: PositiveCount = 64
    max_result_bytes: PositiveCount = 16_777_216
    session_max_subscriptions: PositiveCount = 256
    session_max_unacked: PositiveCount = 1000
    session_max_unacked_bytes: PositiveCount = 33_554_432
    session_max_remembered: PositiveCount = 10_000
    idempotency_ttl_s: PositiveSeconds = 86_400.0
    principal_max_idempotency_keys: PositiveCount = 10_000
    principal_max_kept_bytes: PositiveCount = 134_217_728
    principal_max_result_bytes: PositiveCount = 1_073_741_824
    result_cache_entries: PositiveCount = 10_000
    result_cache_bytes: PositiveCount = 67_108_864


class StoreConfig(Section, frozen=True, kw_only=True):
    """Where accepted calls, sessions and conversations rest.

    `synchronous` matters where the machine itself loses power (`stores.sqlite_file`).
    """

    kind: Literal["sqlite", "memory"] = "sqlite"
    synchronous: Literal["normal", "full"] = "normal"


class ToolsConfig(Section, frozen=True, kw_only=True):
    """Built-in tools."""

    default_model: str | None = None
    never_share: tuple[str, ...] = ()
    """Names, or globs of names, of tools whose every call is executed."""


class ConversationsConfig(Section, frozen=True, kw_only=True):
    """How much is kept of what was said to models, and how much of it they are told again.

    `history_max_tokens` bounds what one call sends of earlier turns.
    """

    ttl_s: PositiveSeconds = 604_800.0
    history_max_tokens: PositiveCount = 32_000
    max_bytes: PositiveCount = 16_777_216
    principal_max_count: PositiveCount = 1000
    principal_max_bytes: PositiveCount = 134_217_728


class ProviderConfig(Section, frozen=True, kw_only=True):
    """An OpenAI-compatible LLM service.

    `models` are the names, or globs of names, that lead to it; the first plain name is
    its default. With `key_required` and no key the provider is listed as not configured.
    """

    base_url: str
    api_key: Secret | None = None
    key_required: bool = False
    models: tuple[str, ...] = ()
    max_inflight: PositiveCount = 4
    idle_timeout_s: PositiveSeconds = 60.0
    max_attempts: PositiveCount = 4
    context_tokens: PositiveCount = 65_536


def is_glob(name: str) -> bool:
    """Tell whether what stands in a list of names, or globs of names, means many of them."""
    return any(c in name for c in "*?[")


KNOWN_PROVIDERS = {
    "kimi": ProviderConfig(
        base_url="https://api.moonshot.ai/v1",
        key_required=True,
        models=("kimi-k2-turbo-preview", "kimi-*", "moonshot-*"),
        max_inflight=6,
    ),
    "glm": ProviderConfig(
        base_url="https://api.z.ai/api/paas/v4",
        key_required=True,
        models=("glm-4.6", "glm-*"),
        max_inflight=4,
    ),
}
"""Providers that need only a key to work."""


class LocalModelConfig(Section, frozen=True, kw_only=True):
    """The small model that runs on this machine."""

    enabled: bool = True
    model_path: Path | None = None
    model_name: str = "smollm2-135m"
    threads: PositiveCount = 1
    context_tokens: PositiveCount = 4096
    max_inflight: PositiveCount = 1
    start_timeout_s: PositiveSeconds = 30.0


class UpstreamConfig(Section, frozen=True, kw_only=True):
    """An MCP server behind the daemon: started over stdio, or reached by HTTP.

    Either `command` or `url` is set. `instance` says who shares a process, or an HTTP session,
    of it; one that is not shared by all stops when nobody used it for `idle_stop_s` (0: never),
    and there are at most `max_instances`.
    `prefix` stands before the names of its tools and prompts, by default `NAME__`.
    """

    command: str | None = None
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    cwd: Path | None = None
    url: str | None = None
    headers: dict[str, str] = {}
    disabled: bool = False
    instance: Literal["shared", "principal", "session"] = "shared"
    idle_stop_s: Seconds = 300.0
    max_instances: PositiveCount = 32
    prefix: str | None = None
    allow: tuple[str, ...] = ("*",)
    deny: tuple[str, ...] = ()
    """Names, or globs of names, of its tools as the server calls them."""
    max_inflight: PositiveCount = 8
    timeout_s: PositiveSeconds | None = None
    start_timeout_s: PositiveSeconds = 60.0
    trust_annotations: bool = True
    tools: dict[str, dict[str, Any]] = {}
    """Per tool: `share`, `cache_ttl_s`, `idempotent`, `read_only`, over its annotations; and
    `name`, under which it is offered."""


class Config(Section, frozen=True, kw_only=True):
    """The whole tree."""

    state_dir: Path
    server: ServerConfig = ServerConfig()
    auth: AuthConfig = AuthConfig()
    limits: LimitsConfig = LimitsConfig()
    rates: RatesConfig = RatesConfig()
    store: StoreConfig = StoreConfig()
    tools: ToolsConfig = ToolsConfig()
    conversations: ConversationsConfig = ConversationsConfig()
    local: LocalModelConfig = LocalModelConfig()
    principals: dict[str, PrincipalConfig] = {}
    providers: dict[str, ProviderConfig] = msgspec.field(default_factory=KNOWN_PROVIDERS.copy)
    upstreams: dict[str, UpstreamConfig] = {}
