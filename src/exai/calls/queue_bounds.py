"""When waiting is refused at once: too much waits already, or the wait would be for nothing."""

from collections.abc import Mapping

from exai.calls.places import ScopeGate, SessionGate
from exai.calls.service_times import retry_after_s
from exai.core.config import LimitsConfig
from exai.core.errors import QueueFull

_MARGIN = 1.2


def check_room(
    limits: LimitsConfig,
    session: SessionGate,
    scope: ScopeGate,
    *,
    size_bytes: int,
    waiting_count: int,
) -> None:
    """Raise `QueueFull` where one more call of `session` may not wait.

    `waiting_count` is the daemon's. A session with nothing waiting always finds room.
    """
    if not session.waiting_count:
        return
    principal = session.principal
    for name, count, most in (
        ("session", session.waiting_count, limits.session_max_waiting),
        ("principal", principal.waiting_count, limits.principal_max_waiting),
        ("global", waiting_count, limits.global_max_waiting),
    ):
        if count >= most:
            whose = "" if name == "global" else f" of this {name}"
            raise QueueFull(
                f"{count} calls{whose} wait already; at most {most} may",
                scope=name,
                retry_after_s=retry_after_s(scope.turn_s(session)),
            )
    if principal.waiting_bytes + size_bytes > limits.principal_max_waiting_bytes:
        raise QueueFull(
            f"the waiting calls of this principal have {principal.waiting_bytes:,} bytes of "
            f"arguments; at most {limits.principal_max_waiting_bytes:,} may be",
            scope="principal",
            retry_after_s=retry_after_s(scope.turn_s(session)),
        )


def check_patience(waits_s: Mapping[str, float], service_s: float, patience_s: float) -> None:
    """Raise `QueueFull` where a call would probably not end in time.

    That is where the longest of the expected waits, by what is full, leaves less than its
    service takes. The longer a wait, the less exactly it can be foretold: hence the margin,
    without which a crowd would be let in whose every call comes to its turn just too late.
    """
    if not waits_s:
        return
    scope = max(waits_s, key=lambda name: waits_s[name])
    expected_s = _MARGIN * waits_s[scope] + service_s
    if expected_s > patience_s:
        raise QueueFull(
            f"{scope} is full: a wait of about {waits_s[scope]:.3g} s and work of about "
            f"{service_s:.3g} s would hardly end within the call's time-out of {patience_s:g} s",
            scope=scope,
            retry_after_s=retry_after_s(expected_s - patience_s),
        )
