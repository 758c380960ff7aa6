"""Why a WebSocket connection is closed: every code that the daemon says, with its reason."""

from typing import NamedTuple


class Close(NamedTuple):
    """A close code and its reason."""

    code: int
    reason: str


NORMAL = Close(1000, "bye")
UNSUPPORTED_DATA = Close(1003, "text frames only")
CONNECTION_LIMIT = Close(1008, "connection limit")
TOO_MANY_FAILED_HELLOS = Close(1008, "too many failed attempts")
DEFECT = Close(1011, "internal error")
SERVICE_RESTART = Close(1012, "service restart")
TRY_AGAIN_LATER = Close(1013, "try again later")
INVALID_HELLO = Close(4000, "invalid hello")
MISSING_HELLO = Close(4001, "missing hello")
HELLO_TIMEOUT = Close(4002, "hello timeout")
UNAUTHORIZED = Close(4003, "unauthorized")
SESSION_TAKEN_OVER = Close(4004, "session taken over")
SLOW_CONSUMER = Close(4005, "slow consumer")
