"""What a client raises, and what each close of the daemon asks of a client."""

from exai.protocols import close_codes


class ClientError(Exception):
    """Root of what a client raises."""


class DaemonUnreachable(ClientError):
    """Nobody answers at this address, or it is no EXAI daemon."""


class HelloRefused(ClientError):
    """The daemon does not let us in; `code` is the close code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class ConnectionLost(ClientError):
    """The connection ended for good before the answer came."""


class AnswerLost(ConnectionLost):
    """The session is gone, and with it the answer.

    The call may have run; whether to repeat it is the caller's decision.
    """


class ProtocolBroken(ConnectionLost):
    """What answers does not speak `exai.v1`."""


class RequestRefused(ClientError):
    """The daemon refused a request that is no call; `code` is its error code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class RequestTooLarge(ClientError):
    """The request is longer than the daemon takes; it was not sent."""


UNAUTHORIZED = close_codes.UNAUTHORIZED.code
TAKEN_OVER = close_codes.SESSION_TAKEN_OVER.code
_ENDS_FOR_GOOD = {1000, 1002, 1003, 1007, 1009, 4000, 4001, UNAUTHORIZED, TAKEN_OVER}


def is_final(code: int) -> bool:
    """Tell whether a client that was closed with this code must not come back by itself."""
    return code in _ENDS_FOR_GOOD
