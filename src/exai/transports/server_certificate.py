"""The certificate that both ports show: read from files, and anew when these change.

A connection keeps the certificate that it began with. Files that cannot be used leave the
last good certificate in place, and are told of once. Knows nothing of sockets.
"""

import asyncio
import os
import ssl
from pathlib import Path
from typing import NoReturn

from exai.core.config import ServerConfig
from exai.core.events import CertificateLoaded, CertificateRefused, EventSink

_FAULTS = {
    "KEY_VALUES_MISMATCH": "the key is not that of the certificate",
    "EE_KEY_TOO_SMALL": "the key is too short to be safe",
}


class CertificateUnusable(Exception):
    """There is no certificate to serve with; the message names the file and the fault."""


class ServerCertificate:
    """A certificate chain and its key, in PEM; without `key` both are in one file."""

    def __init__(self, certificate: Path, key: Path | None, events: EventSink) -> None:
        self._certificate = certificate
        self._key = key or certificate
        self._events = events
        self._state: object = None
        self._latest: ssl.SSLContext | None = None
        # One context for the life of the ports; each handshake is handed on to the latest.
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.sni_callback = self._use_latest

    def load(self) -> None:
        """Read the files. Raises `CertificateUnusable`; what was read before stays in use."""
        self._state = self._state_of_files()
        self._latest = _context_of(self._certificate, self._key)

    async def watch(self, interval_s: float) -> None:
        """Read the files again whenever they have changed, and tell what came of it."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                if await asyncio.to_thread(self._load_if_changed):
                    self._events.emit(CertificateLoaded(str(self._certificate)))
            except CertificateUnusable as fault:
                self._events.emit(CertificateRefused(str(self._certificate), str(fault)))

    def _load_if_changed(self) -> bool:
        has_changed = self._state != self._state_of_files()
        if has_changed:
            self.load()
        return has_changed

    def _state_of_files(self) -> object:
        """Return what is different once a file was written, replaced or taken away."""
        return [_state_of(path) for path in (self._certificate, self._key)]

    def _use_latest(self, handshake: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        assert self._latest is not None
        handshake.context = self._latest


def certificate_of(server: ServerConfig, events: EventSink) -> ServerCertificate | None:
    """Return the configured certificate, if one is."""
    if server.tls_certificate is None:
        return None
    return ServerCertificate(server.tls_certificate, server.tls_key, events)


def _state_of(path: Path) -> object:
    try:
        status = path.stat()
    except OSError as error:
        return error.errno
    return status.st_mtime_ns, status.st_size, status.st_ino


def _context_of(certificate: Path, key: Path) -> ssl.SSLContext:
    for path in (certificate, key):
        _check_is_readable(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    def no_password() -> NoReturn:
        raise CertificateUnusable(f"{key}: the key is encrypted; the daemon asks for no password")

    try:
        context.load_cert_chain(certificate, key, no_password)
    except ssl.SSLError as error:
        fault = _FAULTS.get(error.reason, "no certificate and key in PEM format")
        files = certificate if key == certificate else f"{certificate} and {key}"
        raise CertificateUnusable(f"{files}: {fault}") from error
    except OSError as error:
        raise CertificateUnusable(f"{certificate}: cannot be read: {error.strerror}") from error
    return context


def _check_is_readable(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        raise CertificateUnusable(f"{path}: cannot be read: {error.strerror}") from error
