"""Importing what takes long: in a thread, and one thread at a time in the whole process.

Packages whose modules import each other in a circle, as the MCP SDK's do, come apart where two
threads begin at different ends.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

_importing = threading.RLock()


@contextmanager
def importing_alone() -> Iterator[None]:
    """Let no other thread import what takes long while the context is open."""
    with _importing:
        yield


async def import_in_thread(name: str) -> ModuleType:
    """Import a module without holding the event loop. Raises `ImportError`."""
    return await asyncio.to_thread(_import_alone, name)


def _import_alone(name: str) -> ModuleType:
    with importing_alone():
        return import_module(name)
