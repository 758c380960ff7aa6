"""Which connection speaks for a session: at most one, the newest.

From the step in which a newer connection takes over, the older one neither reads nor
writes any more: what of it is unread or unsent is discarded. Nothing is lost by that:
results rest in the ledger until their session has acknowledged them.
"""

from collections.abc import Callable

from exai.connections.outbox import Outbox
from exai.connections.session import Session
from exai.protocols import close_codes
from exai.protocols.hello import Hello

MakeOutbox = Callable[[Session, Hello], Outbox]


class ResilientWebSocketManager:
    """Attaches sessions to connections, each by its outbox, which lives as long as it."""

    def __init__(self, make_outbox: MakeOutbox) -> None:
        self._make_outbox = make_outbox

    def attach(self, session: Session, hello: Hello) -> Outbox:
        """Let the connection that said `hello` speak for the session; return its outbox."""
        if session.outbox is not None:
            session.outbox.abandon(close_codes.SESSION_TAKEN_OVER)
        outbox = self._make_outbox(session, hello)
        session.outbox, session.acknowledges = outbox, hello.acks
        return outbox

    def detach(self, session: Session, outbox: Outbox) -> bool:
        """Let a connection that has ended speak no more. False: a newer one speaks already."""
        if session.outbox is not outbox:
            return False
        session.outbox = None
        return True
