"""WebSocket frames in any order, and what RFC 6455 and docs/protocol.md make of them."""

from typing import NamedTuple

from hypothesis import strategies as st

from exai.testing.raw_peer import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame

MUCH = b"x" * 500_000
"""More than a daemon of these tests reads of one message."""


class Piece(NamedTuple):
    """One frame."""

    opcode: int
    payload: bytes = b""
    fin: bool = True
    rsv: int = 0
    masked: bool = True
    announced_bytes: int | None = None

    def __repr__(self) -> str:
        return repr(self.encode()[:20])

    def encode(self) -> bytes:
        return frame(
            self.opcode,
            self.payload,
            fin=self.fin,
            rsv=self.rsv,
            masked=self.masked,
            announced_bytes=self.announced_bytes,
        )

    @property
    def is_control(self) -> bool:
        return self.opcode >= CLOSE


class Verdict(NamedTuple):
    """The text messages that are whole, and the codes that the connection may be closed with.

    Without a code it stays open; with one, some of the messages may be left unread.
    """

    messages: list[bytes]
    codes: set[int]


HEALTH = b'{"op":"health"}'
GOOD = [
    *[Piece(TEXT, HEALTH), Piece(PING), Piece(PING, b"x" * 125), Piece(PONG, b"unasked")] * 6,
    *[Piece(TEXT, HEALTH[:9], fin=False), Piece(CONTINUATION, HEALTH[9:])] * 8,
    *[Piece(CONTINUATION, b"", fin=False), Piece(TEXT, b"\xf0\x9f", fin=False)] * 2,
    *[Piece(TEXT), Piece(TEXT, b"x" * 126), Piece(TEXT, b" " * 70_000, fin=False)],
]  # fmt: skip
BAD = [
    *[Piece(opcode, b"x") for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)],
    *[Piece(TEXT, HEALTH, rsv=rsv) for rsv in range(1, 8)],
    *[Piece(CONTINUATION, b"x", rsv=rsv) for rsv in (1, 2, 4)],
    *[Piece(opcode, rsv=rsv) for opcode in (PING, PONG, CLOSE) for rsv in (1, 2, 4)],
    *[Piece(opcode, b"x", masked=False) for opcode in (TEXT, CONTINUATION, PING, PONG)],
    *[Piece(opcode, b"x", fin=False) for opcode in (PING, PONG, CLOSE)],
    *[Piece(opcode, b"x" * 126) for opcode in (PING, PONG, CLOSE)],
    Piece(PING, b"x" * 70_000),
    *[Piece(TEXT, MUCH, announced_bytes=announced) for announced in (2**40, 2**63 + 1)],
    *[Piece(BINARY, b"x"), Piece(BINARY), Piece(BINARY, b"x", fin=False)],
    *[Piece(TEXT, b"\xff"), Piece(TEXT, b"\xed\xa0\x80"), Piece(TEXT, b"\xff", fin=False)],
    *[Piece(CLOSE), Piece(CLOSE, b"\x03"), Piece(CLOSE, b"\x03\xe8"), Piece(CLOSE, b"\x0f\xa0ok")],
    *[Piece(CLOSE, code.to_bytes(2)) for code in (0, 999, 1004, 1005, 1006, 1015, 2000, 5000)],
    Piece(CLOSE, b"\x03\xe8\xff"),
]
PIECES = st.sampled_from([*GOOD, *GOOD, *BAD])
PROTOCOL_ERROR, NO_TEXT, NO_UTF_8, TOO_BIG = 1002, 1003, 1007, 1009
NOTHING = -1
MAY_BE_SENT = {1000, 1001, 1003, *range(1007, 1012), *range(3000, 5000)}


def judge(pieces: list[Piece]) -> Verdict:
    """Return what becomes of frames that are sent at once."""
    verdict, begun, message = Verdict([], set()), NOTHING, b""
    for n, piece in enumerate(pieces):
        if piece.announced_bytes is not None or _is_violation(piece, begun):
            verdict.codes.update(_codes_of_violation(piece))
        elif piece.opcode == CLOSE:
            verdict.codes.update(_codes_of_goodbye(piece.payload))
            if begun != NOTHING:  # allowed, but one of the libraries minds
                verdict.codes.add(PROTOCOL_ERROR)
        else:
            if not piece.is_control:
                begun = begun if piece.opcode == CONTINUATION else piece.opcode
                message += piece.payload
                _judge_data(piece, begun, message, verdict)
                if piece.fin:
                    begun, message = NOTHING, b""
            continue
        for later in pieces[n + 1 :]:  # which may have been looked at before
            verdict.codes.update(_codes_of_violation(later))
        break
    return verdict


def is_open(pieces: list[Piece]) -> bool:
    """Tell whether a message has begun and not ended."""
    data = [piece for piece in pieces if not piece.is_control]
    return bool(data) and not data[-1].fin


def _is_violation(piece: Piece, begun: int) -> bool:
    if piece.rsv or not piece.masked or piece.opcode not in (0, 1, 2, 8, 9, 10):
        return True
    if piece.is_control:
        return not piece.fin or len(piece.payload) > 125
    return (piece.opcode == CONTINUATION) != (begun != NOTHING)


def _codes_of_violation(piece: Piece) -> set[int]:
    if piece.announced_bytes is not None:
        return {TOO_BIG, PROTOCOL_ERROR}
    is_odd_goodbye = piece.opcode == CLOSE and b"\xff" in piece.payload[2:]
    return {PROTOCOL_ERROR, NO_UTF_8} if is_odd_goodbye else {PROTOCOL_ERROR}


def _judge_data(piece: Piece, begun: int, message: bytes, verdict: Verdict) -> None:
    """Judge a message with its newest piece; what is no text ends the reading of messages."""
    if begun == BINARY:
        if piece.fin:
            verdict.codes.add(NO_TEXT)
        return
    try:
        message.decode()
        is_text = True
    except UnicodeDecodeError as error:
        is_text = not piece.fin and error.reason == "unexpected end of data"
    if not is_text:
        verdict.codes.add(NO_UTF_8)
    elif piece.fin and not verdict.codes:
        verdict.messages.append(message)


def _codes_of_goodbye(payload: bytes) -> set[int]:
    if not payload:
        return {1000, 1005}
    code = int.from_bytes(payload[:2])
    if len(payload) == 1 or code not in MAY_BE_SENT:
        return {PROTOCOL_ERROR}
    return {PROTOCOL_ERROR, NO_UTF_8} if b"\xff" in payload[2:] else {code}
