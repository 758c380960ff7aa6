"""The one thread that works on the ledger's database, and how the event loop speaks to it.

Operations are carried out in the order in which they were given, reads among writes: who
asks sees whatever was asked for before, as in memory. A second connection for reads would
not see what is given but not yet committed, and would gain little: with `synchronous`
normal a commit hardly ever waits for the disk.

All operations that wait are one transaction: while it is committed the next ones gather,
so that many calls pay for one commit together. Nobody is told of what is not committed.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from exai.core.errors import ServiceUnavailable
from exai.stores.sqlite_log import SqliteLog

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]
"""Reads and writes within a transaction that others share; may be carried out again after
it was undone, so it changes nothing but the database.
"""

Undo = Callable[[], None]
"""Takes back what its caller did in memory, where the operation is not carried out."""

_MAX_WAITING = 10_000
_MAX_WAITING_BYTES = 67_108_864
_LOGGED_BYTES = 6000  # by an operation, about, beside what it says: a page or two


class SqliteDatabase:
    """Carries out operations in a thread of its own while it is open, as a context."""

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        *,
        max_waiting: int = _MAX_WAITING,
        max_waiting_bytes: int = _MAX_WAITING_BYTES,
    ) -> None:
        self._connect = connect
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting_count = 0
        self._waiting_bytes = 0
        self._orders: SimpleQueue[_Order[Any] | None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_open = False
        self.ledger_id = ""
        self._connection: sqlite3.Connection
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)

    async def __aenter__(self) -> Self:
        """Open the file and begin to work. Raises `DatabaseUnusable`."""
        self._connection = await asyncio.to_thread(self._connect)
        (self.ledger_id,) = self._connection.execute("SELECT ledger_id FROM identity").fetchone()
        self._loop = asyncio.get_running_loop()  # to ask costs a system call before Python 3.12
        self._is_open = True
        self._thread.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Carry out what waits, then close the file."""
        self._is_open = False
        self._orders.put(None)
        await asyncio.to_thread(self._thread.join)

    def submit(
        self, operation: Operation[T], size_bytes: int = 0, undo: Undo | None = None
    ) -> asyncio.Future[T]:
        """Have an operation carried out; the future has its answer once that is committed.

        It is carried out whoever waits for it, also when the future is cancelled.
        `size_bytes` is what waits with it. Raises `ServiceUnavailable` where too much waits;
        so does the future where the database fails. Where it is not carried out, `undo` is
        called before anybody is told of that, or of anything that was asked for later.
        """
        refusal = self._why_not(size_bytes)
        if refusal is not None:
            if undo is not None:
                undo()
            raise ServiceUnavailable(refusal)
        assert self._loop is not None
        order = _Order(operation, size_bytes, undo, self._loop.create_future())
        self._waiting_count += 1
        self._waiting_bytes += size_bytes
        self._orders.put(order)
        return order.future

    def _why_not(self, size_bytes: int) -> str | None:
        """Return why nothing of this size is taken now."""
        if not self._is_open:
            return "the ledger is closed"
        is_too_much = (
            self._waiting_count >= self._max_waiting
            or self._waiting_bytes + size_bytes > self._max_waiting_bytes
        )
        if self._waiting_count and is_too_much:
            return (
                f"the ledger cannot keep up: {self._waiting_count} operations of "
                f"{self._waiting_bytes:,} bytes wait"
            )
        return None

    def _work(self) -> None:
        """Be the thread: carry out and tell, until the end was ordered."""
        log = SqliteLog(self._connection)
        is_open = True
        while is_open:
            orders, is_open = self._next_orders()
            self._carry_out(orders)
            if orders:
                with suppress(RuntimeError):  # the loop has ended: nobody is left to be told
                    loop = orders[0].future.get_loop()
                    loop.call_soon_threadsafe(self._tell, orders)
                log.after_commit(sum(_LOGGED_BYTES + order.size_bytes for order in orders))
        log.close()
        self._connection.close()

    def _next_orders(self) -> tuple[list["_Order[Any]"], bool]:
        """Wait for orders and take them all; False: there will be no more."""
        orders: list[_Order[Any]] = []
        order = self._orders.get()
        while order is not None:
            orders.append(order)
            try:
                order = self._orders.get_nowait()
            except Empty:
                return orders, True
        return orders, False

    def _carry_out(self, orders: list["_Order[Any]"]) -> None:
        """Carry all out together; where that fails, each by itself, so that only some fail.

        So a disk that is full refuses what needs room, and does what makes some.
        """
        try:
            with _transaction(self._connection):
                for order in orders:
                    order.answer = order.operation(self._connection)
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            if len(orders) == 1:
                orders[0].error = _for_callers(error)
                return
            for order in orders:
                self._carry_out([order])

    def _tell(self, orders: list["_Order[Any]"]) -> None:
        """Give every operation's caller its answer, on the loop."""
        for order in orders:
            self._waiting_count -= 1
            self._waiting_bytes -= order.size_bytes
            if order.error is not None and order.undo is not None:
                order.undo()
            if order.future.done():
                continue  # cancelled
            if order.error is None:
                order.future.set_result(order.answer)
            else:
                order.future.set_exception(order.error)


class _Order(Generic[T]):
    """An operation, and what became of it."""

    __slots__ = ("answer", "error", "future", "operation", "size_bytes", "undo")

    def __init__(
        self,
        operation: Operation[T],
        size_bytes: int,
        undo: Undo | None,
        future: asyncio.Future[T],
    ) -> None:
        self.operation = operation
        self.size_bytes = size_bytes
        self.undo = undo
        self.future = future
        self.answer: T
        self.error: Exception | None = None


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite itself undoes it after some failures
            connection.execute("ROLLBACK")
        raise


def _for_callers(error: Exception) -> Exception:
    if not isinstance(error, sqlite3.Error):
        return error
    told = ServiceUnavailable(f"the ledger is out of order: {error}")
    told.__cause__ = error
    return told
