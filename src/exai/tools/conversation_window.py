"""How much of a conversation a model is told again: its newest turns, whole and in order.

Knows no tokenizer, hence no exact count: `estimate_tokens` errs towards too many.
"""

import string
from collections.abc import Sequence

from exai.core.conversation_store import Turn
from exai.providers.provider import Message

_MESSAGE_TOKENS = 8  # what a chat template puts around each message
_LETTERS_PER_TOKEN = 3  # English has about four, program text three
_LETTERS = (string.ascii_letters + " ").encode()  # all else may be a token each, as digits are
_OTHER_BYTES_PER_TOKEN = 2  # UTF-8: a CJK character counts 1.5, an emoji 2
_ANSWER_SHARE = 4  # one part in so many of a model's context is left for its answer
_ANSWER_MAX_TOKENS = 8192


def estimate_tokens(text: str) -> int:
    """Estimate how many tokens a text has, in any language; rather too many than too few."""
    ascii_only = text.encode("ascii", "ignore")
    marks = len(ascii_only.translate(None, _LETTERS))
    letters = len(ascii_only) - marks
    other_bytes = len(text.encode("utf-8", "surrogatepass")) - len(ascii_only)
    return marks - (-letters // _LETTERS_PER_TOKEN) - (-other_bytes // _OTHER_BYTES_PER_TOKEN)


def history_budget(
    context_tokens: int, history_max_tokens: int, system_prompt: str | None, prompt: str
) -> int:
    """Return the estimated tokens left for earlier turns: 0 at least.

    A prompt that fills the context alone is not refused here: an estimate cannot tell,
    the service can.
    """
    answer_tokens = min(context_tokens // _ANSWER_SHARE, _ANSWER_MAX_TOKENS)
    told_anyway = sum(_message_tokens(text) for text in (system_prompt, prompt) if text)
    return max(0, min(history_max_tokens, context_tokens - answer_tokens - told_anyway))


def newest_turns(turns: Sequence[Turn], budget_tokens: int) -> tuple[Turn, ...]:
    """Return the longest row of whole turns up to the newest that fits, oldest first."""
    left_tokens = budget_tokens
    first = len(turns)
    while first > 0:
        left_tokens -= turn_tokens(turns[first - 1])
        if left_tokens < 0:
            break
        first -= 1
    return tuple(turns[first:])


def fewer_turns(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Return the newest of these turns that are at most a third as long, perhaps none."""
    return newest_turns(turns, sum(map(turn_tokens, turns)) // 3)


def turn_tokens(turn: Turn) -> int:
    """Estimate the tokens of a turn's two messages."""
    return _message_tokens(turn.prompt) + _message_tokens(turn.reply)


def messages_of(
    system_prompt: str | None, turns: Sequence[Turn], prompt: str
) -> tuple[Message, ...]:
    """Return what a model is told: the system prompt, the turns, the prompt."""
    opening = (Message("system", system_prompt),) if system_prompt else ()
    told = (
        message
        for turn in turns
        for message in (Message("user", turn.prompt), Message("assistant", turn.reply))
    )
    return (*opening, *told, Message("user", prompt))


def _message_tokens(text: str) -> int:
    return _MESSAGE_TOKENS + estimate_tokens(text)
