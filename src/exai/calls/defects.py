"""The one boundary where exceptions become outcomes.

What nobody expected is logged under an id, and told as a defect of that id.
"""

import asyncio
import secrets
from collections.abc import Awaitable
from typing import Any, TypeVar

from exai.core.errors import ErrorCode, ErrorInfo, ExaiError, ProviderFailed, ToolFailed
from exai.core.events import CallFailedInside, EventSink, Whose
from exai.core.outcomes import ExecutionFacts, Failed

T = TypeVar("T")

NOBODY = Whose()


class Defects:
    """Turns unexpected exceptions into events for us and an id for the peer."""

    def __init__(self, events: EventSink) -> None:
        self._events = events

    def report(
        self, where: str, exception: BaseException, whose: Whose, **details: Any
    ) -> ErrorInfo:
        """Emit the exception with a fresh id; return the error that names this id alone."""
        error_id = secrets.token_hex(8)
        self._events.emit(CallFailedInside(error_id, where, exception, *whose))
        return ErrorInfo(
            code=ErrorCode.INTERNAL_ERROR,
            message=f"a defect in EXAI; its log has the details under {error_id}",
            retryable=False,
            details={"error_id": error_id, **details},
        )

    async def outcome_of(self, work: Awaitable[T], where: str, whose: Whose) -> T | Failed:
        """Return what `work` returns, or its failure.

        A cancellation passes, but for one that comes out of the work by itself.
        """
        try:
            return await work
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return Failed(self.report(where, error, whose))
        except ProviderFailed as error:
            info = error.describe()
            return Failed(info, facts=ExecutionFacts(provider=(info.details or {}).get("provider")))
        except ToolFailed as error:
            return Failed(error.describe(), error.outputs, error.structured)
        except ExaiError as error:
            return Failed(error.describe())
        except Exception as error:  # noqa: BLE001 - the one boundary
            return Failed(self.report(where, error, whose))

    def contained(self, where: str, whose: Whose = NOBODY) -> "_Contained":
        """Report an exception of the context, and go on: its failure must keep back no answer."""
        return _Contained(self, where, whose)


class _Contained:
    """A context whose exceptions end in it. A class, since each call enters several."""

    __slots__ = ("_defects", "_where", "_whose")

    def __init__(self, defects: Defects, where: str, whose: Whose) -> None:
        self._defects = defects
        self._where = where
        self._whose = whose

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self._defects.report(self._where, error, self._whose)
        return True
