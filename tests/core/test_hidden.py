"""A caller who is hidden is shown to nobody, whatever the routes make of his number."""

from __future__ import annotations

from itertools import count

import pytest

from gateway.core.actions import Action, Dial, Play
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition, Endpoint
from gateway.core.events import (
    EndpointChanged,
    Event,
    LegAnswered,
    LegEnded,
    LegOffered,
    TransferRequested,
)
from gateway.core.routes import Announcement, Route, RouteTable
from gateway.core.switchboard import Switchboard

SPOKEN = Announcement(text="call from {calling}.")


class Box:
    """A switchboard with three telephones and a trunk, and all it has done."""

    def __init__(self, *routes: Route) -> None:
        legs, ids = count(1), count(1)
        self.board = Switchboard(
            RouteTable(routes),
            new_leg=lambda endpoint: f"{endpoint}#{next(legs)}",
            new_id=lambda: f"id-{next(ids)}",
        )
        self.done: list[Action] = []
        for place in ("sip/anna", "sip/bert", "sip/x", "sip/y"):
            up = Endpoint(id=place, condition=Condition.UP, capacity=2)
            self(EndpointChanged(endpoint=up))

    def __call__(self, event: Event) -> None:
        self.done += self.board.receive(event, 0.0, 0.0)

    def call(
        self, called: str, calling: str = "201", *, leg: str = "sip/anna#9", hidden: bool = True
    ) -> str:
        endpoint = leg.partition("#")[0]
        self(
            LegOffered(
                leg=leg, endpoint=endpoint, called=called, calling=calling, display="Anna",
                hidden=hidden, trace="t", demanded_at=0.0,
            )
        )  # fmt: skip
        return leg

    def dials(self) -> list[Dial]:
        return [action for action in self.done if isinstance(action, Dial)]

    def said(self) -> set[str]:
        """What was spoken, on whatever leg."""
        return {action.text for action in self.done if isinstance(action, Play) and action.text}


@pytest.mark.parametrize(
    ("calling_as", "hidden", "wanted"),
    [
        ("+4930{calling}", True, ("", True)),
        ("{calling}", True, ("", True)),
        ("", True, ("", True)),
        ("+4930999", True, ("+4930999", False)),
        ("+4930{calling}", False, ("+4930201", False)),
    ],
)
def test_a_number_made_of_a_hidden_one_is_hidden(
    calling_as: str, hidden: bool, wanted: tuple[str, bool]
) -> None:
    box = Box(Route(name="out", called="0", targets=("sip/x",), calling_as=calling_as))
    box.call("0", hidden=hidden)
    (dial,) = box.dials()
    assert (dial.calling, dial.hidden) == wanted


@pytest.mark.parametrize(("hidden", "wanted"), [(True, "call from ."), (False, "call from 201.")])
def test_a_hidden_number_is_not_spoken(hidden: bool, wanted: str) -> None:
    box = Box(
        Route(name="asks", called="1", targets=("sip/x",), acknowledge="1", announce=SPOKEN),
        Route(name="pages", called="2", page=("sip/y",), announce=SPOKEN),
    )
    for called, leg in (("1", "sip/anna#8"), ("2", "sip/anna#9")):
        box.call(called, leg=leg, hidden=hidden)
        (*_, dial) = box.dials()
        box(LegAnswered(leg=dial.leg))
        box(LegAnswered(leg=leg))
        assert box.said() == {wanted}
        box.done.clear()


def test_who_takes_over_a_hunt_is_shown_in_place_of_who_is_hidden() -> None:
    box = Box(
        Route(name="anna", called="1", targets=("sip/anna",)),
        Route(name="both", called="2", targets=("sip/x", "sip/y")),
    )
    bert = box.call("1", "202", leg="sip/bert#9", hidden=False)
    (dial,) = box.dials()
    box(LegAnswered(leg=dial.leg))
    box(LegAnswered(leg=bert))
    asks = box.call("2")
    first = box.dials()[-1]
    assert (first.endpoint, first.calling, first.hidden) == ("sip/x", "", True)
    box(TransferRequested(leg=dial.leg, target="", replaces=asks))
    box(LegEnded(leg=first.leg, cause=Cause.BUSY))
    second = box.dials()[-1]
    assert (second.endpoint, second.calling, second.hidden) == ("sip/y", "202", False)


@pytest.mark.parametrize(("hidden", "wanted"), [(True, ("", True)), (False, ("201", False))])
def test_who_is_called_into_a_conference_sees_no_hidden_number(
    hidden: bool, wanted: tuple[str, bool]
) -> None:
    box = Box(Route(name="room", called="7", conference="ops", targets=("sip/x",)))
    box.call("7", hidden=hidden)
    (dial,) = box.dials()
    assert (dial.calling, dial.display, dial.hidden) == (wanted[0], "", wanted[1])
