"""The table of a leg's states is the one that newcomers read."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.core.calls import TRANSITIONS, LegState
from gateway.core.events import (
    LegAnswered,
    LegEnded,
    LegHeld,
    LegProgressed,
    LegRetrieved,
    LegRinging,
)

EVENTS = (LegRinging, LegProgressed, LegAnswered, LegHeld, LegRetrieved, LegEnded)
PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"


def table() -> str:
    """The table as the page has to show it."""
    rows = ["| | " + " | ".join(kind.__name__ for kind in EVENTS) + " |", "|---" * 7 + "|"]
    for state in LegState:
        fields = (TRANSITIONS.get((state, kind), "") for kind in EVENTS)
        rows.append(f"| {state} | " + " | ".join(fields) + " |")
    return "\n".join(rows)


def test_the_page_shows_the_table() -> None:
    found = re.search(r"<!-- leg states -->\n(.*?)\n<!-- end -->", PAGE.read_text(), re.DOTALL)
    assert found
    assert found[1] == table()


def test_the_page_has_a_column_for_every_event_of_the_table() -> None:
    assert {kind for _, kind in TRANSITIONS} == set(EVENTS)


def test_every_state_can_be_reached_and_ends() -> None:
    reached = {LegState.INITIATED, LegState.OFFERED, LegState.CLOSING} | set(TRANSITIONS.values())
    assert reached == set(LegState)
    for state in LegState:
        if state is not LegState.NULL:
            assert TRANSITIONS[state, LegEnded] is LegState.NULL


def test_the_page_names_files_that_are_there() -> None:
    names = re.findall(r"\(`(\w+\.py)`\)", PAGE.read_text())
    assert len(names) > 10
    for name in names:
        assert (PAGE.parents[1] / "gateway" / "core" / name).is_file(), name
