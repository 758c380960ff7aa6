"""The contract of conversations: turns of a principal with a model, stored once and raw.

What a model is told of them is the tool's concern. A conversation is known by its
principal and its id together, so another's looks like none to every method. Times are
unix seconds. The memory twin defines the behaviour.
"""

from abc import ABC, abstractmethod

import msgspec


class Turn(msgspec.Struct, frozen=True):
    """What was asked and what was answered, by the call that did. `at` is unix seconds."""

    call_id: str
    prompt: str
    reply: str
    at: float


class Conversation(msgspec.Struct, frozen=True):
    """All that is kept of one conversation, oldest turn first; it has one turn at least.

    `system_prompt` and `model` are those that it was begun with.
    """

    conversation_id: str
    principal: str
    turns: tuple[Turn, ...]
    system_prompt: str | None = None
    model: str | None = None


class ConversationBounds(msgspec.Struct, frozen=True):
    """How much is kept: bytes of one conversation; conversations and bytes of one principal.

    Bytes are those of all texts in UTF-8, ids of turns included. The newest turn is kept
    whatever its size, and so is the conversation that it belongs to.
    """

    max_bytes: int
    principal_max_count: int
    principal_max_bytes: int


class ConversationStatistics(msgspec.Struct, frozen=True):
    """How full the store is."""

    conversation_count: int
    text_bytes: int


class ConversationStore(ABC):
    """Where conversations rest. A turn is stored once, however often its call is run."""

    @abstractmethod
    async def begin(self, conversation: Conversation, bounds: ConversationBounds) -> None:
        """Keep a new conversation, unless its principal has one of this id.

        Makes room within the bounds: its own oldest turns, then the principal's
        conversation whose last turn was added longest ago.
        """

    @abstractmethod
    async def append(
        self, principal: str, conversation_id: str, turn: Turn, bounds: ConversationBounds
    ) -> bool:
        """Add a turn at the end, unless its call added one that is still there.

        Makes room as `begin` does. False: the principal has no such conversation.
        """

    @abstractmethod
    async def find(self, principal: str, conversation_id: str) -> Conversation | None:
        """Return a principal's conversation; another's looks like none."""

    @abstractmethod
    async def expire(self, now: float, ttl_s: float) -> int:
        """Forget conversations whose last turn is `ttl_s` old; return how many.

        Turns are added in the order of their times.
        """

    @abstractmethod
    def statistics(self) -> ConversationStatistics:
        """Return the numbers now."""
