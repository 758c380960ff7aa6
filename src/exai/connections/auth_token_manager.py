"""Who a token belongs to. Tokens are kept as digests only, and never leave this module."""

import hashlib
import hmac
from collections.abc import Mapping

from exai.core.config import AuthConfig, PrincipalConfig
from exai.core.identity import Principal

_ANYONE = Principal("default", admin=True)


class AuthTokenManager:
    """Knows the principals by their tokens; with `auth = none` everybody is `default`."""

    def __init__(self, auth: AuthConfig, principals: Mapping[str, PrincipalConfig]) -> None:
        self._anyone = _ANYONE if auth.mode == "none" else None
        self._known = [
            (
                _digest(config.token.reveal()),
                Principal(name, config.tools, config.admin, config.may_rotate),
            )
            for name, config in principals.items()
        ]

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
