"""Who a token belongs to. Tokens are kept as digests only, and never leave this module."""

import asyncio
import hmac
from collections.abc import Mapping

from exai.core.clock import Clock
from exai.core.config import AuthConfig, PrincipalConfig
from exai.core.identity import Principal
from exai.core.token_store import Rotation, TokenStore
from exai.core.tokens import digest_of, is_strong

_ANYONE = Principal("default", admin=True)


class RotationRefused(Exception):
    """A token cannot be replaced so; `word` is the protocol's word for why."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


class _Holder:
    """A principal and the digests that prove it. `previous_until` is monotonic."""

    def __init__(self, principal: Principal, configured: bytes) -> None:
        self.principal = principal
        self.configured = configured
        self.current = configured
        self.previous = configured
        self.previous_until = float("-inf")
        self.rotation: Rotation | None = None

    def adopt(self, rotation: Rotation, clock: Clock) -> None:
        self.rotation = rotation
        self.current, self.previous = rotation.current, rotation.previous
        left_s = rotation.previous_until - clock.wall_s()
        self.previous_until = clock.monotonic_s() + left_s

    def has_replaced(self, old: bytes, new: bytes) -> bool:
        if self.rotation is None:
            return False
        is_old = hmac.compare_digest(old, self.previous)
        return hmac.compare_digest(new, self.current) and is_old

    def is_proved_by(self, given: bytes, now: float) -> bool:
        is_current = hmac.compare_digest(given, self.current)
        is_previous = hmac.compare_digest(given, self.previous)
        return is_current or (is_previous and now < self.previous_until)


class AuthTokenManager:
    """Knows the principals by their tokens; with `auth = none` everybody is `default`."""

    def __init__(
        self,
        auth: AuthConfig,
        principals: Mapping[str, PrincipalConfig],
        store: TokenStore,
        clock: Clock,
    ) -> None:
        self._anyone = _ANYONE if auth.mode == "none" else None
        self._store = store
        self._clock = clock
        self._rotating = asyncio.Lock()
        self._holders = {
            name: _Holder(
                Principal(name, config.tools, config.admin, config.may_rotate),
                digest_of(config.token.reveal()),
            )
            for name, config in principals.items()
        }

    def load_rotations(self) -> None:
        """Take up what was rotated before; what the operator has changed since then is void.

        Raises `RotationsUnreadable`.
        """
        for rotation in self._store.load():
            holder = self._holders.get(rotation.principal)
            if holder is not None and hmac.compare_digest(holder.configured, rotation.configured):
                holder.adopt(rotation, self._clock)

    def authenticate(self, token: str | None) -> Principal | None:
        """Return whose token it is; None: nobody's.

        Every known token is compared, each in constant time, so that the answer takes as
        long for a token that is nearly right.
        """
        if self._anyone is not None:
            return self._anyone
        if token is None:
            return None
        given, now = digest_of(token), self._clock.monotonic_s()
        found = None
        for holder in self._holders.values():
            if holder.is_proved_by(given, now):
                found = holder.principal
        return found

    async def rotate(
        self, principal: Principal, old: str | None, new: str | None, grace_s: float
    ) -> bool:
        """Let `new` prove a principal from now on, and `old`, its present one, for `grace_s` more.

        It is stored before it holds. Returns False where it holds already: a client that
        never heard the answer asks again. Raises `RotationRefused`, and `OSError` where it
        cannot be stored.
        """
        if not old or not new:
            raise RotationRefused("missing_params")
        async with self._rotating:
            holder = self._holders.get(principal.name)
            if holder is not None and holder.has_replaced(digest_of(old), digest_of(new)):
                return False
            owner = None if self._anyone else self.authenticate(old)
            if holder is None or owner != holder.principal or not owner.may_rotate:
                raise RotationRefused("unauthorized")
            if not is_strong(new) or self._is_known(digest_of(new)):
                raise RotationRefused("weak_token")
            rotation = Rotation(
                principal.name,
                holder.configured,
                digest_of(new),
                digest_of(old),
                self._clock.wall_s() + grace_s,
            )
            others = [
                each.rotation
                for each in self._holders.values()
                if each.rotation is not None and each is not holder
            ]
            await self._store.save([*others, rotation])
            holder.adopt(rotation, self._clock)
            return True

    def _is_known(self, digest: bytes) -> bool:
        """Tell whether this was or is somebody's token."""
        return any(
            hmac.compare_digest(digest, known)
            for holder in self._holders.values()
            for known in (holder.configured, holder.current, holder.previous)
        )
