"""Tables for people."""

from exai.cli.columns import aligned


def test_each_column_is_as_wide_as_its_widest_cell() -> None:
    rows = [("A", "BB", "C"), ("AAA", "B", "a longer one"), ("", "", "")]
    assert list(aligned(rows)) == ["A    BB  C\n", "AAA  B   a longer one\n", "\n"]


def test_rows_may_be_of_different_lengths() -> None:
    assert list(aligned([("A", "B"), ("alone",), ("A", "B", "C")])) == [
        "A  B\n",
        "alone\n",
        "A  B  C\n",
    ]


def test_a_cell_draws_no_line_of_its_own() -> None:
    assert list(aligned([("a\nok  fine", "b\r\n\tc")])) == ["a ok fine  b c\n"]
