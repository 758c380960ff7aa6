"""What reaches a terminal."""

import pytest

from exai.core.foreign_text import escaped


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain täxt 漢字\ta\nb", "plain täxt 漢字\ta\nb"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b2J", "\\x9b2J"),
        ("a\rb\x08\x07\x00\x7f", "a\\rb\\x08\\x07\\x00\\x7f"),
        ("\u202eevil", "\\u202eevil"),
    ],
)
def test_what_steers_a_terminal_is_shown_not_obeyed(text: str, shown: str) -> None:
    assert escaped(text) == shown
