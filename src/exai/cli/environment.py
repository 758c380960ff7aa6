"""The variables that set a key of the configuration: each key has at most one name here.

A table, and what follows from it; it reads no environment.
"""

from collections.abc import Iterator, Mapping

from exai.cli.config_keys import KEYS, NAME, KeyPath, closest, did_you_mean

CONFIG_VARIABLE = "EXAI_CONFIG"
MCP_CONFIG_VARIABLE = "EXAI_MCP_CONFIG"
TOKEN_VARIABLE = "EXAI_WS_TOKEN"

_NAMED_BY_HAND: dict[str, KeyPath] = {
    "EXAI_AUTH": ("auth", "mode"),
    "EXAI_WS_HOST": ("server", "host"),
    "EXAI_WS_PORT": ("server", "port"),
    TOKEN_VARIABLE: ("principals", "default", "token"),
    "EXAI_WS_MAX_BYTES": ("server", "max_message_bytes"),
    "EXAI_WS_HELLO_TIMEOUT": ("server", "hello_timeout_s"),
    "EXAI_WS_PING_INTERVAL": ("server", "ping_interval_s"),
    "EXAI_WS_PING_TIMEOUT": ("server", "ping_timeout_s"),
    "EXAI_WS_CLOSE_TIMEOUT": ("server", "close_timeout_s"),
    "EXAI_WS_PROGRESS_INTERVAL_SECS": ("server", "progress_interval_s"),
    "EXAI_WS_SESSION_MAX_INFLIGHT": ("limits", "session_max_inflight"),
    "EXAI_WS_GLOBAL_MAX_INFLIGHT": ("limits", "global_max_inflight"),
    "EXAI_WS_KIMI_MAX_INFLIGHT": ("providers", "kimi", "max_inflight"),
    "EXAI_WS_GLM_MAX_INFLIGHT": ("providers", "glm", "max_inflight"),
    "EXAI_WS_RESULT_TTL": ("limits", "result_ttl_s"),
    "EXAI_HEALTH_WRITER_INTERVAL": ("server", "health_file_interval_s"),
    "SESSION_TIMEOUT_SECS": ("limits", "resume_window_s"),
    "SESSION_CLEANUP_INTERVAL": ("limits", "session_cleanup_interval_s"),
    "MAX_CONNECTIONS": ("server", "max_connections"),
    "MAX_CONNECTIONS_PER_IP": ("server", "max_connections_per_address"),
    "MOONSHOT_API_KEY": ("providers", "kimi", "api_key"),
    "KIMI_API_KEY": ("providers", "kimi", "api_key"),
    "KIMI_API_URL": ("providers", "kimi", "base_url"),
    "ZHIPUAI_API_KEY": ("providers", "glm", "api_key"),
    "GLM_API_KEY": ("providers", "glm", "api_key"),
    "GLM_API_URL": ("providers", "glm", "base_url"),
    "DEFAULT_MODEL": ("tools", "default_model"),
    "EXAI_WS_DISABLE_COALESCE_FOR_TOOLS": ("tools", "never_share"),
}
"""Names that clients and deployments know. Of two for one key the later wins."""


def _generated_name(path: KeyPath) -> str:
    return "_".join(("EXAI", *path)).upper()


VARIABLES: dict[str, KeyPath] = {
    **_NAMED_BY_HAND,
    **{
        _generated_name(path): path
        for path in KEYS
        if NAME not in path and path not in _NAMED_BY_HAND.values()
    },
}

NO_EFFECT: dict[str, str] = {
    "USE_PER_SESSION_SEMAPHORES": "the limit of every session always holds",
}
"""Variables that other deployments set, and why they do nothing here."""


def settings_in(environ: Mapping[str, str]) -> Iterator[tuple[str, KeyPath, str]]:
    """Yield name, key and text of each variable that sets something.

    An empty variable is one that is not set, save for the token: an empty token is a
    mistake that must not pass as none.
    """
    for name, path in VARIABLES.items():
        text = environ.get(name)
        if text or (text == "" and name == TOKEN_VARIABLE):
            yield name, path, text


def warnings_about(environ: Mapping[str, str]) -> Iterator[str]:
    """Say which variables look as if they were meant for the daemon but have no effect."""
    known = {*VARIABLES, *NO_EFFECT, CONFIG_VARIABLE, MCP_CONFIG_VARIABLE}
    for name in sorted(environ):
        if name in NO_EFFECT:
            yield f"{name} has no effect: {NO_EFFECT[name]}"
        elif name.startswith("EXAI_") and name not in known:
            yield f"{name} has no effect: no such variable{did_you_mean(_meant(name, known))}"


def _meant(name: str, known: set[str]) -> str | None:
    for variable, path in _NAMED_BY_HAND.items():
        if name == _generated_name(path):
            return variable
    return closest(name, known)
