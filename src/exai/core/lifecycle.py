"""Lives inside lives: background work that ends with its context, and errors as they were."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager


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
