"""What a model is told again: the newest turns, whole, in order, and never too much."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exai.core.conversation_store import Turn
from exai.providers.provider import Message
from exai.tools.conversation_window import (
    estimate_tokens,
    fewer_turns,
    history_budget,
    messages_of,
    newest_turns,
    turn_tokens,
)

TURNS = st.lists(st.builds(Turn, st.uuids().map(str), st.text(), st.text(), st.just(0.0)))


@given(TURNS, st.integers(0, 300))
def test_the_newest_whole_turns_that_fit_are_told(turns: list[Turn], budget_tokens: int) -> None:
    told = newest_turns(turns, budget_tokens)
    assert list(told) == turns[len(turns) - len(told) :]
    assert sum(map(turn_tokens, told)) <= budget_tokens
    if len(told) < len(turns):
        one_more = turns[len(turns) - len(told) - 1]
        assert sum(map(turn_tokens, told)) + turn_tokens(one_more) > budget_tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("abc", 1),
        ("abcd", 2),
        ("漢字", 3),
        ("🙂", 2),
        ("é", 1),
        ("2026", 4),
        ("{}", 2),
        ("a 1", 2),
    ],
)
def test_an_estimate_counts_what_each_script_costs(text: str, tokens: int) -> None:
    assert estimate_tokens(text) == tokens


@given(TURNS)
def test_fewer_turns_are_the_newest_and_a_third_at_most(turns: list[Turn]) -> None:
    fewer = fewer_turns(turns)
    assert list(fewer) == turns[len(turns) - len(fewer) :]
    assert len(fewer) < len(turns) or not turns
    assert 3 * sum(map(turn_tokens, fewer)) <= sum(map(turn_tokens, turns))


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.none() | st.text(), st.text())
def test_there_is_room_for_the_answer(
    context_tokens: int, most_tokens: int, system_prompt: str | None, prompt: str
) -> None:
    budget = history_budget(context_tokens, most_tokens, system_prompt, prompt)
    assert 0 <= budget <= min(most_tokens, context_tokens)
    said = estimate_tokens(prompt) + estimate_tokens(system_prompt or "")
    assert budget == 0 or budget + said + min(context_tokens // 4, 8192) <= context_tokens


def test_what_is_told_has_the_order_of_a_conversation() -> None:
    turns = [Turn("c1", "one", "uno", 0.0), Turn("c2", "two", "due", 1.0)]
    assert messages_of("Be brief.", turns, "three") == (
        Message("system", "Be brief."),
        Message("user", "one"),
        Message("assistant", "uno"),
        Message("user", "two"),
        Message("assistant", "due"),
        Message("user", "three"),
    )
    assert messages_of(None, [], "alone") == (Message("user", "alone"),)
