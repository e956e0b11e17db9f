"""PINs are never shown, alarms and inputs do not pile up, what nobody answers is forgotten."""

from __future__ import annotations

from itertools import count

import msgspec
import pytest

from gateway.core.actions import (
    Action,
    CloseAlarm,
    Command,
    Dial,
    Hangup,
    Note,
    OpenAlarm,
    SendDigits,
    SetOutput,
)
from gateway.core.alarms import ALARMS_KEPT, ALERTS
from gateway.core.calls import Leg, LegState
from gateway.core.causes import Cause, to_sip
from gateway.core.endpoints import Condition, Duplex, Endpoint
from gateway.core.events import (
    AlarmCleared,
    AlarmRaised,
    DigitPressed,
    EndpointChanged,
    EndpointRemoved,
    Event,
    InputChanged,
    LegAnswered,
    LegEnded,
    LegFlashed,
    LegHeld,
    LegOffered,
    MediaLost,
    PanelChanged,
    Quality,
    Severity,
)
from gateway.core.pins import KEPT, LOCKED_S, TRUNK_TRIES
from gateway.core.routes import OutputSetting, PanelCommand, Route, RouteTable, Trigger
from gateway.core.switchboard import Switchboard

ARM = PanelCommand("mqtt/house", "ARM_AWAY")


class Box:
    """A switchboard with two telephones and a panel, and all it has done."""

    def __init__(self, *routes: Route) -> None:
        legs, ids = count(1), count(1)
        self.board = Switchboard(
            RouteTable(routes),
            new_leg=lambda endpoint: f"{endpoint}#{next(legs)}",
            new_id=lambda: f"id-{next(ids)}",
        )
        self.now = 0.0
        self.shown: list[Event] = []
        self.done: list[Action] = []
        for place in ("fxs/1", "fxs/2"):
            self(EndpointChanged(endpoint=Endpoint(id=place, condition=Condition.UP)))
        self(EndpointChanged(endpoint=Endpoint(id="mqtt/house", duplex=Duplex.NONE)))

    def __call__(self, event: Event) -> None:
        self.shown.append(self.board.shown(event))
        self.done += self.board.receive(event, self.now, self.now)

    def call(self, called: str, leg: str = "fxs/1#9", calling: str = "") -> str:
        """Somebody calls, fxs/1 at first, and is answered or refused."""
        endpoint, before = leg.partition("#")[0], len(self.done)
        self(
            LegOffered(
                leg=leg, endpoint=endpoint, called=called, calling=calling, trace="t",
                demanded_at=0.0,
            )
        )  # fmt: skip
        for dial in [action for action in self.done[before:] if isinstance(action, Dial)]:
            self(LegAnswered(leg=dial.leg))
        self(LegAnswered(leg=leg))
        return leg

    def press(self, leg: str, digits: str, via: str = "") -> str:
        """The digits as they were shown."""
        before = len(self.shown)
        for digit in digits:
            self(DigitPressed(leg=leg, digit=digit, via=via))
        return "".join(e.digit for e in self.shown[before:] if isinstance(e, DigitPressed))

    def of(self, kind: type[Action]) -> list[Action]:
        return [action for action in self.done if isinstance(action, kind)]

    def everything(self) -> str:
        return msgspec.json.encode([self.shown, self.done]).decode()


TALK = Route(name="talk", called="2", targets=("fxs/2",))


def test_a_pin_in_a_call_is_not_shown() -> None:
    pins = Route(
        name="arm", on=Trigger.DIGITS, digits="*5(XXXX)", pins={"Anna": "4711"}, command=ARM
    )
    box = Box(TALK, pins)
    leg = box.call("2")
    assert box.press(leg, "12*54711") == "12*5????"
    assert [action.by for action in box.of(Command)] == ["Anna"]  # type: ignore[union-attr]
    assert "4711" not in box.everything()


@pytest.mark.parametrize("via", ["info", "pulse", "keypad"])
def test_digits_beside_the_audio_reach_the_other_side(via: str) -> None:
    pins = Route(
        name="arm", on=Trigger.DIGITS, digits="*5(XXXX)", pins={"Anna": "4711"}, command=ARM
    )
    box = Box(TALK, pins)
    leg = box.call("2")
    (dial,) = box.of(Dial)
    box.press(leg, "1#", via)
    assert box.of(SendDigits) == [
        SendDigits(leg=dial.leg, digits=digit)  # type: ignore[union-attr]
        for digit in "1#"
    ]
    box.press(leg, "!", via)
    assert len(box.of(SendDigits)) == 2, "a hook flash is for us"
    box.press(leg, "*54711", via)
    assert [a.digits for a in box.of(SendDigits)][2:] == ["*", "5"]  # type: ignore[union-attr]


def test_digits_that_the_other_side_hears_are_not_sent_again() -> None:
    box = Box(TALK)
    leg = box.call("2")
    box.press(leg, "1", "rfc4733")
    box.press(leg, "1", "info")
    assert not box.of(SendDigits)


def test_who_is_told_his_digits_is_told_each_once() -> None:
    box = Box(TALK)
    leg = box.call("2")
    place = box.board.endpoints["fxs/2"]
    box(EndpointChanged(endpoint=msgspec.structs.replace(place, digits_beside=True)))
    for digit, via in (("1", "inband"), ("1", "inband"), ("2", "rfc4733"), ("2", "info")):
        box.press(leg, digit, via)
    box.press(leg, "3", "info")
    told = [action.digits for action in box.of(SendDigits)]  # type: ignore[union-attr]
    assert told == ["1", "1", "2", "3"]


def test_copies_that_come_late_are_no_further_keys() -> None:
    """INFO beside RFC 4733 is behind by a round trip, or by a packet that had to be sent again."""
    box = Box(TALK)
    leg = box.call("2")
    place = box.board.endpoints["fxs/2"]
    box(EndpointChanged(endpoint=msgspec.structs.replace(place, digits_beside=True)))
    for digits, via in (("12", "rfc4733"), ("1", "info"), ("3", "rfc4733"), ("23", "info")):
        box.press(leg, digits, via)
    # One INFO is lost; and the next key is the same again.
    for digits, via in (("45", "rfc4733"), ("5", "info"), ("5", "rfc4733"), ("5", "info")):
        box.press(leg, digits, via)
    told = [action.digits for action in box.of(SendDigits)]  # type: ignore[union-attr]
    assert "".join(told) == "123455"


def test_a_pin_that_comes_in_two_ways_is_one_pin() -> None:
    pins = Route(
        name="arm", on=Trigger.DIGITS, digits="*5(XXXX)", pins={"Anna": "4711"}, command=ARM
    )
    box = Box(TALK, pins)
    leg = box.call("2")
    for digits, via in (("*5", "rfc4733"), ("*54", "info"), ("4711", "rfc4733"), ("711", "info")):
        box.press(leg, digits, via)
    assert [action.by for action in box.of(Command)] == ["Anna"]  # type: ignore[union-attr]


def test_wrong_pins_close_the_door_also_to_the_next_call() -> None:
    pins = Route(
        name="arm", on=Trigger.DIGITS, digits="*5(XXXX)", pins={"Anna": "4711"}, command=ARM
    )
    box = Box(TALK, pins)
    leg = box.call("2")
    for entered in ("0000", "1111", "2222", "4711"):
        box.press(leg, f"*5{entered}")
    for each in list(box.board.legs):
        box(LegEnded(leg=each, cause=Cause.NORMAL))
    leg = box.call("2", leg="fxs/1#10")
    box.press(leg, "*54711")
    assert not box.of(Command)
    box.now += LOCKED_S
    box.press(leg, "*54711")
    assert len(box.of(Command)) == 1


def test_a_mistake_is_forgiven_with_the_right_pin_and_is_nobody_elses() -> None:
    route = Route(name="arm", called="*1(XXXX)", pins={"Anna": "4711"}, command=ARM)
    box = Box(route)
    for n, entered in enumerate(("1111", "2222", "4711", "3333", "5555", "4711")):
        leg = box.call(f"*1{entered}", leg=f"fxs/1#{10 + n}")
        box(LegEnded(leg=leg, cause=Cause.NORMAL))
    assert len(box.of(Command)) == 2
    for n in range(3):
        leg = box.call("*10000", leg=f"fxs/1#{20 + n}")
        box(LegEnded(leg=leg, cause=Cause.NORMAL))
    box.call("*14711", leg="fxs/1#30")
    assert len(box.of(Command)) == 2
    box.call("*14711", leg="fxs/2#31")
    assert len(box.of(Command)) == 3


def test_a_trunk_is_locked_by_caller_and_as_a_whole() -> None:
    route = Route(name="arm", called="*1(XXXX)", pins={"Anna": "4711"}, command=ARM)
    box = Box(route)
    box(EndpointChanged(endpoint=Endpoint(
        id="sip/telco", takes_number=True, capacity=None, condition=Condition.UP,
    )))  # fmt: skip

    def dial(n: int, calling: str, pin: str) -> None:
        leg = box.call(f"*1{pin}", leg=f"sip/telco#{n}", calling=calling)
        box(LegEnded(leg=leg, cause=Cause.NORMAL))

    for n in range(3):
        dial(n, "555", "0000")
    dial(10, "555", "4711")
    assert not box.of(Command)
    dial(11, "556", "4711")
    assert len(box.of(Command)) == 1
    # Another number for each try: the trunk as a whole is closed.
    for n in range(TRUNK_TRIES - 3):
        dial(20 + n, f"9{n:03}", "0000")
    dial(99, "556", "4711")
    assert len(box.of(Command)) == 1


def test_who_entered_wrong_pins_is_remembered_in_a_bounded_table() -> None:
    box = Box()
    box(EndpointChanged(endpoint=Endpoint(id="sip/telco", takes_number=True, capacity=None)))
    call = box.board.new_call(trace="t", demanded_at=0.0)
    for n in range(2 * KEPT):
        leg = Leg(
            id=f"sip/telco#{n}", endpoint="sip/telco", call=call, outbound=False,
            state=LegState.OFFERED, calling=f"{n}",
        )  # fmt: skip
        box.board.pins.wrong(leg, "arm")
    assert len(box.board.pins._tries) == KEPT
    # Callers are forgotten, the trunk is not.
    assert box.board.pins.locked(leg, "arm")


def test_a_telephone_that_is_not_registered_is_absent_and_a_broken_one_out_of_order() -> None:
    box = Box(Route(name="to", called="2", targets=("sip/anna",)))
    for absent, cause, status in ((True, Cause.ABSENT, 480), (False, Cause.OUT_OF_ORDER, 502)):
        box(EndpointChanged(endpoint=Endpoint(
            id="sip/anna", condition=Condition.DOWN, reason="not registered", absent=absent,
        )))  # fmt: skip
        leg = "fxs/1#1" if absent else "fxs/1#2"
        box(LegOffered(leg=leg, endpoint="fxs/1", called="2", trace="t", demanded_at=0.0))
        refused = box.of(Hangup)[-1]
        assert isinstance(refused, Hangup)
        assert refused.cause is cause
        assert to_sip(refused.cause) == status
        box(LegEnded(leg=leg, cause=cause))


def test_a_pin_dialled_with_the_number_is_not_shown() -> None:
    route = Route(name="arm", called="*1(XXXX)", pins={"Anna": "4711"}, command=ARM)
    box = Box(route)
    box.call("*14711")
    assert [action.by for action in box.of(Command)] == ["Anna"]  # type: ignore[union-attr]
    assert "4711" not in box.everything()
    assert "*1????" in box.everything()


def test_digits_after_a_service_number_are_a_pin_to_the_end() -> None:
    box = Box(Route(name="arm", called="*1", pins={"Anna": "4711"}, command=ARM))
    leg = box.call("*1")
    assert box.press(leg, "4711#9") == "??????"


def test_a_code_is_found_behind_other_digits_and_a_flash_is_one() -> None:
    lamp = (OutputSetting("mqtt/house", "lamp"),)
    box = Box(
        TALK,
        Route(name="lamp", on=Trigger.DIGITS, digits="*7", outputs=lamp),
        Route(name="door", on=Trigger.DIGITS, digits="!1", outputs=lamp),
    )
    leg = box.call("2")
    box.press(leg, "44*7")
    box(LegFlashed(leg=leg))
    box.press(leg, "1")
    assert len(box.of(SetOutput)) == 2


def test_digits_that_are_far_apart_are_no_code() -> None:
    lamp = (OutputSetting("mqtt/house", "lamp"),)
    box = Box(TALK, Route(name="lamp", on=Trigger.DIGITS, digits="*7", outputs=lamp))
    leg = box.call("2")
    box.press(leg, "*")
    box.now = 10.0
    box.press(leg, "7")
    assert not box.of(SetOutput)


def alarm(name: str) -> AlarmRaised:
    return AlarmRaised(endpoint="mqtt/house", alarm=name, trace="t", raised_at=0.0)


def test_alarms_without_a_route_are_bounded_and_those_being_told_are_kept() -> None:
    told = Route(name="fire", on=Trigger.ALARM, kind=("fire",), targets=("fxs/1",))
    box = Box(told)
    box(msgspec.structs.replace(alarm("fire"), kind="fire"))
    for number in range(ALARMS_KEPT + 10):
        box(alarm(str(number)))
    assert len(box.board.alarms) == ALARMS_KEPT
    assert ("mqtt/house", "fire") in box.board.alarms
    assert any("is dropped: there are 1000" in action.text for action in box.of(Note))  # type: ignore[union-attr]


def _flood(box: Box, severities: list[Severity]) -> None:
    for number, severity in enumerate(severities):
        box(msgspec.structs.replace(alarm(f"{severity.name} {number}"), severity=severity))


def test_of_many_alarms_the_most_severe_are_told_first_and_dropped_last() -> None:
    """Each keeps its outputs until it is acknowledged, so that all of them last."""
    lamp = (OutputSetting("mqtt/house", "lamp"),)
    box = Box(Route(name="all", on=Trigger.ALARM, outputs=lamp))
    _flood(box, [Severity.MINOR] * ALERTS + [Severity.WARNING] * 3 + [Severity.CRITICAL] * 2)
    opened = [action.alarm for action in box.of(OpenAlarm)]  # type: ignore[union-attr]
    assert len(opened) == ALERTS + 2
    assert opened[-2:] == [f"CRITICAL {ALERTS + 3}", f"CRITICAL {ALERTS + 4}"]
    told = {each.alarm for each in box.board.alarms.values() if each.plan}
    assert len(told) == ALERTS
    # The youngest of the least severe made room, and it waits before those below it.
    assert f"MINOR {ALERTS - 1}" not in told
    box.board.acknowledge("mqtt/house", "MINOR 0", "me")
    box.done += box.board.tick(box.now, box.now)
    assert box.of(OpenAlarm)[-1].alarm == f"MINOR {ALERTS - 1}"  # type: ignore[union-attr]
    # One that waits may go away, or be acknowledged; then it is over for the next run too.
    box(AlarmCleared(endpoint="mqtt/house", alarm=f"WARNING {ALERTS}"))
    box.board.acknowledge("mqtt/house", f"WARNING {ALERTS + 1}", "me")
    box.done += box.board.tick(box.now, box.now)
    closed = [(each.alarm, each.outcome) for each in box.of(CloseAlarm)]  # type: ignore[union-attr]
    assert closed == [
        ("MINOR 0", "acknowledged"),
        (f"WARNING {ALERTS}", "cleared"),
        (f"WARNING {ALERTS + 1}", "acknowledged"),
    ]


def test_routed_alarms_are_bounded_and_what_is_dropped_is_said() -> None:
    lamp = (OutputSetting("mqtt/house", "lamp"),)
    box = Box(Route(name="all", on=Trigger.ALARM, outputs=lamp))
    _flood(box, [Severity.MAJOR] * ALARMS_KEPT + [Severity.MINOR, Severity.CRITICAL])
    assert len(box.board.alarms) == ALARMS_KEPT
    dropped = [each.alarm for each in box.of(CloseAlarm)]  # type: ignore[union-attr]
    assert dropped == [f"MINOR {ALARMS_KEPT}", f"MAJOR {ALERTS}"]
    assert {each.outcome for each in box.of(CloseAlarm)} == {"dropped"}  # type: ignore[union-attr]
    assert ("mqtt/house", f"CRITICAL {ALARMS_KEPT + 1}") in box.board.alarms
    # All acknowledged, nothing is left.
    for _ in range(3):
        box.board.acknowledge("mqtt/house", "", "me")
        box.done += box.board.tick(box.now, box.now)
    assert not box.board.alarming._waiting
    assert all(each.plan is None for each in box.board.alarms.values())


def test_an_emergency_button_is_told_before_a_severe_fault() -> None:
    lamp = (OutputSetting("mqtt/house", "lamp"),)
    button = Route(name="button", on=Trigger.INPUT, outputs=lamp, priority="emergency", above=0.5)
    box = Box(Route(name="all", on=Trigger.ALARM, outputs=lamp), button)
    _flood(box, [Severity.MAJOR] * ALERTS)
    box(InputChanged(endpoint="mqtt/house", input="button", value=1.0))
    assert box.of(OpenAlarm)[-1].alarm == "button"  # type: ignore[union-attr]


def test_an_alarm_that_ends_as_it_begins_makes_room_for_all_that_wait() -> None:
    """Nobody can be called: each is exhausted at once, however many wait."""
    lamp = (OutputSetting("mqtt/house", "lamp"),)
    lasts = Route(name="lasts", on=Trigger.ALARM, kind=("lasts",), outputs=lamp)
    ends = Route(name="ends", on=Trigger.ALARM, targets=("fxs/9",), rounds=1)
    box = Box(lasts, ends)
    for number in range(ALERTS):
        box(msgspec.structs.replace(alarm(f"l{number}"), kind="lasts"))
    for number in range(ALARMS_KEPT - ALERTS):
        box(alarm(f"e{number}"))
    assert len(box.board.alarming._waiting) == ALARMS_KEPT - ALERTS
    box.board.acknowledge("mqtt/house", "l0", "me")
    box.done += box.board.tick(box.now, box.now)
    assert not box.board.alarming._waiting


def test_an_alarm_that_is_over_and_gone_is_forgotten() -> None:
    route = Route(
        name="fire", on=Trigger.ALARM, targets=("fxs/1",), acknowledge="1", stop_on_clear=False
    )
    box = Box(route)
    box(alarm("fire"))
    box(AlarmCleared(endpoint="mqtt/house", alarm="fire"))
    (dial,) = box.of(Dial)
    box(LegAnswered(leg=dial.leg))  # type: ignore[union-attr]
    assert not box.of(CloseAlarm)
    box.press(dial.leg, "1")  # type: ignore[union-attr]
    assert [action.outcome for action in box.of(CloseAlarm)] == ["acknowledged"]  # type: ignore[union-attr]
    assert not box.board.alarms


@pytest.mark.parametrize("quality", [Quality.STALE, Quality.BAD])
def test_a_lost_source_is_another_matter_than_its_value(quality: Quality) -> None:
    hot = Route(name="hot", on=Trigger.INPUT, above=60.0, targets=("fxs/1",))
    lost = Route(name="lost", on=Trigger.INPUT, quality=quality, targets=("fxs/2",))
    box = Box(hot, lost)
    value = InputChanged(endpoint="mqtt/house", input="temp", value=70.0)
    box(value)
    box(msgspec.structs.replace(value, quality=quality))
    assert set(box.board.alarms) == {("mqtt/house", "temp"), ("mqtt/house", f"temp/{quality}")}
    assert not box.of(CloseAlarm)
    # Back, and cool: both are over.
    box(msgspec.structs.replace(value, value=20.0))
    assert not box.board.alarms


def test_a_worse_value_is_the_matter_of_its_own_route() -> None:
    hotter = Route(name="hotter", on=Trigger.INPUT, above=80.0, targets=("fxs/2",))
    hot = Route(name="hot", on=Trigger.INPUT, above=60.0, targets=("fxs/1",))
    box = Box(hotter, hot)
    box(InputChanged(endpoint="mqtt/house", input="temp", value=70.0))
    box(InputChanged(endpoint="mqtt/house", input="temp", value=90.0))
    assert [action.endpoint for action in box.of(Dial)] == ["fxs/1", "fxs/2"]  # type: ignore[union-attr]
    assert not box.of(CloseAlarm)


def test_what_belongs_to_a_removed_endpoint_is_forgotten() -> None:
    box = Box()
    box(InputChanged(endpoint="mqtt/house", input="temp", value=1.0))
    box(PanelChanged(endpoint="mqtt/house", state="disarmed"))
    box(EndpointRemoved(endpoint="mqtt/house"))
    assert not box.board.inputs
    assert not box.board.panels


def test_a_command_that_is_never_answered_is_forgotten() -> None:
    box = Box(Route(name="arm", called="*1", command=ARM))
    leg = box.call("*1")
    assert box.board._expected
    box(LegEnded(leg=leg, cause=Cause.NORMAL))
    assert not box.board._expected


def test_silence_on_hold_is_no_fault() -> None:
    box = Box(TALK)
    leg = box.call("2")
    box(LegHeld(leg=leg))
    box(MediaLost(leg=leg))
    assert box.board.legs[leg].live
