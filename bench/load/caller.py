"""One connection that makes calls, whatever it speaks."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple


class Call(NamedTuple):
    """A call to make; `request_id` is of one connection."""

    request_id: str
    tool: str
    text: str
    work_s: float
    timeout_s: float


class Answer(NamedTuple):
    """What a call brought: a text, or a code that says why there is none."""

    request_id: str
    text: str
    error_code: str = ""


class Caller(ABC):
    """A connection. `on_answer` hears of each call's one answer, `on_lost` of the end."""

    def __init__(self) -> None:
        self.on_answer: Callable[[Answer], None] = lambda answer: None
        self.on_lost: Callable[[], None] = lambda: None

    @abstractmethod
    async def open(self) -> None:
        """Connect and say who calls."""

    @abstractmethod
    def call(self, call: Call) -> None:
        """Make a call."""

    @abstractmethod
    async def close(self) -> None:
        """Say goodbye and disconnect."""


def arguments_json(call: Call) -> str:
    """Return a call's arguments; no text here needs escaping."""
    work = f',"work_s":{call.work_s}' if call.work_s else ""
    return f'{{"text":"{call.text}"{work}}}'
