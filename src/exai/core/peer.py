"""The contract of the other side, as the call path sees it: who it is, and how to tell it."""

from typing import Protocol

from exai.core.client_side import ClientSide
from exai.core.identity import Principal
from exai.core.replies import Reply


class Peer(Protocol):
    """A session, whatever carries it."""

    principal: Principal
    session_id: str
    acknowledges: bool
    """Whether the peer promises to acknowledge its results."""
    comes_back: bool
    """Whether it may come back, also to a later process, and ask for an answer by its request."""
    has_ended: bool
    """Whether the session is over: nothing of it begins any more."""

    client: ClientSide | None
    """How a tool may ask the program at the other end; None where that takes no questions."""

    is_kept: bool
    """Whether a later process will know the peer, where the store is durable."""

    async def keep(self) -> None:
        """Have the peer known to later processes. Raises `ServiceUnavailable`."""

    def send(self, reply: Reply) -> None:
        """Tell the peer, in order. Never waits and never raises; the peer may be gone."""
