"""One request on the client's side, from its frame to its answer."""

import asyncio
import re
from typing import Any

from exai.client.answers import CallResult, Frame, OnProgress, Progress, encode_frame, read_as
from exai.client.errors import ClientError, RequestTooLarge
from exai.client.link import Link
from exai.core.errors import ErrorCode, MalformedFrame
from exai.protocols.strict_json import check_limits

_REQUEST_ID = re.compile(r"[!-~]{1,128}")


class PendingRequest:
    """What was asked and has no answer yet. `link` is the connection that it was sent over."""

    def __init__(self, op: str, request_id: str, **fields: Any) -> None:
        self.request_id = request_id
        self.is_call = op == "call_tool"
        self.has_key = fields.get("idempotency_key") is not None
        self.encoded = encode_frame({"op": op, "request_id": request_id, **fields})
        self.link: Link | None = None
        self.is_accepted = False
        self.is_withdrawn = False
        self.inbox: asyncio.Queue[Frame | ClientError] = asyncio.Queue()

    def check(self, max_message_bytes: int | None) -> None:
        """Raise `ValueError` or `RequestTooLarge` for what no daemon would take."""
        if not _REQUEST_ID.fullmatch(self.request_id):
            raise ValueError(
                f"the request id {self.request_id!r} is not 1 to 128 ASCII characters without space"
            )
        if max_message_bytes is not None and len(self.encoded) > max_message_bytes:
            raise RequestTooLarge(
                f"the request has {len(self.encoded):,} bytes; the daemon takes "
                f"{max_message_bytes:,}"
            )
        try:
            check_limits(self.encoded)
        except MalformedFrame as error:
            raise RequestTooLarge(str(error)) from None

    async def next(self) -> Frame:
        """Wait for the next frame. Raises what ended the session."""
        heard = await self.inbox.get()
        if isinstance(heard, ClientError):
            raise heard
        return heard

    async def follow(self, on_progress: OnProgress | None) -> CallResult:
        """Read a call's frames up to the terminal one. Raises what ended the session."""
        while True:
            frame = await self.next()
            match frame.get("op"):
                case "progress" if on_progress:
                    on_progress(read_as(Progress, frame))
                case "call_tool_res":
                    accepted = self.is_accepted or "meta" in frame or _was_erased(frame)
                    return read_as(CallResult, {**frame, "frame": frame, "accepted": accepted})


def _was_erased(answer: Frame) -> bool:
    """Tell whether an answer says that there was one, which is erased: the call has run."""
    error = answer.get("error") or {}
    is_unknown = error.get("code") == ErrorCode.RESULT_UNKNOWN
    return is_unknown and "reason" in (error.get("details") or {})
