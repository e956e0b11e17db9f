"""The table of a leg's states is the one that newcomers read."""

from __future__ import annotations

import gc
import re
from itertools import count
from pathlib import Path

import pytest

from gateway.core.calls import TRANSITIONS, Call, Leg, LegState
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition, Endpoint
from gateway.core.events import (
    EndpointChanged,
    LegAnswered,
    LegEnded,
    LegHeld,
    LegOffered,
    LegProgressed,
    LegRetrieved,
    LegRinging,
)
from gateway.core.routes import Route, RouteTable
from gateway.core.switchboard import Switchboard

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


@pytest.mark.parametrize("answered", [True, False])
def test_a_call_that_is_over_does_not_wait_for_the_collector_of_garbage(answered: bool) -> None:
    legs, ids = count(1), count(1)
    board = Switchboard(
        RouteTable((Route(name="talk", called="2", targets=("sip/b",)),)),
        new_leg=lambda endpoint: f"{endpoint}#{next(legs)}",
        new_id=lambda: f"id-{next(ids)}",
    )
    for place in ("sip/a", "sip/b"):
        up = Endpoint(id=place, condition=Condition.UP)
        board.receive(EndpointChanged(endpoint=up), 0.0, 0.0)
    gc.collect()
    gc.disable()
    try:
        before = _known()
        board.receive(
            LegOffered(leg="sip/a#9", endpoint="sip/a", called="2", trace="t", demanded_at=0.0),
            0.0, 0.0,
        )  # fmt: skip
        assert _known() > before
        if answered:
            board.receive(LegAnswered(leg="sip/b#1"), 0.0, 0.0)
            board.receive(LegAnswered(leg="sip/a#9"), 0.0, 0.0)
        board.receive(LegEnded(leg="sip/a#9", cause=Cause.NORMAL), 1.0, 1.0)
        board.receive(LegEnded(leg="sip/b#1", cause=Cause.NORMAL), 1.0, 1.0)
        assert not board.legs
        assert _known() == before
    finally:
        gc.enable()


def _known() -> int:
    return sum(isinstance(each, Call | Leg) for each in gc.get_objects())
