"""Who a token belongs to. Tokens are kept as digests only, and never leave this module."""

import hashlib
import hmac
from collections.abc import Iterable

from exai.core.config import Secret
from exai.core.identity import Principal


class AuthTokenManager:
    """Knows the principals by their tokens; without any, lets everybody in as `anyone`."""

    def __init__(
        self, principals: Iterable[tuple[Secret, Principal]], anyone: Principal | None
    ) -> None:
        self._known = [(_digest(token.reveal()), principal) for token, principal in principals]
        self._anyone = anyone

    @property
    def is_open(self) -> bool:
        """Tell whether no token is needed."""
        return self._anyone is not None

    def authenticate(self, token: str | None) -> Principal | None:
        """Return whose token it is; None: nobody's.

        Every known token is compared, each in constant time, so that the answer takes as
        long for a token that is nearly right.
        """
        if self._anyone is not None:
            return self._anyone
        if token is None:
            return None
        given = _digest(token)
        found = None
        for known, principal in self._known:
            if hmac.compare_digest(given, known):
                found = principal
        return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
