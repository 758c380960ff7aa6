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
    """A principal, its configured token, and what it was last replaced by, all as digests."""

    def __init__(self, principal: Principal, configured: bytes) -> None:
        self.principal = principal
        self.rotation = Rotation(principal.name, configured, configured, configured, 0.0)
        self._grace_deadline = float("-inf")

    def adopt(self, rotation: Rotation, clock: Clock) -> None:
        self.rotation = rotation
        self._grace_deadline = clock.monotonic_s() + rotation.previous_until - clock.wall_s()

    @property
    def is_rotated(self) -> bool:
        return self.rotation.current != self.rotation.configured

    @property
    def digests(self) -> tuple[bytes, bytes, bytes]:
        """Return those of every token that is or was its own, as far as is known."""
        return self.rotation.configured, self.rotation.current, self.rotation.previous

    def is_proved_by(self, given: bytes, now: float) -> bool:
        is_current = hmac.compare_digest(given, self.rotation.current)
        is_previous = hmac.compare_digest(given, self.rotation.previous)
        return is_current or (is_previous and now < self._grace_deadline)


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
            if holder is not None and holder.rotation.configured == rotation.configured:
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

    def principal_of(self, name: str) -> Principal | None:
        """Return the principal of a name, if there is one now."""
        if self._anyone is not None:
            return self._anyone if name == self._anyone.name else None
        holder = self._holders.get(name)
        return None if holder is None else holder.principal

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
            if holder is None or self._anyone or not principal.may_rotate:
                raise RotationRefused("unauthorized")
            given, wanted, held = digest_of(old), digest_of(new), holder.rotation
            if holder.is_rotated and (given, wanted) == (held.previous, held.current):
                return False
            if not hmac.compare_digest(given, held.current):
                raise RotationRefused("unauthorized")
            if not is_strong(new) or self._is_known(wanted):
                raise RotationRefused("weak_token")
            until = self._clock.wall_s() + grace_s
            rotation = Rotation(principal.name, held.configured, wanted, given, until)
            others = [h for h in self._holders.values() if h.is_rotated and h is not holder]
            await self._store.save([*(each.rotation for each in others), rotation])
            holder.adopt(rotation, self._clock)
            return True

    def _is_known(self, digest: bytes) -> bool:
        """Tell whether this was or is somebody's token."""
        return any(digest in holder.digests for holder in self._holders.values())
