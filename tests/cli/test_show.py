"""Tables and words: nothing cut off, nothing that a terminal would obey."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.show import Column, clean, duration, layout, level

COLUMNS = (Column("ID"), Column("N", right=True), Column("WHY", fold=True))
_TEXT = st.text(max_size=60)


def test_columns() -> None:
    assert layout(COLUMNS, [("fxs/1", "7", "cut"), ("a", "1234", "")]) == [
        "ID        N  WHY",
        "fxs/1     7  cut",
        "a      1234  -",
    ]


def test_free_text_moves_below_its_row_when_the_terminal_is_narrow() -> None:
    rows = [("fxs/1", "7", "the pair is open"), ("fxs/2", "8", "")]
    assert layout(COLUMNS, rows, width=20) == [
        "ID     N",
        "fxs/1  7",
        "    why: the pair is open",
        "fxs/2  8",
    ]


@given(st.lists(st.tuples(_TEXT, _TEXT, _TEXT), max_size=5), st.integers(1, 200))
def test_no_cell_is_lost(rows: list[tuple[str, str, str]], width: int) -> None:
    shown = "\n".join(layout(COLUMNS, rows, width=width))
    for row in rows:
        for cell in row:
            assert clean(cell).rstrip() in shown


@given(st.text())
def test_a_name_from_the_network_cannot_command_the_terminal(text: str) -> None:
    assert all(sign.isprintable() or sign == "\ufffd" for sign in clean(text))
    assert len(clean(text)) == len(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (-1, "0:00"), (7.9, "0:07"), (205, "3:25"), (7384, "2h03"), (446400, "5d04h")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_levels() -> None:
    assert [level(each) for each in (None, -99.0, -12.4, 3.1)] == ["", "silence", "-12", "+3"]
