"""Results that the daemon is asked to keep: whoever calls again under their key gets them again.

A daemon erases what is acknowledged, and takes no calls of a session that acknowledges too
little; so the oldest are let go. Knows no connection.
"""

from collections import OrderedDict


class KeptResults:
    """The requests whose results are not acknowledged yet, oldest first, within bounds."""

    def __init__(self, max_count: int, max_bytes: int = 8_388_608) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._size_bytes = 0
        self._sizes: OrderedDict[str, int] = OrderedDict()

    def has(self, request_id: str) -> bool:
        """Tell whether a result is kept."""
        return request_id in self._sizes

    def add(self, request_id: str, size_bytes: int) -> list[str]:
        """Keep a result; return the requests that are to be acknowledged instead."""
        self._sizes[request_id] = size_bytes
        self._size_bytes += size_bytes
        released = []
        while len(self._sizes) > self._max_count or self._size_bytes > self._max_bytes:
            oldest, size = self._sizes.popitem(last=False)
            self._size_bytes -= size
            released.append(oldest)
        return released

    def clear(self) -> None:
        """Forget all: the session that knew of them is gone."""
        self._sizes.clear()
        self._size_bytes = 0
