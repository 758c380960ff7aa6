"""The contract of what JSON-RPC messages travel on: a process's pipes, or HTTP.

Knows messages and whose they are; knows nothing of what MCP's methods mean.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec

from exai.core.errors import ResultTooLarge
from exai.upstream.line_splitter import Overlong

_encode = msgspec.json.Encoder().encode


class CarrierUnusable(Exception):
    """Nothing can travel this way, whatever the server does; `str()` says why."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A request (with an `id`) or a notification; `headers` are of use where there are some."""

    method: str
    params: dict[str, Any]
    id: int | None = None
    headers: Mapping[str, str] = {}

    def encode(self) -> bytes:
        """Return it as JSON."""
        envelope = {} if self.id is None else {"id": self.id}
        return _encode({"jsonrpc": "2.0", **envelope, "method": self.method, "params": self.params})


class Receiver(Protocol):
    """Who takes what a carrier brings."""

    async def take(self, line: bytearray | Overlong, owner: int | None = None) -> None:
        """Take a message. `owner` is the request that it came for, where that is known."""

    def fail(self, request_id: int, error: Exception) -> None:
        """End a request that has no answer yet."""

    def is_waiting(self, request_id: int) -> bool:
        """Tell whether a request has no answer yet."""


class Carrier(ABC):
    """The way to one server, for one of its lives.

    `pid` is its process's, where there is one. `has_ended` tells that nothing new can be
    sent; `requests_go_on` whether what was sent before may be answered all the same.
    """

    pid: int | None = None
    received_bytes: int = 0
    has_ended: bool = False
    requests_go_on: bool = False

    @abstractmethod
    async def run(self, receiver: Receiver) -> str:
        """Bring what the server sends, until its end; return how it ended."""

    @abstractmethod
    async def attend(self) -> None:
        """Do what is to be done beside, from the start until after `stop`."""

    @abstractmethod
    def carry(self, request: Message) -> AbstractAsyncContextManager[bool]:
        """Send a request, whose answer may come as long as the context is open.

        Entering waits until there is room, and tells whether the server may get it.
        """

    @abstractmethod
    def cancel(self, request_id: int) -> bool:
        """Tell the server that a request is of no use; return whether its end will be told."""

    @abstractmethod
    def notify(self, message: Message) -> None:
        """Send a notification; it is lost where the server has ended."""

    @abstractmethod
    async def write(self, answer: bytes) -> None:
        """Send an answer to a request of the server, once there is room."""

    @abstractmethod
    def write_nowait(self, answer: bytes) -> None:
        """Send a short answer; a server that takes none of them is given up."""

    @abstractmethod
    async def know_tools(self, tools: Sequence[dict[str, Any]]) -> None:
        """Take note of how the server describes its tools."""

    @abstractmethod
    async def stop(self) -> None:
        """End what has not ended by itself; bounded."""


def too_large(size: str, max_result_bytes: int) -> ResultTooLarge:
    """Return the failure of a request whose answer has a `size` that is too much."""
    return ResultTooLarge(
        f"the answer has {size}: too much for one result", max_bytes=max_result_bytes
    )
