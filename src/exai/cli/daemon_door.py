"""Where the daemon is, and the token that opens it, as seen by the commands that call it."""

import ssl
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from exai.cli.address_file import find_address, reachable
from exai.cli.config_file import DEFAULT, LoadedConfig
from exai.cli.environment import TOKEN_VARIABLE
from exai.cli.secret_references import SecretUnreadable
from exai.cli.state_token import find_state_token, token_path
from exai.core.addresses import canonical_host, is_loopback
from exai.core.http_syntax import is_http_url

_PortKey = Literal["port", "http_port"]
"""Which of the daemon's ports, by its key under `[server]`."""


class Door(msgspec.Struct, frozen=True):
    """A daemon's address, our token for it, and where that was found.

    `state_dir` is the state directory whose own token it is, None where it was configured.
    `certificate` is the file of the certificate that the daemon of this machine must show.
    """

    url: str
    token: str | None
    token_place: str
    state_dir: Path | None = None
    certificate: Path | None = None

    def tls_context(self) -> ssl.SSLContext | None:
        """Return what trusts that certificate and no other, whatever name it bears.

        None leaves the judgement to the system's authorities. Raises `NoDoor`.
        """
        if self.certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        try:
            context.load_verify_locations(cadata=_first_of(self.certificate.read_text()))
        except (OSError, ValueError) as error:
            raise NoDoor(
                f"{self.certificate} holds no certificate to know the daemon by"
            ) from error
        return context


class NoDoor(Exception):
    """It cannot be told which token to use; the message says what to do."""


def find_door(loaded: LoadedConfig, url: str | None, principal: str | None) -> Door:
    """Return the way to the daemon's WebSocket. Raises `NoDoor`."""
    if url is not None and not url.startswith(("ws://", "wss://")):
        raise NoDoor(f"--url: expected a ws:// or wss:// address, got {url!r}")
    return _find(loaded, url, principal, "port")


def find_http_door(loaded: LoadedConfig, url: str | None, principal: str | None) -> Door:
    """Return the way to the daemon's HTTP port. Raises `NoDoor`."""
    if url is not None and not is_http_url(url):
        raise NoDoor(f"--url: expected an http:// or https:// address, got {url!r}")
    return _find(loaded, url, principal, "http_port")


def _find(loaded: LoadedConfig, url: str | None, principal: str | None, port: _PortKey) -> Door:
    if url is not None:
        return _door_at(loaded, url, principal)
    url, certificate = _own_daemon(loaded, port)
    return msgspec.structs.replace(_door_at(loaded, url, principal), certificate=certificate)


def _door_at(loaded: LoadedConfig, url: str, principal: str | None) -> Door:
    name = principal or _only_principal(loaded)
    if name is not None:
        if name not in loaded.config.principals:
            raise NoDoor(f"no token is known here for the principal {name!r}")
        token = loaded.config.principals[name].token.reveal()
        return Door(url, token, loaded.source_of(f"principals.{name}.token"))
    return _door_of_state_dir(loaded, url)


def _only_principal(loaded: LoadedConfig) -> str | None:
    names = list(loaded.config.principals)
    if len(names) <= 1 or "default" in names:
        return "default" if "default" in names else next(iter(names), None)
    raise NoDoor(f"choose a principal with --as: {', '.join(names)}")


def _door_of_state_dir(loaded: LoadedConfig, url: str) -> Door:
    """The token that the daemon made here is shown to no other machine by accident."""
    place = token_path(loaded.config.state_dir)
    is_ours = is_loopback(canonical_host(urlsplit(url).hostname or ""))
    if not is_ours and loaded.source_of("state_dir") == DEFAULT:
        return Door(url, None, f"no token: set {TOKEN_VARIABLE}")
    try:
        token = find_state_token(loaded.config.state_dir)
    except SecretUnreadable as fault:
        raise NoDoor(str(fault)) from None
    if token is None:
        return Door(url, None, f"no token: none in {place}")
    return Door(url, token, str(place), loaded.config.state_dir)


def _own_daemon(loaded: LoadedConfig, port_key: _PortKey) -> tuple[str, Path | None]:
    """Return the address of this machine's daemon, and its certificate if it has one."""
    server = loaded.config.server
    port = server.port if port_key == "port" else server.http_port
    is_given = any(loaded.source_of(f"server.{key}") != DEFAULT for key in ("host", port_key))
    if not (is_given and port) and (address := find_address(loaded.config.state_dir)):
        left = address.websocket_url if port_key == "port" else address.http_url
        return left, address.certificate
    host = f"[{server.host}]" if ":" in server.host else server.host
    scheme = "ws" if port_key == "port" else "http"
    s = "s" if server.tls_certificate else ""
    return reachable(f"{scheme}{s}://{host}:{port}/"), server.tls_certificate


def _first_of(chain: str) -> str:
    """Return the daemon's own certificate: those behind it sign for many others."""
    own, end, _ = chain.partition("-----END CERTIFICATE-----")
    return own[own.find("-----BEGIN CERTIFICATE-----") :] + end
