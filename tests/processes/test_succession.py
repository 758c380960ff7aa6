"""What a process leaves to the program that replaces it."""

import os

import pytest

from exai.processes.succession import (
    NOTHING,
    Inheritance,
    NotInherited,
    duplicate,
    inheritance_in,
)


def test_the_variable_says_what_was_left_and_to_whom() -> None:
    one, other = os.pipe()
    left = Inheritance(websocket=one, lock=other)
    os.set_inheritable(one, True)
    assert left.text_for(7) == f"7:websocket={one},lock={other}"
    assert inheritance_in(left.text_for(7), 7) == left
    assert not os.get_inheritable(one)
    assert sorted(left.numbers()) == sorted((one, other))
    left.close()
    with pytest.raises(NotInherited, match="no open descriptor"):
        inheritance_in(left.text_for(7), 7)


def test_nothing_is_left_where_nothing_is_said() -> None:
    assert inheritance_in(None, 7) == NOTHING
    assert inheritance_in(NOTHING.text_for(7), 7) == NOTHING
    assert NOTHING.numbers() == []


@pytest.mark.parametrize(
    "text", ["", "8:lock=5", "7:lock", "7:lock=", "7:lock=-1", "7:lock=x", "7:door=5", "7:,"]
)
def test_what_was_not_left_to_us_is_not_taken(text: str) -> None:
    with pytest.raises(NotInherited):
        inheritance_in(text, 7)


def test_a_duplicate_outlives_its_original_and_no_standard_stream() -> None:
    one, other = os.pipe()
    copy = duplicate(other)
    os.close(other)
    os.write(copy, b"x")
    assert os.read(one, 1) == b"x"
    assert copy > 2
    assert not os.get_inheritable(copy)
    os.close(one)
    os.close(copy)
