"""Why a WebSocket connection is closed: code, reason, and what the peer should do next."""

from typing import NamedTuple


class Close(NamedTuple):
    """A close code and its reason. `may_reconnect` is what a well-made client acts on."""

    code: int
    reason: str
    may_reconnect: bool


NORMAL = Close(1000, "bye", may_reconnect=False)
UNSUPPORTED_DATA = Close(1003, "text frames only", may_reconnect=False)
CONNECTION_LIMIT = Close(1008, "connection limit", may_reconnect=True)
DEFECT = Close(1011, "internal error", may_reconnect=True)
SERVICE_RESTART = Close(1012, "service restart", may_reconnect=True)
TRY_AGAIN_LATER = Close(1013, "try again later", may_reconnect=True)
INVALID_HELLO = Close(4000, "invalid hello", may_reconnect=False)
MISSING_HELLO = Close(4001, "missing hello", may_reconnect=False)
HELLO_TIMEOUT = Close(4002, "hello timeout", may_reconnect=True)
UNAUTHORIZED = Close(4003, "unauthorized", may_reconnect=False)
SLOW_CONSUMER = Close(4005, "slow consumer", may_reconnect=True)
