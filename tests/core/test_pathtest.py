"""A test of a path makes room for everybody, transmits only when told to, and always ends."""

from __future__ import annotations

from itertools import count
from typing import Any, TypeVar

import pytest

from gateway.core.actions import (
    Action,
    Dial,
    FinishPathTest,
    Hangup,
    Key,
    Outcome,
    Play,
    Record,
    StopRecord,
    Unkey,
)
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition, Duplex, Endpoint
from gateway.core.events import (
    AlarmRaised,
    AnnouncementEnded,
    EndpointChanged,
    Event,
    FloorRequested,
    InputChanged,
    LegAnswered,
    LegEnded,
    LegOffered,
    PathTestKind,
    PathTestRequested,
    StopRequested,
)
from gateway.core.pathtest import CLOSING_S, OVERTIME_S, SETTLE_S, TAIL_S
from gateway.core.routes import Announcement, Route, RouteTable, Trigger
from gateway.core.switchboard import Switchboard

_A = TypeVar("_A", bound=Action)

ROUTES = (
    Route(name="to 1", called="1", targets=("fxs/1",)),
    Route(name="page", called="2", page=("page/hall",)),
    Route(name="sos", called="9", targets=("fxs/2",), priority="emergency"),
    Route(
        name="fire",
        on=Trigger.ALARM,
        kind=("fire", "fault"),
        targets=("fxs/3",),
        acknowledge="1",
        announce=Announcement(text="fire"),
    ),
)
PLACES = (
    Endpoint(id="fxs/1", condition=Condition.UP),
    Endpoint(id="fxs/2", condition=Condition.UP),
    Endpoint(id="fxs/3", condition=Condition.UP),
    Endpoint(id="sip/telco", condition=Condition.UP, takes_number=True, capacity=None),
    Endpoint(id="page/hall", condition=Condition.UP, duplex=Duplex.LISTEN),
    Endpoint(
        id="radio/n",
        condition=Condition.UP,
        duplex=Duplex.HALF,
        detail={"transmit": "enabled"},
        inputs=("carrier", "ptt"),
    ),
    Endpoint(
        id="radio/rx",
        condition=Condition.UP,
        duplex=Duplex.HALF,
        detail={"transmit": "disabled"},
        inputs=("carrier", "ptt"),
    ),
    Endpoint(
        id="radio/s", condition=Condition.UP, duplex=Duplex.HALF, detail={"transmit": "disabled"}
    ),
    Endpoint(id="fxs/9", condition=Condition.DOWN, reason="no card"),
    Endpoint(id="gate/1", condition=Condition.UP, duplex=Duplex.NONE, can_ring=False),
)


class Box:
    """A switchboard whose far ends do what the test says."""

    def __init__(self) -> None:
        legs, ids = count(1), count(1)
        self.board = Switchboard(
            RouteTable(ROUTES),
            new_leg=lambda endpoint: f"{endpoint}#{next(legs)}",
            new_id=lambda: f"id-{next(ids)}",
        )
        self.now = 0.0
        self.done: list[Action] = []
        for place in PLACES:
            self(EndpointChanged(endpoint=place))

    def __call__(self, event: Event) -> None:
        self.done += self.board.receive(event, self.now, self.now)

    def pass_by(self, seconds: float) -> None:
        self.now += seconds
        self.done += self.board.tick(self.now, self.now)

    def test(self, endpoint: str = "fxs/1", kind: str = "loop", **more: Any) -> None:
        signal = {"loop": "noise", "acoustic": "sweep", "tone": "tone:1004"}[kind]
        fields: dict[str, Any] = {
            "test": "T", "endpoint": endpoint, "kind": PathTestKind(kind), "signal": signal,
            "seconds": 2.0, "trace": "t",
        }  # fmt: skip
        self(PathTestRequested(**(fields | more)))

    def of(self, kind: type[_A]) -> list[_A]:
        return [action for action in self.done if type(action) is kind]

    def end(self, leg: str) -> None:
        told = next(each for each in self.of(Hangup) if each.leg == leg)
        self(LegEnded(leg=leg, cause=told.cause))

    @property
    def outcome(self) -> FinishPathTest:
        """What became of it, once its legs have ended."""
        self.gone()
        (found,) = self.of(FinishPathTest)
        return found

    def gone(self) -> bool:
        """Nothing of the test is left once its legs have ended."""
        for told in self.of(Hangup):
            if told.leg in self.board.legs:
                self(LegEnded(leg=told.leg, cause=told.cause))
        board = self.board
        return not board.legs and not board.calls and not board.testing._running


def test_a_whole_test() -> None:
    box = Box()
    box.test()
    (dial,) = box.of(Dial)
    assert (dial.endpoint, dial.auto_answer, dial.display) == ("fxs/1", True, "loop test")
    box(LegAnswered(leg=dial.leg))
    assert not box.of(Play)
    box.pass_by(SETTLE_S)
    assert [type(action) for action in box.done[-2:]] == [Record, Play]
    assert box.of(Record)[0].file == "tests/T.wav"
    play = box.of(Play)[0]
    assert (play.signal, play.seconds, play.level_dbm0) == ("noise", 2.0, -10.0)
    box.pass_by(2.0)
    box(AnnouncementEnded(leg=dial.leg, play=play.play))
    box.pass_by(TAIL_S)
    assert len(box.of(StopRecord)) == 1
    assert not box.of(Hangup)
    box.pass_by(CLOSING_S)
    assert box.of(Hangup)[0].cause is Cause.NORMAL
    # Whoever hears of the outcome may test again at once.
    assert not box.of(FinishPathTest)
    assert (box.outcome.outcome, box.outcome.sent) == (Outcome.HEARD, "tests/T.wav")
    assert box.gone()
    box.pass_by(600.0)
    assert len(box.of(FinishPathTest)) == 1
    assert box.board.next_timeout() is None


def test_somebody_who_is_to_listen_answers_himself() -> None:
    box = Box()
    box.test(kind="tone")
    assert not box.of(Dial)[0].auto_answer


def test_two_ends_begin_at_once() -> None:
    box = Box()
    box.test("page/hall", kind="acoustic", listen="fxs/1")
    hall, ear = box.of(Dial)
    assert (hall.endpoint, hall.one_way, ear.endpoint) == ("page/hall", True, "fxs/1")
    box(LegAnswered(leg=hall.leg))
    box.pass_by(SETTLE_S)
    assert not box.of(Record)
    box(LegAnswered(leg=ear.leg))
    box.pass_by(SETTLE_S)
    assert [(each.leg, each.file) for each in box.of(Record)] == [
        (hall.leg, "tests/T.wav"), (ear.leg, "tests/T-heard.wav"),
    ]  # fmt: skip
    (play,) = box.of(Play)
    assert play.leg == hall.leg
    box(AnnouncementEnded(leg=hall.leg, play=play.play))
    box.pass_by(TAIL_S)
    box.pass_by(CLOSING_S)
    assert len(box.of(Hangup)) == 2
    assert box.outcome.heard == "tests/T-heard.wav"
    assert box.gone()


@pytest.mark.parametrize(
    ("endpoint", "more", "why"),
    [
        ("fxs/9", {}, "no card"),
        ("gate/1", {}, "cannot be called"),
        ("fxs/77", {}, "there is no endpoint"),
        ("sip/telco", {}, "needs a number"),
        ("radio/n", {}, "would transmit"),
        ("radio/s", {"transmit": True}, "disabled on radio/s"),
        ("radio/n", {"transmit": True, "kind": "acoustic"}, "name a radio that listens"),
        ("radio/n", {"kind": "acoustic", "listen": "radio/rx"}, "would transmit"),
        ("radio/rx", {"kind": "acoustic", "listen": "radio/n", "transmit": True}, "is disabled"),
        ("page/hall", {}, "no microphone"),
        ("page/hall", {"kind": "acoustic"}, "no microphone"),
        ("fxs/1", {"kind": "acoustic", "listen": "page/hall"}, "no microphone"),
        ("fxs/1", {"kind": "acoustic", "listen": "fxs/77"}, "there is no endpoint"),
    ],
)
def test_what_must_not_be_is_refused(endpoint: str, more: dict[str, Any], why: str) -> None:
    box = Box()
    box.test(endpoint, **more)
    assert box.outcome.outcome is Outcome.REFUSED
    assert why in box.outcome.detail
    assert not box.of(Dial)
    assert box.gone()


def test_a_transmitter_is_keyed_while_the_signal_lasts() -> None:
    box = Box()
    box.test("radio/n", transmit=True)
    leg = box.of(Dial)[0].leg
    box(LegAnswered(leg=leg))
    assert not box.of(Key)
    box.pass_by(SETTLE_S)
    assert len(box.of(Key)) == 1
    box(AnnouncementEnded(leg=leg, play=box.of(Play)[0].play))
    assert len(box.of(Unkey)) == 1


def test_one_radio_is_heard_by_another() -> None:
    box = Box()
    box.test("radio/n", kind="acoustic", listen="radio/rx", transmit=True)
    speaker, listener = (dial.leg for dial in box.of(Dial))
    for leg in (speaker, listener):
        box(LegAnswered(leg=leg))
    box.pass_by(SETTLE_S)
    assert [record.leg for record in box.of(Record)] == [speaker, listener]
    # Its own carrier, where it is listened, ends nothing.
    box(InputChanged(endpoint="radio/rx", input="carrier", value=1.0))
    box(FloorRequested(leg=listener))
    box(AnnouncementEnded(leg=speaker, play=box.of(Play)[0].play))
    box.pass_by(TAIL_S)
    box.pass_by(CLOSING_S)
    assert {key.leg for key in box.of(Key)} == {speaker}, "who listens is never keyed"
    assert box.outcome.outcome is Outcome.HEARD


@pytest.mark.parametrize("heard_at", ["radio/n", "radio/rx"])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_busy_channel_is_left_alone(heard_at: str, when: str) -> None:
    box = Box()
    heard = InputChanged(endpoint=heard_at, input="carrier", value=1.0)
    if when == "before":
        box(heard)
    box.test("radio/n", kind="acoustic", listen="radio/rx", transmit=True)
    for dial in box.of(Dial):
        box(LegAnswered(leg=dial.leg))
    box(heard)
    box.pass_by(SETTLE_S)
    assert not box.of(Key)
    assert box.outcome.outcome is Outcome.PUT_OFF
    assert box.outcome.detail == f"the channel of {heard_at} is busy"
    box(InputChanged(endpoint=heard_at, input="carrier", value=0.0))
    box.done.clear()
    box.test("radio/n", kind="acoustic", listen="radio/rx", transmit=True)
    assert len(box.of(Dial)) == 2, "free again"


def test_a_transmitter_is_released_when_the_signal_does_not_end() -> None:
    box = Box()
    box.test("radio/n", transmit=True)
    leg = box.of(Dial)[0].leg
    box(LegAnswered(leg=leg))
    box.pass_by(SETTLE_S)
    box.pass_by(2.0 + OVERTIME_S)
    assert box.outcome.outcome is Outcome.FAILED
    assert [type(each) for each in box.done if isinstance(each, Key | Unkey | Hangup)] == [
        Key, Unkey, Hangup,
    ]  # fmt: skip


def test_a_line_in_use_is_left_alone() -> None:
    box = Box()
    box(LegOffered(leg="fxs/1#9", endpoint="fxs/1", called="?", trace="x", demanded_at=0.0))
    box.done.clear()
    box.test()
    assert (box.outcome.outcome, box.outcome.detail) == (Outcome.PUT_OFF, "fxs/1 is in use")
    assert not box.of(Dial)


@pytest.mark.parametrize("answered", [False, True])
def test_a_routine_call_takes_the_line(answered: bool) -> None:
    box = Box()
    box.test()
    mine = box.of(Dial)[0].leg
    if answered:
        box(LegAnswered(leg=mine))
        box.pass_by(SETTLE_S)
    box(LegOffered(leg="fxs/2#9", endpoint="fxs/2", called="1", trace="x", demanded_at=0.0))
    assert box.of(Hangup)[0].leg == mine
    # The caller waits until the line is really free, and then has it.
    assert len(box.of(Dial)) == 1
    box.end(mine)
    assert [dial.endpoint for dial in box.of(Dial)] == ["fxs/1", "fxs/1"]
    assert "fxs/2#9" in box.board.legs
    assert box.outcome.outcome is Outcome.PUT_OFF


def test_a_call_that_comes_while_the_test_hangs_up_gets_the_line() -> None:
    box = Box()
    box.test(ring_s=5.0)
    mine = box.of(Dial)[0].leg
    box.pass_by(5.0)
    box(LegOffered(leg="fxs/2#9", endpoint="fxs/2", called="1", trace="x", demanded_at=5.0))
    box.end(mine)
    assert len(box.of(Dial)) == 2
    assert box.outcome.outcome is Outcome.UNANSWERED


def test_two_calls_do_not_take_one_line() -> None:
    box = Box()
    box.test()
    box(LegOffered(leg="fxs/2#9", endpoint="fxs/2", called="1", trace="x", demanded_at=0.0))
    box(LegOffered(leg="fxs/3#9", endpoint="fxs/3", called="1", trace="y", demanded_at=0.0))
    assert [(each.leg, each.cause) for each in box.of(Hangup)][1:] == [("fxs/3#9", Cause.BUSY)]


def test_a_page_takes_the_zone() -> None:
    box = Box()
    box.test("page/hall", kind="tone")
    mine = box.of(Dial)[0].leg
    box(LegAnswered(leg=mine))
    box(LegOffered(leg="fxs/2#9", endpoint="fxs/2", called="2", trace="x", demanded_at=0.0))
    box.end(mine)
    assert box.outcome.outcome is Outcome.PUT_OFF
    assert [dial.endpoint for dial in box.of(Dial)] == ["page/hall", "page/hall"]


def test_the_endpoint_itself_calls() -> None:
    box = Box()
    box.test()
    box(LegOffered(leg="fxs/1#9", endpoint="fxs/1", called="9", trace="x", demanded_at=0.0))
    assert box.of(Dial)[-1].endpoint == "fxs/2"
    assert (box.outcome.outcome, box.outcome.detail) == (Outcome.PUT_OFF, "fxs/1 calls")


def _alarm(box: Box, kind: str) -> None:
    box(AlarmRaised(endpoint="fxs/3", alarm="a", kind=kind, trace="f", raised_at=box.now))


def test_an_emergency_ends_every_test() -> None:
    box = Box()
    box.test()
    _alarm(box, "fire")
    assert box.outcome.outcome is Outcome.PUT_OFF
    assert "alarm a" in box.outcome.detail


def test_a_fault_is_no_emergency() -> None:
    box = Box()
    box.test()
    _alarm(box, "fault")
    assert not box.of(FinishPathTest)


@pytest.mark.parametrize("what", ["alarm", "call"])
def test_nobody_s_test_does_not_begin_in_an_emergency(what: str) -> None:
    box = Box()
    if what == "alarm":
        _alarm(box, "fire")
    else:
        box(LegOffered(leg="fxs/3#9", endpoint="fxs/3", called="9", trace="x", demanded_at=0.0))
    box.test(scheduled=True)
    assert box.outcome.outcome is Outcome.PUT_OFF
    assert len([dial for dial in box.of(Dial) if dial.endpoint == "fxs/1"]) == 0


@pytest.mark.parametrize(
    ("cause", "outcome"),
    [
        (Cause.BUSY, Outcome.PUT_OFF),
        (Cause.NO_ANSWER, Outcome.UNANSWERED),
        (Cause.REJECTED, Outcome.FAILED),
        (Cause.ADAPTER_LOST, Outcome.FAILED),
    ],
)
def test_a_far_end_that_ends_it(cause: Cause, outcome: Outcome) -> None:
    box = Box()
    box.test()
    box(LegEnded(leg=box.of(Dial)[0].leg, cause=cause))
    assert box.outcome.outcome is outcome
    assert box.gone()


@pytest.mark.parametrize("which", [0, 1])
def test_one_end_is_no_test(which: int) -> None:
    box = Box()
    box.test("fxs/1", kind="acoustic", listen="fxs/2")
    legs = [dial.leg for dial in box.of(Dial)]
    box(LegAnswered(leg=legs[0]))
    box(LegAnswered(leg=legs[1]))
    box.pass_by(SETTLE_S)
    box(LegEnded(leg=legs[which], cause=Cause.NORMAL))
    assert [told.leg for told in box.of(Hangup)] == [legs[1 - which]]
    assert box.outcome.outcome is Outcome.FAILED
    assert box.gone()
    box.pass_by(60.0)
    assert box.board.next_timeout() is None


def test_stopping_ends_tests_at_once() -> None:
    box = Box()
    box.test()
    box(StopRequested(deadline_s=30.0))
    assert box.outcome.outcome is Outcome.PUT_OFF
    assert len(box.of(Hangup)) == 1
    box.done.clear()
    box.test("fxs/2")
    assert box.outcome.detail == "the gateway stops"
