"""The switchboard under random events: nothing is left over, no leg is forgotten."""

from __future__ import annotations

from itertools import count
from typing import get_args

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.core.actions import (
    Action,
    CloseBridge,
    Dial,
    Hangup,
    Join,
    Key,
    Leave,
    OpenBridge,
    Unkey,
)
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition, Duplex, Endpoint
from gateway.core.events import (
    AcknowledgeRequested,
    AlarmCleared,
    AlarmRaised,
    AnnouncementEnded,
    CallRequested,
    DigitPressed,
    EndpointChanged,
    Event,
    FloorReleased,
    FloorRequested,
    HangupRequested,
    LegAnswered,
    LegEnded,
    LegOffered,
    LegProgressed,
    LegRinging,
    MediaLost,
    Priority,
    Severity,
    StopRequested,
    TransferRequested,
)
from gateway.core.routes import Announcement, PanelCommand, Route, RouteTable, Strategy, Trigger
from gateway.core.switchboard import Switchboard

PHONES = ("fxs/1", "fxs/2", "sip/a", "sip/b", "radio/n")
ROUTES = (
    Route(name="pair", called="1", targets=("fxs/2", "sip/a")),
    Route(name="all", called="2", targets=("sip/a", "sip/b", "fxs/1"), strategy=Strategy.ALL),
    Route(name="radio", called="3", targets=("radio/n",)),
    Route(name="room", called="4", conference="ops", targets=("sip/b",)),
    Route(name="urgent", called="5", targets=("sip/a",), priority="emergency"),
    Route(name="no", called="6", refuse="barred"),
    Route(name="info", called="7", announce=Announcement(tone="sit")),
    Route(name="arm", called="8", command=PanelCommand("mqtt/p", "ARM_AWAY"), pins={"Anna": "12"}),
    Route(
        name="alarm",
        on=Trigger.ALARM,
        targets=("sip/a", "fxs/1"),
        page=("page/h",),
        acknowledge="1",
        announce=Announcement(file="a.wav"),
        priority="urgent",
        rounds=2,
    ),
    Route(name="star", on=Trigger.DIGITS, digits="*9", targets=("sip/b",)),
)


def fresh_board() -> Switchboard:
    legs, ids = count(1), count(1)
    board = Switchboard(
        RouteTable(ROUTES),
        new_leg=lambda endpoint: f"{endpoint}#d{next(legs)}",
        new_id=lambda: f"id-{next(ids)}",
    )
    places = [Endpoint(id=phone, condition=Condition.UP) for phone in PHONES[:4]]
    places.append(Endpoint(id="radio/n", duplex=Duplex.HALF, condition=Condition.UP))
    places.append(Endpoint(id="page/h", duplex=Duplex.LISTEN, condition=Condition.UP))
    places.append(Endpoint(id="mqtt/p", duplex=Duplex.NONE, can_ring=False, alarm=True))
    for place in places:
        board.receive(EndpointChanged(endpoint=place), 0.0, 0.0)
    return board


class World(RuleBasedStateMachine):
    """Adapters that keep the contract, in any order and at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.board = fresh_board()
        self.now = 0.0
        self.names = count(1)
        self.open: dict[str, str] = {}
        """Leg to what the adapter was last told of it."""
        self.bridges: dict[str, set[str]] = {}
        self.keyed: set[str] = set()

    def feed(self, event: Event) -> None:
        self.obey(self.board.receive(event, self.now, self.now))

    def obey(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Dial():
                    assert action.leg not in self.open
                    self.open[action.leg] = "dialled"
                case Hangup():
                    assert self.open[action.leg] != "hung up", "hung up twice"
                    self.open[action.leg] = "hung up"
                case OpenBridge():
                    assert action.bridge not in self.bridges
                    self.bridges[action.bridge] = set()
                case Join():
                    assert all(action.leg not in members for members in self.bridges.values())
                    self.bridges[action.bridge].add(action.leg)
                case Leave():
                    self.bridges[action.bridge].remove(action.leg)
                case CloseBridge():
                    assert not self.bridges.pop(action.bridge)
                case Key():
                    assert action.leg not in self.keyed
                    self.keyed.add(action.leg)
                case Unkey():
                    self.keyed.remove(action.leg)
                case _:
                    pass

    @rule(seconds=st.sampled_from([0.0, 0.1, 2.0, 15.0, 31.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.obey(self.board.tick(self.now, self.now))

    @rule(place=st.sampled_from(PHONES), called=st.sampled_from("123456789"))
    def offer(self, place: str, called: str) -> None:
        leg = f"{place}#i{next(self.names)}"
        self.open[leg] = "offered"
        self.feed(
            LegOffered(leg=leg, endpoint=place, called=called, trace="t", demanded_at=self.now)
        )

    @rule(place=st.sampled_from(PHONES), called=st.sampled_from("12334"))
    def converse(self, place: str, called: str) -> None:
        """A whole call at once, so that what happens in and after one is common."""
        self.offer(place, called)
        for leg, told in list(self.open.items()):
            if told != "hung up":
                self.feed(LegAnswered(leg=leg))

    @rule(origin=st.sampled_from(PHONES), to=st.sampled_from([*PHONES, "x/none", "nonsense"]))
    def operator(self, origin: str, to: str) -> None:
        self.feed(CallRequested(origin=origin, target=to, trace="t"))

    @precondition(lambda self: self.open)
    @rule(
        data=st.data(),
        kind=st.sampled_from([LegRinging, LegProgressed, MediaLost]),
    )
    def happens(self, data: st.DataObject, kind: type) -> None:
        leg = data.draw(st.sampled_from(sorted(self.open)))
        self.feed(kind(leg=leg))

    # Answers and floors have rules of their own so that calls in progress are common.
    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def answers(self, data: st.DataObject) -> None:
        waiting = [leg for leg, told in self.open.items() if told != "hung up"]
        self.feed(LegAnswered(leg=data.draw(st.sampled_from(waiting or sorted(self.open)))))

    @precondition(lambda self: any(self.bridges.values()))
    @rule(data=st.data(), kind=st.sampled_from([FloorRequested, FloorReleased]))
    def floor(self, data: st.DataObject, kind: type) -> None:
        joined = sorted(leg for members in self.bridges.values() for leg in members)
        self.feed(kind(leg=data.draw(st.sampled_from(joined))))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), digit=st.sampled_from("12#*9"))
    def digit(self, data: st.DataObject, digit: str) -> None:
        self.feed(DigitPressed(leg=data.draw(st.sampled_from(sorted(self.open))), digit=digit))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), tail=st.sampled_from(["announce", "confirmation", "prompt"]))
    def played(self, data: st.DataObject, tail: str) -> None:
        leg = data.draw(st.sampled_from(sorted(self.open)))
        self.feed(AnnouncementEnded(leg=leg, play=f"{leg}/{tail}"))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), cause=st.sampled_from(list(Cause)))
    def end(self, data: st.DataObject, cause: Cause) -> None:
        leg = data.draw(st.sampled_from(sorted(self.open)))
        del self.open[leg]
        self.feed(LegEnded(leg=leg, cause=cause))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), to=st.sampled_from(["1", "2", "sip/b", "fxs/1", "junk"]))
    def transfer(self, data: st.DataObject, to: str) -> None:
        leg = data.draw(st.sampled_from(sorted(self.open)))
        other = data.draw(st.sampled_from(["", *sorted(self.open)]))
        self.feed(TransferRequested(leg=leg, target=to, replaces=other))

    @rule(
        name=st.sampled_from("ab"), what=st.sampled_from(["raise", "worsen", "clear", "ack", "all"])
    )
    def alarm(self, name: str, what: str) -> None:
        raised = Severity.CRITICAL if what == "worsen" else Severity.MAJOR
        event: Event = AlarmRaised(
            endpoint="mqtt/p", alarm=name, severity=raised, trace="t", raised_at=self.now
        )
        if what == "clear":
            event = AlarmCleared(endpoint="mqtt/p", alarm=name)
        elif what in ("ack", "all"):
            name = name if what == "ack" else ""
            event = AcknowledgeRequested(endpoint="mqtt/p", alarm=name, by="desk")
        self.feed(event)

    @precondition(lambda self: self.board.calls)
    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        self.feed(HangupRequested(call=data.draw(st.sampled_from(sorted(self.board.calls)))))

    @rule(place=st.sampled_from(PHONES), up=st.sampled_from([True, True, True, False]))
    def condition(self, place: str, up: bool) -> None:
        known = self.board.endpoints[place]
        state = Condition.UP if up else Condition.DOWN
        self.feed(
            EndpointChanged(endpoint=Endpoint(id=place, duplex=known.duplex, condition=state))
        )

    @invariant()
    def the_board_knows_what_the_adapters_know(self) -> None:
        assert set(self.board.legs) <= set(self.open)
        for call in self.board.calls.values():
            assert call.legs, "a call without legs"
        for leg in self.keyed:
            assert any(leg in members for members in self.bridges.values()), "keyed outside"

    def teardown(self) -> None:
        self.now += 1.0
        self.feed(StopRequested())
        for _ in range(40):
            self.now += 50.0
            self.obey(self.board.tick(self.now, self.now))
            for leg in list(self.open):
                del self.open[leg]
                self.feed(LegEnded(leg=leg, cause=Cause.NORMAL))
        assert not self.board.legs
        assert not self.board.calls
        assert not self.bridges
        assert not self.board.bridges
        assert not self.keyed


World.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestWorld = World.TestCase


def test_every_event_has_a_handler() -> None:
    assert set(fresh_board()._handlers) == set(get_args(Event))


def test_an_emergency_outranks() -> None:
    assert Priority.EMERGENCY > Priority.URGENT > Priority.PRIORITY > Priority.ROUTINE
