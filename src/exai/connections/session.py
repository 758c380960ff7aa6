"""A session: one identity's conversation with the daemon, and what it is owed."""

from collections.abc import Callable

from exai.connections.outbox import Outbox
from exai.core.identity import Principal
from exai.core.peer import Peer
from exai.core.replies import Reply
from exai.protocols.hello import ClientName


class Session(Peer):
    """A peer that said hello. `encode` writes replies in the session's protocol."""

    def __init__(
        self,
        session_id: str,
        principal: Principal,
        client: ClientName,
        outbox: Outbox,
        encode: Callable[[Reply], bytes],
    ) -> None:
        self._session_id = session_id
        self._principal = principal
        self.client = client
        self.outbox = outbox
        self._encode = encode

    @property
    def session_id(self) -> str:
        """The session's public name."""
        return self._session_id

    @property
    def principal(self) -> Principal:
        """Whose session it is."""
        return self._principal

    def send(self, reply: Reply) -> None:
        """Owe the peer this reply; dropped once the session has ended."""
        self.outbox.put(self._encode(reply))
