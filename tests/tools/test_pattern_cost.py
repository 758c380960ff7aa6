"""The size of a regular expression's automaton, estimated without building it."""

import pytest

from exai.tools.pattern_cost import build_states, match_states


@pytest.mark.parametrize(
    ("pattern", "states"),
    [
        ("", 0),
        ("abc", 3),
        (r"\.\{x{3}", 5),
        ("[a-z0-9]", 1),
        (r"[]a\]]b", 2),
        ("a{7}", 7),
        ("a{2,7}b", 8),
        ("a{3,}", 3),
        ("(ab){10}", 20),
        ("((a{10}){10}){10}", 1000),
        ("(a|b)*c", 5),
        ("(unclosed{4}", 11),
    ],
)
def test_states_are_counted(pattern: str, states: int) -> None:
    assert match_states(pattern) == pytest.approx(states, abs=2)


def test_classes_of_many_characters_cost_more_to_build_than_to_match() -> None:
    assert match_states(r"\w\d\s") == 3
    assert build_states(r"\w\d\s") == 90
    assert build_states(r"\p{L}[\pN_]{10}") > 5000


def test_repetition_of_repetition_is_bounded_and_quick() -> None:
    assert match_states("(" * 500 + "a" + "{999}){999}" * 500) == 1_000_000
