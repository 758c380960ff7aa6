"""A principal replaces its own token: checked, stored, told, and noted for the audit."""

import asyncio

from exai.connections.auth_token_manager import AuthTokenManager, RotationRefused
from exai.connections.session import Session
from exai.connections.session_handler import SessionHandler
from exai.core.errors import ServiceUnavailable
from exai.core.events import EventSink, TokenReplaced, TokenRotationFailed
from exai.core.replies import RequestRefused, TokenRotated
from exai.core.requests import RotateToken
from exai.protocols import close_codes


class TokenRotation:
    """Handles `rotate_token`. A connection's end does not stop a rotation half-way."""

    def __init__(
        self,
        tokens: AuthTokenManager,
        sessions: SessionHandler,
        tasks: asyncio.TaskGroup,
        events: EventSink,
    ) -> None:
        self._tokens = tokens
        self._sessions = sessions
        self._tasks = tasks
        self._events = events

    def begin(self, session: Session, request: RotateToken) -> None:
        """See to it that the token is replaced; the session is told. Never waits."""
        self._tasks.create_task(self._rotate(session, request))

    async def _rotate(self, session: Session, request: RotateToken) -> None:
        principal = session.principal
        try:
            is_new = await self._tokens.rotate(principal, request.old, request.new, request.grace_s)
        except RotationRefused as refused:
            self._events.emit(TokenRotationFailed(session.session_id, principal.name, refused.word))
            session.send(TokenRotated(request.request_id, error=refused.word))
            return
        except OSError as error:
            self._events.emit(TokenRotationFailed(session.session_id, principal.name, str(error)))
            unstored = ServiceUnavailable("the new token cannot be stored; the old one holds")
            session.send(RequestRefused(request.request_id, unstored.describe()))
            return
        if is_new:
            self._note(session, request)
        session.send(TokenRotated(request.request_id))

    def _note(self, session: Session, request: RotateToken) -> None:
        revoked_count = self._revoke_others(session) if request.revoke_sessions else 0
        self._events.emit(
            TokenReplaced(
                session.session_id, session.principal.name, request.grace_s, revoked_count
            )
        )

    def _revoke_others(self, session: Session) -> int:
        others = [
            each
            for each in self._sessions
            if each is not session and each.principal.name == session.principal.name
        ]
        for each in others:
            self._sessions.end(each, "revoked", close_codes.UNAUTHORIZED)
        return len(others)
