"""Successes that may be served again to equal calls, for as long as their tools allow.

Bounded in entries and in bytes; what was used longest ago goes first. Never an error.
"""

from collections import OrderedDict

import msgspec

from exai.core.outcomes import Completed

_encode = msgspec.json.Encoder().encode


class CacheStatistics(msgspec.Struct, frozen=True):
    """How full the cache is."""

    entry_count: int
    size_bytes: int


class _Entry(msgspec.Struct, frozen=True):
    completed: Completed
    epoch: int
    expires_at: float
    size_bytes: int


class ResultCache:
    """Successes by call key. Times are monotonic."""

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._size_bytes = 0

    def find(self, key: bytes, epoch: int, now: float) -> Completed | None:
        """Return what was stored under `key`, unless it is too old or of another epoch."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now >= entry.expires_at or entry.epoch != epoch:
            self._forget(key)
            return None
        self._entries.move_to_end(key)
        return entry.completed

    def put(self, key: bytes, completed: Completed, epoch: int, expires_at: float) -> None:
        """Keep a success whose execution began in `epoch`; it replaces an earlier one."""
        self._forget(key)
        size_bytes = len(_encode(completed))
        if size_bytes > self._max_bytes:
            return
        self._entries[key] = _Entry(completed, epoch, expires_at, size_bytes)
        self._size_bytes += size_bytes
        while len(self._entries) > self._max_entries or self._size_bytes > self._max_bytes:
            self._forget(next(iter(self._entries)))

    def statistics(self) -> CacheStatistics:
        """Return the numbers now."""
        return CacheStatistics(len(self._entries), self._size_bytes)

    def _forget(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size_bytes -= entry.size_bytes
