"""Conversations in memory: gone with the process, and the definition of the behaviour."""

from collections import OrderedDict, defaultdict, deque

from exai.core.conversation_store import (
    Conversation,
    ConversationBounds,
    ConversationStatistics,
    ConversationStore,
    Turn,
)

_Key = tuple[str, str]  # principal, conversation id


class MemoryConversationStore(ConversationStore):
    """`ConversationStore` over ordered dictionaries; its methods never wait.

    `_conversations` and each principal's are in the order of their last turns. They are
    `OrderedDict`s because a plain one takes long to find its first key once many before
    it are gone.
    """

    def __init__(self) -> None:
        self._conversations: OrderedDict[_Key, _Entry] = OrderedDict()
        self._by_principal: defaultdict[str, _Owned] = defaultdict(_Owned)
        self._text_bytes = 0

    async def begin(self, conversation: Conversation, bounds: ConversationBounds) -> None:
        """Keep a new conversation unless it is known."""
        key = (conversation.principal, conversation.conversation_id)
        if key in self._conversations:
            return
        entry = _Entry(conversation)
        self._conversations[key] = entry
        self._by_principal[conversation.principal].keys[key] = None
        self._count(key, entry.text_bytes)
        self._make_room(key, entry, bounds)

    async def append(
        self, principal: str, conversation_id: str, turn: Turn, bounds: ConversationBounds
    ) -> bool:
        """Add a turn unless its call added one before."""
        key = (principal, conversation_id)
        entry = self._conversations.get(key)
        if entry is None:
            return False
        if turn.call_id not in entry.call_ids:
            self._count(key, entry.add(turn))
            self._conversations.move_to_end(key)
            self._by_principal[principal].keys.move_to_end(key)
            self._make_room(key, entry, bounds)
        return True

    async def find(self, principal: str, conversation_id: str) -> Conversation | None:
        """Look it up by principal and id."""
        entry = self._conversations.get((principal, conversation_id))
        return None if entry is None else entry.as_conversation()

    async def expire(self, now: float, ttl_s: float) -> int:
        """Forget from the oldest on, up to the first that is young enough."""
        expired_count = 0
        while self._conversations:
            key, entry = next(iter(self._conversations.items()))
            if entry.turns[-1].at + ttl_s > now:
                break
            self._forget(key)
            expired_count += 1
        return expired_count

    def statistics(self) -> ConversationStatistics:
        """Return the numbers now."""
        return ConversationStatistics(len(self._conversations), self._text_bytes)

    def _make_room(self, key: _Key, entry: "_Entry", bounds: ConversationBounds) -> None:
        while entry.text_bytes > bounds.max_bytes and len(entry.turns) > 1:
            self._count(key, -entry.drop_oldest())
        owned = self._by_principal[key[0]]
        while len(owned.keys) > 1 and (
            len(owned.keys) > bounds.principal_max_count
            or owned.text_bytes > bounds.principal_max_bytes
        ):
            self._forget(next(iter(owned.keys)))

    def _forget(self, key: _Key) -> None:
        entry = self._conversations.pop(key)
        self._count(key, -entry.text_bytes)
        owned = self._by_principal[key[0]]
        del owned.keys[key]
        if not owned.keys:
            del self._by_principal[key[0]]

    def _count(self, key: _Key, text_bytes: int) -> None:
        self._text_bytes += text_bytes
        self._by_principal[key[0]].text_bytes += text_bytes


class _Owned:
    """What one principal has: its conversations' keys, and the size of their texts."""

    def __init__(self) -> None:
        self.keys: OrderedDict[_Key, None] = OrderedDict()
        self.text_bytes = 0


class _Entry:
    """One conversation while it can grow and shrink at its ends."""

    def __init__(self, conversation: Conversation) -> None:
        self._beginning = conversation
        self.turns = deque(conversation.turns)
        self.call_ids = {turn.call_id for turn in self.turns}
        self.text_bytes = _size_bytes(conversation.system_prompt or "", conversation.model or "")
        self.text_bytes += sum(map(_turn_bytes, self.turns))

    def add(self, turn: Turn) -> int:
        """Add a turn at the end; return its bytes."""
        self.turns.append(turn)
        self.call_ids.add(turn.call_id)
        added_bytes = _turn_bytes(turn)
        self.text_bytes += added_bytes
        return added_bytes

    def drop_oldest(self) -> int:
        """Drop the first turn; return its bytes."""
        turn = self.turns.popleft()
        self.call_ids.discard(turn.call_id)
        dropped_bytes = _turn_bytes(turn)
        self.text_bytes -= dropped_bytes
        return dropped_bytes

    def as_conversation(self) -> Conversation:
        """Return what is kept, as it is now."""
        begun = self._beginning
        return Conversation(
            begun.conversation_id,
            begun.principal,
            tuple(self.turns),
            begun.system_prompt,
            begun.model,
        )


def _turn_bytes(turn: Turn) -> int:
    return _size_bytes(turn.call_id, turn.prompt, turn.reply)


def _size_bytes(*texts: str) -> int:
    # Any text counts, half of a surrogate pair too, which strict UTF-8 refuses.
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
