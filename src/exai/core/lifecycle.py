"""Lives inside lives: background work that ends with its context, and errors as they were."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self, TypeVar

T = TypeVar("T")


class PatientTaskGroup(asyncio.TaskGroup):
    """A task group that takes no offence at a task that comes while it ends: it never begins.

    What is closed after the group's end has begun still says what it has to say, and finds
    that nobody does the work any more.
    """

    _has_begun = False

    async def __aenter__(self) -> Self:
        self._has_begun = True
        return await super().__aenter__()

    def create_task(self, coro: Coroutine[Any, Any, T], **options: Any) -> asyncio.Task[T]:  # type: ignore[override]
        """Start a task; return one that is cancelled where it is too late for it."""
        try:
            return super().create_task(coro, **options)
        except RuntimeError:
            if not self._has_begun:
                raise
            coro.close()
            late: asyncio.Task[Any] = asyncio.get_running_loop().create_task(asyncio.sleep(0))
            late.cancel()
            return late


@asynccontextmanager
async def running(*background: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Run coroutines beside the context; whichever fails ends it, and its end ends them."""
    async with asyncio.TaskGroup() as tasks:
        started = [tasks.create_task(coroutine) for coroutine in background]
        yield
        for task in started:
            task.cancel()


@contextmanager
def lone_cause() -> Iterator[None]:
    """Let an exception that task groups have wrapped out as itself, if it is the only one."""
    try:
        yield
    except BaseExceptionGroup as group:
        cause: BaseException = group
        while isinstance(cause, BaseExceptionGroup) and len(cause.exceptions) == 1:
            cause = cause.exceptions[0]
        raise cause from None
