"""The switchboard under random events: nothing is left over, no leg is forgotten."""

from __future__ import annotations

from itertools import count
from typing import get_args

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.core.actions import (
    Action,
    Answer,
    CloseBridge,
    Dial,
    GiveFloor,
    Hangup,
    Join,
    Key,
    Leave,
    OpenBridge,
    Play,
    StopPlay,
    Unkey,
)
from gateway.core.calls import LegState
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition, Duplex, Endpoint
from gateway.core.events import (
    AcknowledgeRequested,
    AlarmCleared,
    AlarmRaised,
    AnnouncementEnded,
    AudioBorrowed,
    CallRequested,
    DigitPressed,
    EndpointChanged,
    EndpointRemoved,
    Event,
    FloorReleased,
    FloorRequested,
    HangupRequested,
    InputChanged,
    LegAnswered,
    LegEnded,
    LegHeld,
    LegOffered,
    LegProgressed,
    LegRetrieved,
    LegRinging,
    MediaLost,
    PathTestKind,
    PathTestRequested,
    Priority,
    Quality,
    Severity,
    StopRequested,
    TransferRequested,
)
from gateway.core.routes import Announcement, PanelCommand, Route, RouteTable, Strategy, Trigger
from gateway.core.switchboard import Switchboard

PHONES = ("fxs/1", "fxs/2", "sip/a", "sip/b")
RADIOS = ("radio/n", "radio/s")
STATIONS = ("bus/a", "bus/b")
LINE = "fxs/2"
"""Where the stations have their speech."""
CALLERS = (*PHONES, *RADIOS, *STATIONS)
PLACES = (*CALLERS, "page/h", "page/w", "sip/telco")
ROUTES = (
    Route(name="pair", called="1", targets=("fxs/2", "bus/a", "sip/a")),
    Route(name="all", called="2", targets=("sip/a", "sip/b", "fxs/1"), strategy=Strategy.ALL),
    Route(name="radio", called="3", targets=("radio/n",), push_to_talk="*#"),
    Route(
        name="room",
        called="4",
        conference="ops",
        targets=("sip/b", "radio/n", "radio/s"),
        push_to_talk="*",
    ),
    Route(name="urgent", called="5", targets=("sip/a", "bus/b", "radio/n"), priority="emergency"),
    Route(name="no", called="6", refuse="barred"),
    Route(name="info", called="7", announce=Announcement(tone="sit")),
    Route(name="arm", called="8", command=PanelCommand("mqtt/p", "ARM_AWAY"), pins={"Anna": "12"}),
    Route(
        name="page",
        called="9",
        page=("page/h", "page/w", "sip/b", "radio/s"),
        announce=Announcement(tone="sit"),
        priority="priority",
    ),
    Route(
        name="tape",
        called="0",
        page=("page/h", "radio/n"),
        live=False,
        announce=Announcement(file="a.wav"),
    ),
    Route(
        name="screened",
        called="*",
        targets=("sip/a", "fxs/2"),
        acknowledge="1",
        announce=Announcement(text="press 1"),
        rounds=2,
    ),
    Route(name="trunk", called="#", targets=("sip/telco:1",), priority="priority"),
    Route(
        name="worse",
        on=Trigger.ALARM,
        severity="critical",
        targets=("sip/a", "radio/n", "fxs/2"),
        page=("page/h", "radio/s"),
        acknowledge="1",
        announce=Announcement(file="a.wav"),
        priority="emergency",
        strategy=Strategy.ALL,
        rounds=3,
    ),
    Route(
        name="alarm",
        on=Trigger.ALARM,
        kind=("a",),
        targets=("sip/a", "fxs/1"),
        page=("page/h",),
        acknowledge="1",
        announce=Announcement(file="a.wav"),
        priority="urgent",
        rounds=2,
    ),
    Route(
        name="sos",
        on=Trigger.ALARM,
        origin="radio/n",
        targets=("sip/b", "fxs/2"),
        acknowledge="talk",
        stop_on_clear=False,
        priority="urgent",
    ),
    Route(name="help", on=Trigger.INPUT, input="x", value=1.0, origin="fxs/1", targets=("sip/b",)),
    Route(
        name="meet",
        on=Trigger.INPUT,
        input="x",
        above=1.0,
        conference="ops",
        targets=("sip/a", "radio/s"),
        acknowledge="answer",
        priority="priority",
    ),
    Route(name="star", on=Trigger.DIGITS, digits="99", targets=("sip/b",)),
    Route(
        name="pin",
        on=Trigger.DIGITS,
        digits="2(XX)",
        pins={"Anna": "12"},
        command=PanelCommand("mqtt/p", "ACKNOWLEDGE"),
    ),
)


TABLE = RouteTable(ROUTES)


def fresh_board() -> Switchboard:
    legs: dict[str, count[int]] = {}
    ids = count(1)
    board = Switchboard(
        TABLE,
        new_leg=lambda endpoint: f"{endpoint}#{next(legs.setdefault(endpoint, count(1)))}",
        new_id=lambda: f"id-{next(ids)}",
    )
    for place in PLACES:
        board.receive(EndpointChanged(endpoint=endpoint(place)), 0.0, 0.0)
    panel = Endpoint(id="mqtt/p", duplex=Duplex.NONE, can_ring=False, alarm=True)
    board.receive(EndpointChanged(endpoint=panel), 0.0, 0.0)
    return board


def endpoint(place: str, condition: Condition = Condition.UP) -> Endpoint:
    duplex = {"radio": Duplex.HALF, "page": Duplex.LISTEN}.get(place[: place.index("/")])
    trunk = place == "sip/telco"
    return Endpoint(
        id=place,
        duplex=duplex or Duplex.FULL,
        takes_number=trunk,
        capacity=2 if trunk else 1,
        borrows=LINE if place in STATIONS else "",
        condition=condition,
    )


class World(RuleBasedStateMachine):
    """Adapters that keep the contract, in any order and at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.board, self.twin = fresh_board(), fresh_board()
        self.now = 0.0
        self.names = count(1)
        self.open: dict[str, str] = {}
        """Leg to what the adapter was last told of it."""
        self.playing: dict[str, str] = {}
        self.bridges: dict[str, set[str]] = {}
        self.keyed: set[str] = set()
        self.lent: set[str] = set()
        """Legs that have the line."""
        self.linked = False
        """Somebody may have joined two places where nobody hangs up, and must part them himself."""

    def feed(self, event: Event) -> None:
        if isinstance(event, LegEnded):
            self.lent.discard(event.leg)
            self.playing.pop(event.leg, None)
        actions = self.board.receive(event, self.now, self.now)
        assert actions == self.twin.receive(event, self.now, self.now), "not repeatable"
        self.obey(actions)

    def obey(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Dial():
                    assert action.leg not in self.open
                    self.room_for(action)
                    self.open[action.leg] = "dialled"
                case Answer():
                    assert self.open[action.leg] == "offered", "answered twice"
                    self.open[action.leg] = "to be answered"
                case Hangup():
                    assert self.open[action.leg] != "hung up", "hung up twice"
                    assert action.leg not in self.keyed, "hung up while on the air"
                    if action.detail.startswith("pre-empted by"):
                        self.lower(action)
                    self.open[action.leg] = "hung up"
                case OpenBridge():
                    assert action.bridge not in self.bridges
                    self.bridges[action.bridge] = set()
                case Join():
                    assert all(action.leg not in members for members in self.bridges.values())
                    assert self.open[action.leg] != "hung up", "joined after the end"
                    self.bridges[action.bridge].add(action.leg)
                    if action.leg.startswith("page/"):
                        assert not action.speaks
                case Leave():
                    self.bridges[action.bridge].remove(action.leg)
                case CloseBridge():
                    assert not self.bridges.pop(action.bridge)
                case GiveFloor():
                    assert action.leg is None or action.leg in self.bridges[action.bridge]
                case Key():
                    assert action.leg not in self.keyed
                    assert self.open[action.leg] != "hung up"
                    assert action.leg.startswith("radio/")
                    self.keyed.add(action.leg)
                case Unkey():
                    self.keyed.remove(action.leg)
                case Play():
                    assert self.open[action.leg] != "hung up", "played to nobody"
                    self.playing[action.leg] = action.play
                case StopPlay():
                    if self.playing.get(action.leg) == action.play:
                        del self.playing[action.leg]
                case _:
                    pass

    def room_for(self, action: Dial) -> None:
        """A line is dialled when nobody uses it, or nobody but those who were told to leave it."""
        others = [
            leg
            for leg, told in self.open.items()
            if leg.rpartition("#")[0] == action.endpoint and told != "hung up"
        ]
        capacity = 2 if action.endpoint == "sip/telco" else 1
        assert len(others) < capacity, f"{action.leg} beside {others}"

    def lower(self, action: Hangup) -> None:
        """Nobody makes room for an equal."""
        taker = Priority[action.detail.rpartition(" ")[2].upper()]
        known = self.board.legs.get(action.leg)
        assert known is None or known.call.yields or known.call.priority < taker

    @rule(seconds=st.sampled_from([0.0, 0.1, 2.0, 5.0, 15.0, 31.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        actions = self.board.tick(self.now, self.now)
        assert actions == self.twin.tick(self.now, self.now), "not repeatable"
        self.obey(actions)

    @rule(place=st.sampled_from(CALLERS), called=st.sampled_from("1234567890*#"))
    def offer(self, place: str, called: str) -> None:
        leg = f"{place}#i{next(self.names)}"
        self.open[leg] = "offered"
        self.feed(
            LegOffered(leg=leg, endpoint=place, called=called, trace="t", demanded_at=self.now)
        )

    @precondition(lambda self: self.open)
    @rule(data=st.data(), place=st.sampled_from(CALLERS))
    def take_over(self, data: st.DataObject, place: str) -> None:
        """Pick up what rings, or take the place of who talks."""
        self.linked = True
        replaced = data.draw(st.sampled_from(["none#1", *sorted(self.open)]))
        leg = f"{place}#i{next(self.names)}"
        self.open[leg] = "offered"
        self.feed(
            LegOffered(
                leg=leg, endpoint=place, called="x", trace="t", demanded_at=self.now,
                replaces=replaced,
            )
        )  # fmt: skip

    @rule(place=st.sampled_from(CALLERS), called=st.sampled_from("1233444499950*"))
    def converse(self, place: str, called: str) -> None:
        """A whole call at once, so that what happens in and after one is common."""
        self.offer(place, called)
        self.everybody_answers()
        self.everybody_answers()

    def everybody_answers(self) -> None:
        for leg, told in list(self.open.items()):
            if told in ("dialled", "to be answered"):
                self.answered(leg)

    def answered(self, leg: str) -> None:
        if leg.startswith("bus/"):
            # Only one leg can have the line.
            users = [each for each in self.open if each.startswith(LINE) or each in self.lent]
            if any(each != leg for each in users):
                del self.open[leg]
                self.lent.discard(leg)
                self.feed(LegEnded(leg=leg, cause=Cause.NO_CIRCUIT))
                return
            self.lent.add(leg)
            self.feed(AudioBorrowed(leg=leg, endpoint=LINE))
        if self.open[leg] in ("dialled", "to be answered"):
            self.open[leg] = "answered"
        self.feed(LegAnswered(leg=leg))

    @rule(origin=st.sampled_from(CALLERS), to=st.sampled_from([*PLACES, "x/none", "nonsense"]))
    def operator(self, origin: str, to: str) -> None:
        self.linked = self.linked or not origin.startswith(("fxs/", "sip/"))
        self.feed(CallRequested(origin=origin, target=to, trace="t"))

    @rule(
        place=st.sampled_from(PLACES),
        kind=st.sampled_from(list(PathTestKind)),
        listen=st.sampled_from(["", "", "fxs/1", "radio/n"]),
        bold=st.booleans(),
    )
    def path_test(self, place: str, kind: PathTestKind, listen: str, bold: bool) -> None:
        self.feed(
            PathTestRequested(
                test=f"test-{next(self.names)}",
                endpoint=place,
                number="1" if place == "sip/telco" else "",
                kind=kind,
                signal="noise",
                listen=listen,
                transmit=bold,
                scheduled=not bold,
                trace="t",
            )
        )

    @precondition(lambda self: self.open)
    @rule(
        data=st.data(),
        kind=st.sampled_from([LegRinging, LegProgressed, MediaLost, LegHeld, LegRetrieved]),
    )
    def happens(self, data: st.DataObject, kind: type) -> None:
        leg = data.draw(st.sampled_from(sorted(self.open)))
        self.feed(kind(leg=leg))

    # Answers and floors have rules of their own so that calls in progress are common.
    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def answers(self, data: st.DataObject) -> None:
        waiting = [leg for leg, told in self.open.items() if told in ("dialled", "to be answered")]
        self.answered(data.draw(st.sampled_from(waiting or sorted(self.open))))

    @rule()
    def all_answer(self) -> None:
        self.everybody_answers()

    @precondition(lambda self: any(leg.startswith("radio/") for leg in self.open))
    @rule(data=st.data(), kind=st.sampled_from([FloorRequested, FloorReleased]), air=st.booleans())
    def floor(self, data: st.DataObject, kind: type, air: bool) -> None:
        legs = sorted(leg for leg in self.open if leg.startswith("radio/") or not air)
        self.feed(kind(leg=data.draw(st.sampled_from(legs))))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), digits=st.sampled_from(["1", "*", "#", "99", "212", "299"]))
    def digits(self, data: st.DataObject, digits: str) -> None:
        leg = data.draw(st.sampled_from(sorted(self.open)))
        for digit in digits:
            self.feed(DigitPressed(leg=leg, digit=digit))

    @precondition(lambda self: self.playing)
    @rule(data=st.data())
    def played(self, data: st.DataObject) -> None:
        leg = data.draw(st.sampled_from(sorted(self.playing)))
        self.feed(AnnouncementEnded(leg=leg, play=self.playing.pop(leg)))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), cause=st.sampled_from(list(Cause)))
    def end(self, data: st.DataObject, cause: Cause) -> None:
        leg = data.draw(st.sampled_from(sorted(self.open)))
        del self.open[leg]
        redirect = data.draw(st.sampled_from(["", "1", "sip/b", "junk"]))
        self.feed(LegEnded(leg=leg, cause=cause, redirect=redirect))

    @precondition(lambda self: "hung up" in self.open.values())
    @rule()
    def far_ends_confirm(self) -> None:
        for leg in [leg for leg, told in self.open.items() if told == "hung up"]:
            del self.open[leg]
            self.feed(LegEnded(leg=leg, cause=Cause.NORMAL))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), to=st.sampled_from(["1", "2", "3", "sip/b", "radio/s", "junk"]))
    def transfer(self, data: st.DataObject, to: str) -> None:
        leg = data.draw(st.sampled_from(sorted(self.open)))
        self.linked = True
        other = data.draw(st.sampled_from(["", *sorted(self.open)]))
        self.feed(TransferRequested(leg=leg, target=to, replaces=other))

    @rule(
        name=st.sampled_from("ab"), what=st.sampled_from(["raise", "worsen", "clear", "ack", "all"])
    )
    def alarm(self, name: str, what: str) -> None:
        raised = Severity.CRITICAL if what == "worsen" else Severity.MAJOR
        event: Event = AlarmRaised(
            endpoint="mqtt/p",
            alarm=name,
            kind=name,
            severity=raised,
            trace="t",
            raised_at=self.now,
        )
        if what == "clear":
            event = AlarmCleared(endpoint="mqtt/p", alarm=name)
        elif what in ("ack", "all"):
            name = name if what == "ack" else ""
            event = AcknowledgeRequested(endpoint="mqtt/p", alarm=name, by="desk")
        self.feed(event)

    @rule(value=st.sampled_from([0.0, 1.0, 2.0]), quality=st.sampled_from(list(Quality)))
    def input(self, value: float, quality: Quality) -> None:
        self.feed(
            InputChanged(endpoint="mqtt/p", input="x", value=value, quality=quality, trace="t")
        )

    @precondition(lambda self: self.board.calls)
    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        self.feed(HangupRequested(call=data.draw(st.sampled_from(sorted(self.board.calls)))))

    @rule(place=st.sampled_from(PLACES), up=st.sampled_from([True, True, True, False]))
    def condition(self, place: str, up: bool) -> None:
        state = Condition.UP if up else Condition.DOWN
        self.feed(EndpointChanged(endpoint=endpoint(place, state)))

    @rule(place=st.sampled_from(PLACES))
    def comes_and_goes(self, place: str) -> None:
        self.feed(EndpointRemoved(endpoint=place))
        self.feed(EndpointChanged(endpoint=endpoint(place)))

    @invariant()
    def the_board_knows_what_the_adapters_know(self) -> None:
        board = self.board
        assert set(board.legs) <= set(self.open)
        for call in board.calls.values():
            assert any(leg.state is not LegState.NULL for leg in call.legs), "a dead call"
        for leg in board.legs.values():
            assert board.calls[leg.call.id] is leg.call
            assert leg.keyed == (leg.id in self.keyed)
            assert not leg.saying or leg.live
        assert {b.id: set(b.members) for b in board.bridges.values()} == self.bridges

    @invariant()
    def nobody_transmits_without_a_reason(self) -> None:
        for name in self.keyed:
            leg = self.board.legs[name]
            bridge = self.board.bridges.get(leg.bridge)
            holder = bridge.floor.holder if bridge else None
            assert leg.saying or holder not in (None, name), f"{name} is keyed for nobody"

    def teardown(self) -> None:
        """When people hang up and alarms are acknowledged, nothing goes on by itself."""
        for turn in range(40):
            if turn == 20 and self.linked:
                for call in list(self.board.calls):
                    self.feed(HangupRequested(call=call))
            self.now += 20.0
            self.obey(self.board.tick(self.now, self.now))
            self.twin.tick(self.now, self.now)
            for leg, play in list(self.playing.items()):
                del self.playing[leg]
                self.feed(AnnouncementEnded(leg=leg, play=play))
            for leg, told in list(self.open.items()):
                if told == "hung up" or leg.startswith(("fxs/", "sip/")) or "#i" in leg:
                    del self.open[leg]
                    self.feed(LegEnded(leg=leg, cause=Cause.NORMAL))
            self.feed(AcknowledgeRequested(endpoint="mqtt/p", alarm="", by="desk"))
        assert not self.open, "a line is taken for ever"
        assert not self.keyed
        board = self.board
        assert not board.legs
        assert not board.calls
        assert not board.bridges
        assert not board.lines.waiting()
        assert not board.testing._running
        assert board.next_timeout() is None
        leftovers = (board.features._kept, board._expected, board.rooms._bridges)
        leftovers += (board.rooms._invited, board.lines._legs, board.lines._queue)
        leftovers += (board.lines._speakers,)
        assert not any(leftovers)
        self.offer("fxs/1", "1")
        self.feed(StopRequested())
        self.offer("fxs/2", "1")
        assert set(self.open.values()) == {"hung up"}


World.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestWorld = World.TestCase


def test_every_event_has_a_handler() -> None:
    assert set(fresh_board()._handlers) == set(get_args(Event))


def test_an_emergency_outranks() -> None:
    assert Priority.EMERGENCY > Priority.URGENT > Priority.PRIORITY > Priority.ROUTINE
