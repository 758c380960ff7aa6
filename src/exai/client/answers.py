"""What a daemon's frames say, typed, for those who call."""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from exai.client.errors import ProtocolBroken

Frame = dict[str, Any]


class CallError(msgspec.Struct, frozen=True):
    """Why a call failed. Any code is taken: a newer daemon may know more of them."""

    code: str
    message: str
    retryable: bool = False
    retry_after_s: float | None = None
    details: dict[str, Any] = {}


class CallResult(msgspec.Struct, frozen=True):
    """A call's one answer. `accepted` tells a failure of the call from a refusal of it."""

    frame: Frame
    """The terminal frame as it came."""
    accepted: bool
    ok: bool
    text: str = ""
    outputs: list[dict[str, Any]] = []
    structured: dict[str, Any] | None = None
    error: CallError | None = None
    result_meta: dict[str, Any] | None = msgspec.field(default=None, name="_meta")
    input_required: dict[str, Any] | None = None


class Progress(msgspec.Struct, frozen=True):
    """What a running call says. `delta` is output text from `offset` of `attempt` on.

    Text may be told again from its beginning, after a reconnect. `log` is what an MCP server
    wrote to its client's log.
    """

    message: str | None = None
    level: str | None = None
    progress: float | None = None
    total: float | None = None
    delta: str | None = None
    offset: int = 0
    attempt: int = 1
    log: dict[str, Any] | None = None


OnProgress = Callable[[Progress], None]


def encode_frame(message: Frame) -> bytes:
    """Write one frame, without what is None."""
    return msgspec.json.encode(
        {name: value for name, value in message.items() if value is not None}
    )


def size_of(frame: Frame) -> int:
    """Return the bytes that a frame takes."""
    return len(msgspec.json.encode(frame))


def decode_frame(message: bytes) -> Frame:
    """Read one frame. Raises `ProtocolBroken`."""
    try:
        return msgspec.json.decode(message, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise ProtocolBroken("what answers is no EXAI daemon: it sends no JSON objects") from None


_T = TypeVar("_T", bound=msgspec.Struct)


def read_as(kind: type[_T], frame: Any) -> _T:
    """Read a frame as what it should be. Raises `ProtocolBroken`."""
    try:
        return msgspec.convert(frame, kind)
    except msgspec.ValidationError as error:
        raise ProtocolBroken(f"the daemon sent a frame that is none of exai.v1: {error}") from None
