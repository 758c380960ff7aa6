"""Asking a daemon how it fares, over HTTP: that works when its WebSocket is full, and is quick.

Knows one question and every way in which it may stay unanswered; knows nothing of what the
answer means.
"""

import ssl
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

import msgspec

from exai.cli.daemon_door import Door

_PATIENCE_S = 5.0
_MAX_REPORT_BYTES = 16_777_216
_SENTENCE_LENGTH = 200


class NoAnswer(Exception):
    """Nobody says how the daemon fares; the message says who was asked, and what happened."""


class HealthAnswer(msgspec.Struct, frozen=True):
    """What the daemon says to whoever holds this door's token."""

    report: dict[str, Any]

    @property
    def status(self) -> str:
        """`ok`, `starting` or `draining`."""
        return str(self.report["status"])

    @property
    def is_whole(self) -> bool:
        """Whether the daemon took the token; without one it tells its status alone."""
        return len(self.report) > 1


def http_connection(door: Door) -> HTTPConnection:
    """Return a connection to this HTTP door, not yet open: no proxy is asked. Raises `NoDoor`."""
    url = urlsplit(door.url)
    host = url.hostname or ""
    if url.scheme == "http":
        return HTTPConnection(host, url.port, timeout=_PATIENCE_S)
    context = door.tls_context() or ssl.create_default_context()
    return HTTPSConnection(host, url.port, timeout=_PATIENCE_S, context=context)


def ask_health(door: Door) -> HealthAnswer:
    """Return how the daemon at this HTTP door fares. Raises `NoAnswer`, and `NoDoor`."""
    connection = http_connection(door)
    headers = {} if door.token is None else {"authorization": f"Bearer {door.token}"}
    try:
        connection.request("GET", f"{urlsplit(door.url).path.rstrip('/')}/health", headers=headers)
        response = connection.getresponse()
        body = response.read(_MAX_REPORT_BYTES)
    except TimeoutError:
        raise NoAnswer(f"nobody answers at {door.url} within {_PATIENCE_S:g} s") from None
    except OSError as error:
        raise NoAnswer(f"no daemon answers at {door.url}: {error.strerror or error}") from None
    except (HTTPException, ValueError) as error:
        raise NoAnswer(f"what listens at {door.url} does not speak HTTP: {error!r}") from None
    finally:
        connection.close()
    return HealthAnswer(_report_in(response, body, door.url))


def _report_in(response: HTTPResponse, body: bytes, url: str) -> dict[str, Any]:
    if response.status != 200:
        sentence = body[:_SENTENCE_LENGTH].decode(errors="replace").strip()
        raise NoAnswer(f"{url} answers with status {response.status}: {sentence}")
    try:
        report = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.MsgspecError:
        report = {}
    if not isinstance(report.get("status"), str):
        raise NoAnswer(f"what listens at {url} is no EXAI daemon")
    return report
