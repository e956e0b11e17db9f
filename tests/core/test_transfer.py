"""Where a transfer leads."""

from __future__ import annotations

from itertools import count

import pytest

from gateway.core.actions import Action, Dial, Join, OpenBridge, ReportTransfer
from gateway.core.bridges import BridgeKind
from gateway.core.endpoints import Condition, Endpoint
from gateway.core.events import EndpointChanged, LegAnswered, LegOffered, TransferRequested
from gateway.core.routes import PanelCommand, Route, RouteTable
from gateway.core.switchboard import Switchboard

ARM = PanelCommand("mqtt/house", "ARM_AWAY")
TALK = Route(name="talk", called="2", targets=("sip/b",))


def asked(target: str, *routes: Route) -> list[Action]:
    """What becomes of it when one of two who talk wants the other to be connected elsewhere."""
    legs, ids = count(1), count(1)
    board = Switchboard(
        RouteTable((TALK, *routes)),
        new_leg=lambda endpoint: f"{endpoint}#{next(legs)}",
        new_id=lambda: f"id-{next(ids)}",
    )
    for place in ("sip/a", "sip/b", "sip/c"):
        up = Endpoint(id=place, condition=Condition.UP)
        board.receive(EndpointChanged(endpoint=up), 0.0, 0.0)
    offered = LegOffered(leg="sip/a#9", endpoint="sip/a", called="2", trace="t", demanded_at=0.0)
    (dial,) = [each for each in board.receive(offered, 0.0, 0.0) if isinstance(each, Dial)]
    board.receive(LegAnswered(leg=dial.leg), 0.0, 0.0)
    board.receive(LegAnswered(leg="sip/a#9"), 0.0, 0.0)
    return list(board.receive(TransferRequested(leg="sip/a#9", target=target), 0.0, 0.0))


def rooms(actions: list[Action]) -> list[OpenBridge]:
    return [
        each
        for each in actions
        if isinstance(each, OpenBridge) and each.kind == BridgeKind.CONFERENCE
    ]


def test_to_a_room() -> None:
    actions = asked("7", Route(name="room", called="7", conference="ops"))
    assert rooms(actions)
    assert [each.leg for each in actions if isinstance(each, Join)] == ["sip/b#1"]


def test_an_endpoint_is_no_number_of_a_room() -> None:
    actions = asked("sip/c", Route(name="room", conference="ops"))
    assert not rooms(actions)
    assert [each.endpoint for each in actions if isinstance(each, Dial)] == ["sip/c"]


@pytest.mark.parametrize("instead", ["refuse", "command"])
def test_a_room_that_a_call_would_not_reach(instead: str) -> None:
    refuse = Route(name="no", called="7", refuse="barred", conference="ops")
    command = Route(name="do", called="7", command=ARM, conference="ops")
    actions = asked("7", refuse if instead == "refuse" else command)
    assert not rooms(actions)
    assert [each.outcome for each in actions if isinstance(each, ReportTransfer)] == ["failed"]
