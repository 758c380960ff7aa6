"""Which requests are let in: the guard against web pages, rebound names and lost clients.

Knows header values and the configuration; knows nothing of sockets, libraries or frames.
Both ports of the daemon ask here, so that neither is the easier way in.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from exai.core.addresses import canonical_host, is_loopback
from exai.core.config import ServerConfig

EXAI_SUBPROTOCOL = "exai.v1"
MCP_SUBPROTOCOL = "mcp"
_SUBPROTOCOLS = (EXAI_SUBPROTOCOL, MCP_SUBPROTOCOL)
Headers = Sequence[tuple[str, str]]
MayEnter = Callable[[str | None], bool]


class Refusal(NamedTuple):
    """Why a request is not let in: an HTTP status and one sentence for whoever sent it."""

    status: int
    sentence: str
    headers: Headers = ()


class Upgrade(NamedTuple):
    """What a request to speak WebSocket agreed on and brought along."""

    subprotocol: str | None
    bearer_token: str | None
    forwarded_for: tuple[str, ...] = ()


WRONG_HOST = Refusal(421, "This daemon does not answer to that Host; see server.allowed_hosts.\n")
WRONG_ORIGIN = Refusal(403, "Pages of that Origin may not connect; see server.allowed_origins.\n")
WRONG_PATH = Refusal(404, "There is nothing here; the WebSocket endpoint is at /.\n")
NO_WEBSOCKET = Refusal(
    426,
    "This port speaks WebSocket; an ordinary request belongs to the HTTP port.\n",
    (("Upgrade", "websocket"),),
)
WRONG_VERSION = Refusal(
    426, "This port speaks version 13 of WebSocket.\n", (("Sec-WebSocket-Version", "13"),)
)
WRONG_SUBPROTOCOL = Refusal(
    400, f"The subprotocol here is {EXAI_SUBPROTOCOL}, {MCP_SUBPROTOCOL}, or none.\n"
)
UNAUTHORIZED = Refusal(
    401,
    f"{MCP_SUBPROTOCOL} needs an Authorization: Bearer header with a valid token.\n",
    (("WWW-Authenticate", "Bearer"),),
)
SHUTTING_DOWN = Refusal(503, "The daemon is shutting down.\n")


class OriginRules:
    """Judges `Host` and `Origin`, by which a browser tells whose page it obeys."""

    def __init__(self, config: ServerConfig) -> None:
        own = (*config.allowed_hosts, config.host)
        self._hosts = {canonical_host(host) for host in own} - {"", "0.0.0.0", "::"}
        self._origins = {_canonical_origin(origin) for origin in config.allowed_origins} - {
            "",
            "null",
        }

    def judge(self, headers: Headers) -> Refusal | None:
        """Return why a request with these headers is refused, or None."""
        hosts = values_of(headers, "host")
        host = canonical_host(hosts[0]) if len(hosts) == 1 else ""
        if not is_loopback(host) and host not in self._hosts:
            return WRONG_HOST
        for origin in values_of(headers, "origin"):
            if _canonical_origin(origin) not in self._origins:
                return WRONG_ORIGIN
        return None


def nobody_may_enter(bearer_token: str | None) -> bool:
    """Judge as a daemon without tokens that is not open: every token is wrong."""
    return False


class UpgradeRules:
    """Judges requests to the WebSocket port.

    `may_enter` judges a bearer token, or its absence, where a protocol has no other place for it.
    """

    def __init__(self, config: ServerConfig, may_enter: MayEnter = nobody_may_enter) -> None:
        self._origins = OriginRules(config)
        self._may_enter = may_enter

    def judge(self, path: str, headers: Headers) -> Upgrade | Refusal:
        """Return what was agreed on, or why the request is refused. The query is never read."""
        refusal = self._origins.judge(headers)
        if refusal is not None:
            return refusal
        if path.partition("?")[0] != "/":
            return WRONG_PATH
        if "websocket" not in _listed(headers, "upgrade"):
            return NO_WEBSOCKET
        if values_of(headers, "sec-websocket-version") != ["13"]:
            return WRONG_VERSION
        offered = _listed(headers, "sec-websocket-protocol")
        agreed = next((each for each in _SUBPROTOCOLS if each in offered), None)
        if offered and agreed is None:
            return WRONG_SUBPROTOCOL
        bearer_token = bearer_token_of(headers)
        if agreed == MCP_SUBPROTOCOL and not self._may_enter(bearer_token):
            return UNAUTHORIZED
        return Upgrade(
            agreed,
            bearer_token,
            forwarded_for_of(headers),
        )


def bearer_token_of(headers: Headers) -> str | None:
    """Return the token of `Authorization: Bearer …`; with two such headers there is none."""
    given = values_of(headers, "authorization")
    if len(given) != 1:
        return None
    scheme, _, token = given[0].partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def forwarded_for_of(headers: Headers) -> tuple[str, ...]:
    """Return whom proxies say that they speak for, the nearest last."""
    return tuple(_listed(headers, "x-forwarded-for"))


def values_of(headers: Headers, name: str) -> list[str]:
    """Return every value of a header, in order; `name` is lower-case."""
    return [value for key, value in headers if key.lower() == name]


def _listed(headers: Headers, name: str) -> list[str]:
    elements = (
        element.strip() for value in values_of(headers, name) for element in value.split(",")
    )
    # Names of protocols are told apart by case, except for that of WebSocket itself.
    return [element.lower() if name == "upgrade" else element for element in elements if element]


def _canonical_origin(origin: str) -> str:
    return origin.strip().lower().removesuffix("/")
