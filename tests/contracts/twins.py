"""The twins that keep the promises of every store. Another is one more line."""

from collections.abc import Callable
from pathlib import Path

from exai.core.config import StoreConfig
from exai.stores.stores import Stores, memory_stores, stores_of

TWINS: dict[str, Callable[[Path], Stores]] = {
    "memory": lambda _: memory_stores(),
    "sqlite": lambda directory: stores_of(StoreConfig(kind="sqlite"), directory),
}
