"""Asking a daemon over HTTP: that works when its WebSocket is full, and is quick.

Knows one question and every way in which it may stay unanswered; knows nothing of what the
answer means.
"""

import ssl
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import NamedTuple
from urllib.parse import urlsplit

from exai.cli.daemon_door import Door

_PATIENCE_S = 5.0
_MAX_ANSWER_BYTES = 16_777_216
_SENTENCE_LENGTH = 200


class NoAnswer(Exception):
    """The daemon does not say what it was asked; the message says who was, and what happened."""


class Answer(NamedTuple):
    """What came back, whatever it is."""

    status: int
    body: bytes

    def refusal(self, url: str) -> NoAnswer:
        """Return that this is no answer to the question."""
        sentence = self.body[:_SENTENCE_LENGTH].decode(errors="replace").strip()
        return NoAnswer(f"{url} answers with status {self.status}: {sentence}")


def http_connection(door: Door, patience_s: float = _PATIENCE_S) -> HTTPConnection:
    """Return a connection to this HTTP door, not yet open: no proxy is asked. Raises `NoDoor`."""
    url = urlsplit(door.url)
    host = url.hostname or ""
    if url.scheme == "http":
        return HTTPConnection(host, url.port, timeout=patience_s)
    context = door.tls_context() or ssl.create_default_context()
    return HTTPSConnection(host, url.port, timeout=patience_s, context=context)


def ask(door: Door, path: str, *, method: str = "GET", patience_s: float = _PATIENCE_S) -> Answer:
    """Return what is said at this path behind this HTTP door. Raises `NoAnswer`, and `NoDoor`."""
    connection = http_connection(door, patience_s)
    headers = {} if door.token is None else {"authorization": f"Bearer {door.token}"}
    try:
        connection.request(method, urlsplit(door.url).path.rstrip("/") + path, headers=headers)
        response = connection.getresponse()
        return Answer(response.status, response.read(_MAX_ANSWER_BYTES))
    except TimeoutError:
        raise NoAnswer(f"nobody answers at {door.url} within {patience_s:g} s") from None
    except OSError as error:
        raise NoAnswer(f"no daemon answers at {door.url}: {error.strerror or error}") from None
    except (HTTPException, ValueError) as error:
        raise NoAnswer(f"what listens at {door.url} does not speak HTTP: {error!r}") from None
    finally:
        connection.close()
