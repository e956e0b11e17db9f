"""The FXS port, told as flows: what happens, what the port does."""

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.protocols.analog import CallerId, FxsConfig, FxsPort, FxsState, Rule, Signal, ToneName
from gateway.protocols.analog.digits import DialPlan
from gateway.protocols.analog.fxs import CallerIdWhen
from gateway.protocols.analog.signals import (
    Answered,
    DigitPressed,
    Digits,
    DropBattery,
    Flash,
    Hangup,
    Idle,
    LineFault,
    LineRestored,
    LockedOut,
    OffHook,
    PlayTone,
    Ring,
    SendCallerId,
    SetHook,
    SetPolarity,
    StopRing,
    StopTone,
)
from tests.protocols.analog.flow import Clock

PLAN = DialPlan(("[1-5]xx", "9xxxx.", "0"))
US = (2000, 4000)


def start(**settings: object) -> tuple[FxsPort, Clock]:
    port = FxsPort(FxsConfig(plan=PLAN, **settings))  # type: ignore[arg-type]
    return port, Clock(port)


def test_no_ring_before_the_battery_is_back() -> None:
    port, clock = start()
    assert port.ring(clock.now)
    port.signal(Signal.LIFTED, clock.now)
    port.release(clock.now)
    clock.said()
    clock.wait(0.2)
    port.signal(Signal.HUNG_UP, clock.now)
    assert port.state is FxsState.GUARD
    assert Idle() not in clock.wait(0.6)
    assert Idle() in clock.wait(0.2)
    assert port.ring(clock.now)


def test_a_line_that_is_lent_again_at_once_is_connected_when_the_battery_is_back() -> None:
    port, clock = start()
    assert port.connect(clock.now)
    port.signal(Signal.LIFTED, clock.now)  # the station closes the loop
    clock.said()
    port.release(clock.now)
    assert clock.said() == [Hangup(Rule.LOCAL), DropBattery()]
    assert port.connect(clock.now)
    assert not port.connect(clock.now) or port.state is FxsState.CLEARING
    assert clock.wait(2.0) == [SetHook(True)]
    assert port.state is FxsState.LENT
    # It is over again, and nobody asks for the line: as after any call.
    port.release(clock.now)
    clock.wait(2.0)
    assert port.state is FxsState.BUSY_TONE
    # The station holds the loop still; whoever is lent the line next does not hear the tone.
    assert port.connect(clock.now)
    assert StopTone() in clock.said()
    port.release(clock.now)
    assert port.connect(clock.now)
    port.release(clock.now)  # who was to have it has gone
    port.signal(Signal.HUNG_UP, clock.now)
    clock.wait(2.0)
    assert port.state is FxsState.IDLE


def lift(port: FxsPort, clock: Clock) -> list[object]:
    port.signal(Signal.LIFTED, clock.now)
    return list(clock.said())


def dial(port: FxsPort, clock: Clock, digits: str) -> list[object]:
    said: list[object] = []
    for digit in digits:
        port.digit(digit, clock.now)
        said += clock.wait(0.3)
    return said


def test_call_out_and_hang_up() -> None:
    port, clock = start()
    assert lift(port, clock) == [SetHook(True), OffHook(), PlayTone(ToneName.DIAL)]
    assert dial(port, clock, "123") == [StopTone(), Digits("123", True)]
    port.progress(clock.now)
    assert clock.said() == [PlayTone(ToneName.RINGBACK)]
    port.answered(clock.now)
    assert clock.said() == [StopTone()]
    port.digit("5", clock.now)
    port.signal(Signal.FLASHED, clock.now)
    assert clock.said() == [DigitPressed("5"), Flash()]
    port.signal(Signal.HUNG_UP, clock.now)
    assert clock.said() == [Hangup(Rule.ON_HOOK), SetHook(False)]
    assert clock.wait(1) == [Idle()]
    assert port.state is FxsState.IDLE


def test_open_number_waits_the_short_time() -> None:
    port, clock = start()
    lift(port, clock)
    dial(port, clock, "9123")
    assert clock.wait(3.5) == []
    port.digit("4", clock.now)
    assert clock.wait(1.9) == []
    assert clock.wait(0.2) == [Digits("91234", True)]


def test_half_a_number_gets_congestion_then_howler_then_lock_out() -> None:
    port, clock = start()
    lift(port, clock)
    dial(port, clock, "12")
    assert clock.wait(4) == [
        Digits("12", False),
        Hangup(Rule.LOCAL, "no such number"),
        PlayTone(ToneName.CONGESTION),
    ]
    assert clock.wait(30) == [PlayTone(ToneName.HOWLER)]
    assert clock.wait(60) == [StopTone(), LockedOut()]
    port.signal(Signal.HUNG_UP, clock.now)
    assert clock.wait(1) == [SetHook(False), Idle()]


def test_nobody_dials() -> None:
    port, clock = start()
    lift(port, clock)
    assert clock.wait(14.9) == []
    assert Hangup(Rule.LOCAL, "no digit") in clock.wait(0.2)
    assert port.state is FxsState.BUSY_TONE


def test_pulse_stops_dial_tone_at_its_start() -> None:
    port, clock = start()
    lift(port, clock)
    port.signal(Signal.PULSE_STARTED, clock.now)
    assert clock.said() == [StopTone()]
    assert dial(port, clock, "0") == [Digits("0", True)]


def test_hotline_at_once() -> None:
    port, clock = start(hotline="200")
    assert lift(port, clock) == [SetHook(True), OffHook(), Digits("200", True)]
    assert port.state is FxsState.CALLING


def test_warmline() -> None:
    port, clock = start(hotline="200", hotline_delay=5.0)
    assert PlayTone(ToneName.DIAL) in lift(port, clock)
    assert clock.wait(5) == [StopTone(), Digits("200", True)]
    port, clock = start(hotline="200", hotline_delay=5.0)
    lift(port, clock)
    dial(port, clock, "3")
    assert clock.wait(3.6) == []
    assert dial(port, clock, "44") == [Digits("344", True)]


def test_message_waiting_stutters() -> None:
    port, clock = start()
    port.messages_waiting = True
    assert PlayTone(ToneName.STUTTER) in lift(port, clock)


def test_ring_with_caller_id_and_answer() -> None:
    port, clock = start()
    caller = CallerId(number="5551234")
    assert port.ring(clock.now, caller)
    assert clock.said() == [Ring(US)]
    assert clock.wait(2) == []
    port.signal(Signal.RINGER_OFF, clock.now)
    assert clock.wait(0.6) == [SendCallerId(caller)]
    clock.wait(3.4)
    port.signal(Signal.RINGER_OFF, clock.now)
    assert clock.wait(1) == [], "caller ID goes out once"
    assert lift(port, clock) == [StopRing(), SetHook(True), Answered(Rule.OFF_HOOK)]
    assert port.state is FxsState.TALKING


def test_caller_id_waits_for_the_long_pause_of_the_cadence() -> None:
    port, clock = start(cadence_ms=(400, 200, 400, 2000))
    caller = CallerId(number="5551234")
    assert port.ring(clock.now, caller)
    clock.wait(0.4)
    port.signal(Signal.RINGER_OFF, clock.now)
    assert clock.wait(0.6) == [], "the second burst rings by now"
    port.signal(Signal.RINGER_OFF, clock.now)
    assert clock.wait(0.6) == [SendCallerId(caller)]


def test_a_slow_dial_is_waited_for_from_its_first_pulse() -> None:
    port, clock = start(inter_digit=1.0)
    lift(port, clock)
    dial(port, clock, "1")
    clock.wait(0.5)
    port.signal(Signal.PULSE_STARTED, clock.now)
    assert clock.wait(1.2) == []
    assert dial(port, clock, "0") == []
    assert dial(port, clock, "0") == [Digits("100", True)]


def test_caller_id_is_not_sent_into_an_answered_call() -> None:
    port, clock = start()
    port.ring(clock.now, CallerId(number="1"))
    port.signal(Signal.RINGER_OFF, clock.now)
    lift(port, clock)
    assert clock.wait(5) == []


def test_caller_id_before_ring() -> None:
    port, clock = start(caller_id=CallerIdWhen.BEFORE_RING)
    caller = CallerId(number="1")
    port.ring(clock.now, caller)
    assert clock.said() == [SetPolarity(True)]
    assert clock.wait(0.5) == [SendCallerId(caller)]
    port.caller_id_sent(clock.now)
    assert clock.wait(0.2) == [SetPolarity(False), Ring(US)]


def test_unanswered() -> None:
    port, clock = start()
    port.ring(clock.now)
    clock.said()
    port.release(clock.now)
    assert clock.said() == [StopRing(), Hangup(Rule.LOCAL)]
    assert not port.ring(clock.now), "guard time"
    assert clock.wait(0.3) == [Idle()]
    assert port.ring(clock.now)


def test_no_ring_while_in_use() -> None:
    port, clock = start()
    lift(port, clock)
    assert not port.ring(clock.now)


def test_far_end_releases_first() -> None:
    port, clock = start(answer_reversal=True)
    lift(port, clock)
    dial(port, clock, "123")
    port.answered(clock.now)
    assert SetPolarity(True) in clock.said()
    port.release(clock.now)
    assert clock.said() == [Hangup(Rule.LOCAL), SetPolarity(False), DropBattery()]
    assert clock.wait(0.9) == [SetHook(True), PlayTone(ToneName.BUSY)]
    port.signal(Signal.HUNG_UP, clock.now)
    said = clock.wait(1)
    assert said == [StopTone(), SetHook(False), Idle()]


def test_refused_call_gets_its_tone_without_a_battery_drop() -> None:
    port, clock = start()
    lift(port, clock)
    dial(port, clock, "123")
    port.release(clock.now, ToneName.CONGESTION)
    assert clock.said() == [Hangup(Rule.LOCAL), PlayTone(ToneName.CONGESTION)]


def test_fault_ends_the_call_and_clears() -> None:
    port, clock = start()
    port.ring(clock.now)
    clock.said()
    port.signal(Signal.FAULT, clock.now)
    assert clock.said() == [Hangup(Rule.FAULT), StopRing(), LineFault("port alarm")]
    assert not port.ring(clock.now)
    port.signal(Signal.FAULT_CLEARED, clock.now)
    assert clock.said() == [LineRestored(), Idle()]


def test_flash_may_be_off() -> None:
    port, clock = start(flash=False)
    port.ring(clock.now)
    lift(port, clock)
    port.signal(Signal.FLASHED, clock.now)
    assert clock.said() == []
    assert port.ignored["flashed in talking"] == 1


STEPS = st.one_of(
    st.sampled_from(list(Signal)),
    st.sampled_from(list("0123459*#AZ")),
    st.sampled_from(["ring", "sent", "progress", "answered", "release", "stop"]),
    st.floats(0, 40),
)


@settings(max_examples=300)
@given(
    st.lists(STEPS, max_size=40),
    st.sampled_from(list(CallerIdWhen)),
    st.booleans(),
    st.sampled_from(["", "200"]),
)
def test_nothing_wedges_the_port(
    steps: list[Signal | str | float], when: CallerIdWhen, drop: bool, hotline: str
) -> None:
    """Whatever comes: no exception; each call ends once; at the end nothing rings or sounds."""
    port, clock = start(caller_id=when, battery_drop=drop, hotline=hotline, answer_reversal=True)
    ringing = sounding = reversed_ = in_call = False

    def check(said: list[object]) -> None:
        nonlocal ringing, sounding, reversed_, in_call
        for output in said:
            match output:
                case Ring():
                    assert not ringing
                    ringing = True
                case StopRing():
                    assert ringing
                    ringing = False
                case PlayTone():
                    sounding = True
                case StopTone():
                    sounding = False
                case SetPolarity(value):
                    assert value != reversed_
                    reversed_ = value
                case OffHook():
                    assert not in_call
                    in_call = True
                case Hangup():
                    assert in_call, "a call ended twice"
                    in_call = False

    for step in steps:
        match step:
            case Signal():
                port.signal(step, clock.now)
            case "ring":
                if port.ring(clock.now, CallerId(number="1")):
                    in_call = True
            case "sent":
                port.caller_id_sent(clock.now)
            case "progress":
                port.progress(clock.now)
            case "answered":
                port.answered(clock.now)
            case "release":
                port.release(clock.now)
            case "stop":
                port.stop(clock.now)
            case str():
                port.digit(step, clock.now)
            case float():
                check(list(clock.wait(step)))
        check(list(clock.said()))
    port.release(clock.now)
    check(list(clock.said()))
    assert not ringing
    assert not in_call
    port.signal(Signal.HUNG_UP, clock.now)
    port.signal(Signal.FAULT_CLEARED, clock.now)
    check(list(clock.wait(200)))
    assert port.state is FxsState.IDLE
    assert not sounding
    assert not reversed_
    assert port.ring(clock.now)
