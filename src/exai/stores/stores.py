"""What the daemon remembers, together: calls, conversations, sessions; in memory or in SQLite."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from exai.core.call_store import CallStore
from exai.core.config import StoreConfig
from exai.core.conversation_store import ConversationStore
from exai.core.session_store import SessionStore
from exai.stores.memory_conversations import MemoryConversationStore
from exai.stores.memory_sessions import MemorySessionStore
from exai.stores.memory_store import MemoryCallStore
from exai.stores.sqlite_conversations import SqliteConversationStore
from exai.stores.sqlite_database import SqliteDatabase
from exai.stores.sqlite_file import open_database, rehearse_database
from exai.stores.sqlite_sessions import SqliteSessionStore
from exai.stores.sqlite_store import SqliteCallStore


class Stores:
    """The stores of one daemon; they may be used while this is open, as a context.

    `rehearse` raises what would keep this from opening, as far as that is soon known.
    """

    def __init__(
        self,
        calls: CallStore,
        conversations: ConversationStore,
        sessions: SessionStore,
        behind: AbstractAsyncContextManager[object] | None = None,
        rehearse: Callable[[], None] = lambda: None,
    ) -> None:
        self.calls = calls
        self.conversations = conversations
        self.sessions = sessions
        self._behind = behind or nullcontext()
        self.rehearse = rehearse

    async def __aenter__(self) -> Self:
        """Open what is behind them. Raises `DatabaseUnusable`."""
        await self._behind.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Carry out what waits, and close."""
        await self._behind.__aexit__(kind, error, traceback)


def stores_of(config: StoreConfig, state_dir: Path) -> Stores:
    """Return the stores that are configured; nothing is opened yet."""
    if config.kind == "memory":
        return memory_stores()
    database = SqliteDatabase(partial(open_database, state_dir, synchronous=config.synchronous))
    calls, conversations = SqliteCallStore(database), SqliteConversationStore(database)
    return Stores(
        calls,
        conversations,
        SqliteSessionStore(database),
        _loaded(database, calls, conversations),
        partial(rehearse_database, state_dir),
    )


@asynccontextmanager
async def _loaded(
    database: SqliteDatabase, calls: SqliteCallStore, conversations: SqliteConversationStore
) -> AsyncIterator[None]:
    async with database:
        await calls.load()
        await conversations.load()
        yield


def memory_stores() -> Stores:
    """Return stores that forget all when the process ends."""
    return Stores(MemoryCallStore(), MemoryConversationStore(), MemorySessionStore())
