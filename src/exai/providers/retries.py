"""Asking a service again, for as long as its caller has time.

What may be tried again is the failure's own word (`ProviderFailed.retryable`). One
deadline counts for all attempts and for the pauses between them.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable

import msgspec

from exai.core.errors import ErrorInfo, ProviderFailed
from exai.core.tool import ToolRun
from exai.providers.provider import ChatReply

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 8.0
_LEAST_LEFT_S = 1.0
"""With less time than this left after the pause, another attempt would only be cut off."""

Pause = Callable[[float], Awaitable[object]]


class RetryPolicy(msgspec.Struct, frozen=True):
    """How often a service is asked for one call."""

    max_attempts: int

    def pause_s(self, failure: ErrorInfo, attempts: int, left_s: float) -> float | None:
        """Return how long to wait after `attempts` attempts; None: give up.

        A random part of a span that doubles each time (full jitter), so that callers that
        failed together do not come back together; but no shorter than the service says.
        """
        if not failure.retryable or attempts >= self.max_attempts:
            return None
        span_s = min(_FIRST_PAUSE_S * 2 ** (attempts - 1), _LONGEST_PAUSE_S)
        pause_s = random.uniform(0, span_s)
        if failure.retry_after_s is not msgspec.UNSET:
            pause_s = max(pause_s, failure.retry_after_s)
        return pause_s if pause_s + _LEAST_LEFT_S <= left_s else None


async def ask_until_answered(
    ask: Callable[[], Awaitable[ChatReply]],
    run: ToolRun,
    policy: RetryPolicy,
    pause: Pause = asyncio.sleep,
) -> ChatReply:
    """Return the first whole reply, and in how many attempts it came.

    The call's permit stays held in a pause: a service that has too much to do is left in
    peace. Raises the last `ProviderFailed`, with `details.attempts` where there were
    several, and whatever else `ask` raises.
    """
    loop, attempts = asyncio.get_running_loop(), 1
    while True:
        try:
            reply = await ask()
        except ProviderFailed as error:
            failure = error.describe()
            pause_s = policy.pause_s(failure, attempts, run.deadline - loop.time())
            if pause_s is None and attempts == 1:
                raise
            if pause_s is None:
                raise _after(attempts, failure) from error
            run.report(f"{failure.message}; trying again in {pause_s:.1f} s", level="warning")
        else:
            return msgspec.structs.replace(reply, attempts=attempts)
        await pause(pause_s)
        attempts += 1
        run.begin_attempt()


def _after(attempts: int, failure: ErrorInfo) -> ProviderFailed:
    told = failure.retry_after_s
    return ProviderFailed(
        failure.message,
        retryable=failure.retryable,
        retry_after_s=None if told is msgspec.UNSET else told,
        **(failure.details or {}),
        attempts=attempts,
    )
