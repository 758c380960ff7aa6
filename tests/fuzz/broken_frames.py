"""Frames of every op, and what a broken or hostile client makes of them.

A frame is drawn as a valid one and up to three mutations; `@…` stands for what is known only
when it is sent: `@id` is an id of its own, `@last` that of the frame before.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from random import Random

from hypothesis import strategies as st

Fields = list[tuple[str, str]]
"""Keys and values as JSON text, so that they can be doubled, misspelt and be no JSON at all."""
Mutation = Callable[[Fields], Fields] | Callable[[str], str]


def fields(op: str, **values: str) -> Fields:
    return [('"op"', f'"{op}"'), *((f'"{key}"', value) for key, value in values.items())]


def call(name: str, arguments: str = "{}", **values: str) -> Fields:
    return fields("call_tool", request_id='"@id"', name=f'"{name}"', arguments=arguments, **values)


EVERYTHING = {
    "timeout_s": "60.5",
    "cache": '"refresh"',
    "traceparent": '"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"',
}
HELLO = fields(
    "hello",
    token='"@token"',
    acks="true",
    client='{"name":"fuzz","version":"1"}',
    resume='{"session_id":"@session","resume_token":"@resume"}',
)
REQUESTS = [
    call("fast"),
    call("fast", '{"text":"x"}', **EVERYTHING),
    call("fast", idempotency_key='"@id"'),
    call("slow"),
    call("slow", timeout_s="0.001"),
    call("stubborn"),
    call("shared", '{"n":1}'),
    call("fail"),
    call("echo", '{"text":"x"}'),
    call("chat", '{"prompt":"x","temperature":1,"continuation_id":"c"}'),
    fields("call_tool", name='"echo_EXAI-WS"', arguments='{"text":"x"}'),
    fields("cancel_tool", request_id='"@last"', reason='"because"'),
    fields("cancel_tool", request_id='"@last"'),
    fields("get_result", request_id='"@last"'),
    fields("ack", request_ids='["@last","@id"]'),
    fields("ack", request_ids='["@none","@last","@last"]'),
    fields("list_tools", request_id='"@id"'),
    fields("health", request_id='"@id"'),
    fields(
        "rotate_token",
        request_id='"@id"',
        old='"@token"',
        new='"@id-is-the-new-token"',
        grace_s="60",
        revoke_sessions="false",
    ),
    HELLO,
    fields("bye"),
]
OPS = [
    "call_tool", "cancel_tool", "get_result", "ack", "list_tools", "health", "rotate_token",
    "bye", "hello", "hello_ack", "call_tool_ack", "call_tool_res", "progress", "error",
    "tools_changed", "going_away", "BYE", "health ", "health\\u0000", "dance",
]  # fmt: skip
NUMBERS = [
    "0", "-0", "-1", "1", "1.5", "1e3", "1e-3", "5e-324", "1e-400", "1e308", "1e999", "-1e999",
    "9223372036854775808", "-9223372036854775809", "18446744073709551616", "31536001",
    "9" * 400, "-" + "9" * 400, "0." + "3" * 500,
]  # fmt: skip
STRINGS = [
    "", " ", "r", "a b", "~" * 128, "~" * 129, "é", "\\n", "r\\n", "\\u0000", "\\ud83d\\ude00",
    "😀", "@id", "@id", "@last", "@last", "@none", "@token", "@id-is-the-new-token", "echo", "fast",
    "slow", "use", "off", "[" * 99, '\\"{', "x" * 5000,
]  # fmt: skip
STRUCTURES = [
    "[]", "{}", "[[]]", "[null]", '["@last"]', '["@id",7]', '["a b"]', '[""]', '{"text":"x"}',
    '{"text":7}', '{"text":"x","y":1}', '{"text":"x","text":7}', '{"prompt":"x"}', '{"a":1e999}',
    '{"session_id":"@session"}', '{"session_id":7,"resume_token":"@resume"}', '{"":{"":{}}}',
    "[" * 60 + "]" * 60, "[" * 63 + "]" * 63, '{"a":' * 60 + "1" + "}" * 60,
    "[" + "[]," * 99 + "[]]", '{"' + "k" * 20_000 + '":1}', '{"a b":{"op":"bye"}}',
]  # fmt: skip
MALFORMED = [
    "9" * 401, "-" + "1" * 401, "1" * 5000, "NaN", "Infinity", "-Infinity", "nan", "01", "+1", "1.",
    ".5", "0x10", "1e", "-", '"\\ud800"', '"\\udc00"', '"\\udc00\\ud800"', '"\\uZZZZ"', '"\\x"',
    '"\x01"', '"\n"', "True", "undefined", "'x'", '"open', "[1,]", "{1:2}", '{"a":1,}', "/**/1",
    '{"\\ud800":1}', "[" * 64 + "]" * 64, '{"a":' * 64 + "1" + "}" * 64, "[" * 2000 + "]" * 2000,
    "[" * 500, "[" + "0," * 100_001 + "0]", "",
]  # fmt: skip
WELL_FORMED = [
    *(f'"{op}"' for op in OPS),
    "null", "true", "false",
    *NUMBERS,
    *(f'"{string}"' for string in STRINGS),
    *STRUCTURES,
]  # fmt: skip
UNKNOWN_KEYS = [
    '""', '"op "', '"OP"', '"\\u0000"', '"é"', '"request_id\\u0000"', '"__proto__"',
    '"' + "k" * 3000 + '"', '"reason"', '"arguments"', '"request_id"', '"op"', '"token"',
]  # fmt: skip
BROKEN_KEYS = ["op", "7", '"\\ud800"', "null"]
JUNK = [
    "",
    "\ufeff",
    " ",
    "\t\r\n",
    "\x00",
    "x",
    "{}",
    "[]",
    ",",
    "null",
    '"',
    "\\",
    "}",
    "]",
    "\x7f",
]
FRACTIONS = [n / 16 for n in range(16)]


def drop(at: int, said: Fields) -> Fields:
    at %= len(said)
    return said[:at] + said[at + 1 :] if len(said) > 1 else said


def replace(at: int, value: str, said: Fields) -> Fields:
    at %= len(said)
    return [*said[:at], (said[at][0], value), *said[at + 1 :]]


def double_before(at: int, value: str, said: Fields) -> Fields:
    at %= len(said)
    return [*said[:at], (said[at][0], value), *said[at:]]


def double_after(at: int, value: str, said: Fields) -> Fields:
    return [*said, (said[at % len(said)][0], value)]


def rename(at: int, key: str, said: Fields) -> Fields:
    at %= len(said)
    return [*said[:at], (key, said[at][1]), *said[at + 1 :]]


def add(key: str, value: str, said: Fields) -> Fields:
    return [(key, value), *said]


def escape(at: int, said: Fields) -> Fields:
    at %= len(said)
    key, value = said[at]
    escaped = f'"\\u{ord(key[1]):04x}{key[2:]}' if key[:1] == '"' and key[1:2].isalpha() else key
    return [*said[:at], (escaped, value), *said[at + 1 :]]


def turn_round(said: Fields) -> Fields:
    return said[::-1]


def truncate(where: float, text: str) -> str:
    return text[: int(where * len(text))]


def insert(where: float, junk: str, text: str) -> str:
    at = int(where * len(text))
    return text[:at] + junk + text[at:]


def overwrite(where: float, junk: str, text: str) -> str:
    at = int(where * len(text))
    return text[:at] + junk + text[at + 1 :]


def wrap(around: tuple[str, str], text: str) -> str:
    return around[0] + text + around[1]


PLACES = range(7)


def _field_mutations() -> Iterator[Callable[[Fields], Fields]]:
    """Yield what leaves a frame well-formed."""
    for at, value in product(PLACES, WELL_FORMED):
        yield partial(replace, at, value)
        yield partial(double_before, at, value)
        yield partial(double_after, at, value)
    for _, at in product(range(30), PLACES):
        yield partial(drop, at)
        yield partial(escape, at)
        yield turn_round
    for at, key in product(PLACES, UNKNOWN_KEYS):
        yield partial(rename, at, key)
    for key, value in product(UNKNOWN_KEYS, WELL_FORMED):
        yield partial(add, key, value)
    for value in ("[" + "[]," * 20_000 + "[]]", '"' + "x" * 70_000 + '"'):
        yield partial(add, '"large"', value)


def _breakages() -> Iterator[Callable[[Fields], Fields]]:
    """Yield what makes a frame malformed."""
    for at, value in product(PLACES, MALFORMED):
        yield partial(replace, at, value)
    for value in MALFORMED:
        yield partial(add, '"unknown"', value)
    for at, key in product(PLACES, BROKEN_KEYS):
        yield partial(rename, at, key)


def _text_mutations() -> Iterator[Callable[[str], str]]:
    for where in FRACTIONS * 2:
        yield partial(truncate, where)
    for where, junk in product([*FRACTIONS, 1.0], JUNK):
        yield partial(insert, where, junk)
        yield partial(overwrite, where, junk)
    for around in [("[", "]"), ('{"a":', "}"), ('"', '"'), ("\ufeff", ""), ("", "\x00"), ("", "x")]:
        yield from [partial(wrap, around)] * 8


FIELD_MUTATIONS = list(_field_mutations())
BREAKAGES = list(_breakages())
TEXT_MUTATIONS = list(_text_mutations())


def render(said: Fields) -> str:
    return "{" + ",".join(f"{key}:{value}" for key, value in said) + "}"


RECIPES = ["f"] * 9 + ["ff"] * 5 + ["fff", "b", "b", "fb", "t", "t", "ft", "noise"]
"""`f` changes fields, `b` breaks one, `t` changes the text."""
NOISE = '{}[]":,\\0123456789eE+-.truefalsn \x00\x7fé😀\u2028\ufeff'


def broken_frame(random: Random, frames: list[Fields]) -> str:
    """Return one frame's text: one to three mutations of a valid one, or noise."""
    recipe = random.choice(RECIPES)
    if recipe == "noise":
        return "".join(random.choices(NOISE, k=random.randrange(40)))
    said = random.choice(frames)
    for _ in range(recipe.count("f")):
        said = random.choice(FIELD_MUTATIONS)(said)
    if "b" in recipe:
        said = random.choice(BREAKAGES)(said)
    text = render(said)
    return random.choice(TEXT_MUTATIONS)(text) if "t" in recipe else text


class Batch(list[str]):
    """Frames that are sent one after the other; a failure shows the beginning of each."""

    def __repr__(self) -> str:
        return "\n".join(text[:200] for text in self)


def batches(frames: list[Fields], size: int) -> st.SearchStrategy[Batch]:
    """Draw batches of so many broken frames, by their seed: frame by frame would take too long."""
    return st.randoms(use_true_random=True).map(
        lambda random: Batch(broken_frame(random, frames) for _ in range(size))
    )
