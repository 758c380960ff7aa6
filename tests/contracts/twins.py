"""The twins that keep the promises of every store. Another is one more line."""

from collections.abc import Callable
from pathlib import Path

from exai.core.call_store import SessionBounds
from exai.core.config import StoreConfig
from exai.stores.stores import Stores, memory_stores, stores_of

TWINS: dict[str, Callable[[Path], Stores]] = {
    "memory": lambda _: memory_stores(),
    "sqlite": lambda directory: stores_of(StoreConfig(kind="sqlite"), directory),
}

AMPLE = SessionBounds(10**9, 10**12, 10**9)
"""Room for all that a test keeps."""
