"""What is looked at of a posted MCP message before the SDK reads it."""

from typing import Any

import msgspec

from exai.core.errors import MalformedFrame
from exai.core.message_ids import Id, usable_id
from exai.protocols.mcp_eras import IDEMPOTENCY_KEY
from exai.transports.mcp_dispatcher import CANCELLED

_MAX_NAME_LENGTH = 256
_NOTHING = msgspec.Raw()


class _Params(msgspec.Struct, frozen=True):
    name: msgspec.Raw = _NOTHING
    cancelled_id: msgspec.Raw = msgspec.field(name="requestId", default=_NOTHING)
    meta: msgspec.Raw = msgspec.field(name="_meta", default=_NOTHING)


class Posted(msgspec.Struct, frozen=True):
    """A message's head. Nothing is said of one that cannot be read: the SDK will refuse it."""

    given_id: msgspec.Raw = msgspec.field(name="id", default=_NOTHING)
    given_method: str | None = msgspec.field(name="method", default=None)
    params: _Params | None = None

    @property
    def is_request(self) -> bool:
        """Whether it is to be answered."""
        return self.given_id != _NOTHING and self.given_method is not None

    @property
    def id(self) -> Id | None:
        """Its id, None where that cannot be one: it is said again in all that answers it."""
        id_ = usable_id(_value_in(self.given_id))
        return None if id_ is None or len(str(id_)) > _MAX_NAME_LENGTH else id_

    @property
    def method(self) -> str:
        """Its method, as far as there can be one of this name."""
        return (self.given_method or "")[:_MAX_NAME_LENGTH]

    @property
    def tool(self) -> str | None:
        """Which tool is called, where one is, as far as there can be one of this name."""
        if self.method != "tools/call" or self.params is None:
            return None
        name = _value_in(self.params.name)
        return name[:_MAX_NAME_LENGTH] if isinstance(name, str) else None

    @property
    def cancels(self) -> Id | None:
        """The id of the request that is taken back, where one is."""
        if self.method != CANCELLED or self.params is None:
            return None
        return usable_id(_value_in(self.params.cancelled_id))

    @property
    def has_key(self) -> bool:
        """Whether it brings an idempotency key."""
        meta = None if self.params is None else _value_in(self.params.meta)
        return isinstance(meta, dict) and IDEMPOTENCY_KEY in meta


_decode = msgspec.json.Decoder(Posted).decode


def read_posted(body: bytes) -> Posted:
    """Read the head of a message. Raises `MalformedFrame` where it is no JSON."""
    try:
        return _decode(body)
    except msgspec.ValidationError:
        return Posted()
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedFrame(f"not valid JSON: {error}") from None


def _value_in(raw: msgspec.Raw) -> Any:
    """Return a value; None where there is none, or one that is out of range."""
    try:
        return msgspec.json.decode(raw)
    except msgspec.MsgspecError:
        return None
