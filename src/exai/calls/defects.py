"""What happens to an exception that nobody expected: it is logged under an id, and told as such."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from exai.core.errors import ErrorCode, ErrorInfo
from exai.core.events import CallFailedInside, EventSink


class Defects:
    """Turns unexpected exceptions into events for us and an id for the peer."""

    def __init__(self, events: EventSink) -> None:
        self._events = events

    def report(self, where: str, exception: Exception, **details: Any) -> ErrorInfo:
        """Emit the exception with a fresh id; return the error that names this id alone."""
        error_id = secrets.token_hex(8)
        self._events.emit(CallFailedInside(error_id, where, exception))
        return ErrorInfo(
            code=ErrorCode.INTERNAL_ERROR,
            message=f"a defect in EXAI; its log has the details under {error_id}",
            retryable=False,
            details={"error_id": error_id, **details},
        )

    @contextmanager
    def contained(self, where: str) -> Iterator[None]:
        """Report an exception of the context, and go on: for work that owes nobody an answer."""
        try:
            yield
        except Exception as exception:  # noqa: BLE001 - part of the router's boundary
            self.report(where, exception)
