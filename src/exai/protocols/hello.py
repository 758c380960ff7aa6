"""The opening of a session, as data: what a hello says, and the words of its answers.

Knows no sockets, no clock and no tokens; `connections` decides who is let in.
"""

from typing import Any, NamedTuple

import msgspec

from exai.core.errors import MalformedFrame
from exai.protocols import close_codes
from exai.protocols.close_codes import Close
from exai.protocols.strict_json import decode_object

PROTOCOL = "exai.v1"
_CLIENT_TEXT_LENGTH = 64


class ClientName(NamedTuple):
    """What a client calls itself: cut to 64 printable characters, trusted with nothing."""

    name: str
    version: str


class Resume(NamedTuple):
    """The session that a client wants back."""

    session_id: str
    resume_token: str


class Hello(NamedTuple):
    """A readable hello. `token` is None where the frame has none."""

    token: str | None
    acks: bool
    client: ClientName
    resume: Resume | None
    wants_resume: bool


class Refused(Exception):
    """This peer is not let in: `close` says why, `error` is the word of the frame before it."""

    def __init__(self, close: Close, error: str | None = None) -> None:
        super().__init__(close.reason)
        self.close = close
        self.error = error


class Limits(msgspec.Struct, frozen=True):
    """What `hello_ack` tells a client about this daemon."""

    max_message_bytes: int
    session_max_inflight: int
    call_timeout_s: float
    progress_interval_s: float
    result_ttl_s: float
    resume_window_s: float
    idempotency_ttl_s: float
    session_max_unacked: int


class ServerName(msgspec.Struct, frozen=True):
    """What the daemon calls itself; `instance` is another one after each start.

    `ledger` names where it keeps accepted calls; behind another name nothing is known of them.
    """

    name: str
    version: str
    instance: str = ""
    ledger: str = ""


class HelloAck(msgspec.Struct, frozen=True, tag_field="op", tag="hello_ack", omit_defaults=True):
    """The answer to a hello that was let in."""

    ok: bool
    protocol: str
    session_id: str
    resume_token: str
    resumed: bool
    durable: bool
    server: ServerName
    limits: Limits
    pending: list[str]
    resume_error: str | None = None


_encode = msgspec.json.Encoder().encode


def decode_hello(frame: bytes) -> Hello:
    """Read a connection's first frame; raises `Refused`.

    Only `op` and `token` can be wrong enough to refuse; the rest is read leniently,
    since it only says more about the client.
    """
    try:
        message = decode_object(frame)
    except MalformedFrame as error:
        raise Refused(close_codes.INVALID_HELLO, "invalid_hello") from error
    if message.get("op") != "hello":
        raise Refused(close_codes.MISSING_HELLO, "missing_hello")
    token = message.get("token")
    if token is not None and not isinstance(token, str):
        raise Refused(close_codes.UNAUTHORIZED, "unauthorized")
    return Hello(
        token=token,
        acks=message.get("acks") is True,
        client=_client_name(message.get("client")),
        resume=_resume(message.get("resume")),
        wants_resume=message.get("resume") is not None,
    )


def encode_hello_ack(ack: HelloAck) -> bytes:
    """Encode the answer to a hello that was let in."""
    return _encode(ack)


def encode_refusal(error: str) -> bytes:
    """Encode the frame that goes before the close of a refused hello."""
    return _encode({"op": "hello_ack", "ok": False, "error": error})


def _client_name(client: Any) -> ClientName:
    fields = client if isinstance(client, dict) else {}
    return ClientName(_printable(fields.get("name")), _printable(fields.get("version")))


def _printable(text: Any) -> str:
    if not isinstance(text, str):
        return ""
    return "".join(c for c in text if c.isprintable())[:_CLIENT_TEXT_LENGTH]


def _resume(resume: Any) -> Resume | None:
    match resume:
        case {"session_id": str(session_id), "resume_token": str(resume_token)}:
            return Resume(session_id, resume_token)
        case _:
            return None
