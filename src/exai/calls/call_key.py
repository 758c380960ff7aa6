"""Which calls are the same work: the call key, and the epoch that work belongs to."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import lru_cache

from exai.calls.call import Call
from exai.core.tool import Demand, ToolSpec


def call_key(
    call: Call, spec: ToolSpec, demand: Demand, never_share: Sequence[str]
) -> bytes | None:
    """Return what equal calls have in common, within whom their tool's policy lets share.

    None: this call's work is its own. The key is a SHA-256 over length-prefixed parts.
    """
    peer, share = call.peer, spec.policy.share
    if call.request.cache == "off" or share == "none" or demand.conversation is not None:
        return None
    if never_share and any(fnmatchcase(spec.name, pattern) for pattern in never_share):
        return None
    if share == "all":
        within = ""
    else:
        within = peer.principal.name if share == "principal" else peer.session_id
    prefix = _length_prefixed(spec.name, spec.version, share, within)
    return hashlib.sha256(prefix + call.work_digest).digest()


@lru_cache(maxsize=4096)  # calls of one tool by one caller come in rows
def _length_prefixed(*parts: str) -> bytes:
    encoded = (part.encode() for part in parts)
    return b"".join(len(part).to_bytes(8, "big") + part for part in encoded)


class Epochs:
    """Counts what has changed behind the tools, by who serves them: read your own writes.

    An execution of a tool that is not read-only begins an epoch when it starts and another
    when it has really ended. Work of an older epoch is neither joined nor served again.
    """

    def __init__(self) -> None:
        self._epochs: defaultdict[str, int] = defaultdict(int)

    def of(self, spec: ToolSpec) -> int:
        """Return the present epoch of whoever serves the tool."""
        return self._epochs[spec.provider]

    def advance(self, spec: ToolSpec) -> int:
        """Begin an epoch, if the tool may change something; return the present one."""
        if not spec.policy.read_only:
            self._epochs[spec.provider] += 1
        return self._epochs[spec.provider]
