"""A call of a client that means no good."""

import asyncio

from bench.chaos.journal import Frame
from bench.chaos.plan import CallPlan
from bench.chaos.record import CallHistory


class MeanCall:
    """A call under way. `heard` is set with each terminal frame.

    `asked_count` is how many of these are due: what was asked over a connection that was lost
    may be answered over the next.
    """

    def __init__(self, plan: CallPlan, history: CallHistory) -> None:
        self.asked_count = 0
        self.plan = plan
        self.history = history
        self.heard = asyncio.Event()
        self.back_at: float | None = None
        self.is_after_restart = False
        self.is_open = True
        """It is sent again where the daemon does not know of it."""


def same_by_key(plan: CallPlan) -> CallPlan:
    """Return the same request under another id."""
    return CallPlan(f"{plan.request_id}-again", *plan[1:7], key=plan.key, follows_key=True)


def fields_of(plan: CallPlan) -> Frame:
    """Return what is said of a call."""
    fields: Frame = {
        "request_id": plan.request_id,
        "name": plan.name,
        "arguments": plan.arguments,
    }
    return fields if plan.key is None else {**fields, "idempotency_key": plan.key}
