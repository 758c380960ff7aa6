"""What is kept for one session or principal, and how much room it takes."""

from collections import OrderedDict


class Holdings:
    """What is kept for one session or principal, oldest first: results by size, tombstones.

    `sent` are the results that their session was sent.
    """

    def __init__(self) -> None:
        # The oldest is popped often, which a plain dict makes slower the more it held.
        self.result_bytes: OrderedDict[str, int] = OrderedDict()
        self.tombstones: OrderedDict[str, None] = OrderedDict()
        self.total_bytes = 0
        self.sent: OrderedDict[str, None] = OrderedDict()
        self.sent_bytes = 0

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing is kept."""
        return not self.result_bytes and not self.tombstones

    @property
    def oldest_result(self) -> str:
        """Return whose result was kept first."""
        return next(iter(self.result_bytes))

    def add_result(self, call_id: str, size_bytes: int) -> None:
        """Keep a result."""
        self.result_bytes[call_id] = size_bytes
        self.total_bytes += size_bytes

    def mark_sent(self, call_id: str) -> None:
        """Let a result count as sent."""
        if call_id not in self.sent:
            self.sent[call_id] = None
            self.sent_bytes += self.result_bytes[call_id]

    def forget_sent(self) -> None:
        """Let no result count as sent."""
        self.sent.clear()
        self.sent_bytes = 0

    def forget(self, call_id: str) -> int:
        """Drop whatever there is of a call; return how many bytes its result had."""
        size_bytes = self.result_bytes.pop(call_id, 0)
        if self.sent.pop(call_id, size_bytes) is None:
            self.sent_bytes -= size_bytes
        self.total_bytes -= size_bytes
        self.tombstones.pop(call_id, None)
        return size_bytes
