"""The contract of a channel: one open two-way stream of messages, whatever carries it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

MAX_FIRST_MESSAGE_BYTES = 65_536
"""How long a message may be before the peer has said who it is."""


class ChannelClosed(Exception):
    """The channel is closed, by either side or by the network. `code` is the close code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}".strip())
        self.code = code
        self.reason = reason


class Channel(ABC):
    """One connection's messages. One reader and one writer at a time."""

    remote_address: str
    """The peer's IP address in its canonical form, without port."""
    subprotocol: str | None
    bearer_token: str | None
    """From the upgrade's `Authorization: Bearer` header."""

    @abstractmethod
    async def receive(self) -> bytes:
        """Wait for the next text message and return its UTF-8 bytes.

        A binary message closes the channel with 1003, one over the limit with 1009.
        Raises `ChannelClosed`.
        """

    @abstractmethod
    def allow_large_messages(self) -> None:
        """Lift the limit of `MAX_FIRST_MESSAGE_BYTES`: the peer has said who it is.

        Until then little more than the first message is read; what follows it waits.
        """

    @abstractmethod
    async def send(self, message: bytes) -> None:
        """Send UTF-8 bytes as one text message; waits while the peer reads too slowly.

        Raises `ChannelClosed`.
        """

    @property
    @abstractmethod
    def is_ready(self) -> bool:
        """Tell whether the peer is there and reads as fast as it is written to."""

    @abstractmethod
    def send_at_once(self, messages: Sequence[bytes]) -> None:
        """Send UTF-8 bytes, each as one text message, together; only while `is_ready`."""

    @abstractmethod
    async def close(self, code: int, reason: str) -> None:
        """Say why and close; returns within the configured close time-out. Never raises."""

    @abstractmethod
    def abort(self) -> None:
        """Drop the connection at once, without a closing handshake."""
