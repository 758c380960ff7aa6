"""A session: one identity's conversation with the daemon, which outlives its connections."""

import hmac

from exai.connections.outbox import Outbox
from exai.core.client_side import ClientSide
from exai.core.identity import Principal
from exai.core.peer import Peer
from exai.core.replies import Reply
from exai.core.session_store import SessionRecord, SessionStore
from exai.core.tokens import digest_of


class Session(Peer):
    """A peer that said hello. Of its resume token only a digest is kept.

    `outbox` is that of its connection, None while it has none. `idle_since` is when it lost
    its connection or, if that was later, was last seen with a call under way (monotonic);
    `is_owed` tells whether it was owed an answer when it lost its connection. It `is_kept`
    once it rests in `store`.
    """

    def __init__(
        self,
        session_id: str,
        resume_digest: bytes,
        principal: Principal,
        store: SessionStore,
        *,
        is_kept: bool = False,
    ) -> None:
        self.session_id = session_id
        self.principal = principal
        self.is_kept = is_kept
        self._resume_digest = resume_digest
        self._store = store
        self.acknowledges = False
        self.has_ended = False
        self.client: ClientSide | None = None
        self.comes_back = True
        self.outbox: Outbox | None = None
        self.idle_since = 0.0
        self.is_owed = True

    def belongs_to(self, principal: Principal, resume_token: str) -> bool:
        """Tell whether who asks for this session may have it; takes as long whoever asks."""
        is_right = hmac.compare_digest(self._resume_digest, digest_of(resume_token))
        return is_right and principal.name == self.principal.name

    async def keep(self) -> None:
        """Have the session known to later processes. Raises `ServiceUnavailable`."""
        await self._store.keep(
            SessionRecord(self.session_id, self.principal.name, self._resume_digest)
        )
        self.is_kept = True

    def send(self, reply: Reply) -> None:
        """Tell the peer, if it is there; what it is owed for good rests in the ledger."""
        if self.outbox is not None:
            self.outbox.put(reply)
