"""The FXO port, told as flows."""

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.protocols.analog import CallerId, FxoConfig, FxoPort, FxoState, Rule, Signal, ToneName
from gateway.protocols.analog.fxo import CallerIdFrom
from gateway.protocols.analog.signals import (
    Alert,
    Answered,
    Dial,
    Hangup,
    Idle,
    LineFault,
    LineRestored,
    ListenCallerId,
    Progress,
    RingDetected,
    SendFlash,
    SetHook,
)
from tests.protocols.analog.flow import Clock

CALLER = CallerId(number="5551234")


def start(**settings: object) -> tuple[FxoPort, Clock]:
    port = FxoPort(FxoConfig(**settings))  # type: ignore[arg-type]
    return port, Clock(port)


def ring(port: FxoPort, clock: Clock, seconds: float = 2.0) -> list[object]:
    port.signal(Signal.RING_STARTED, clock.now)
    said: list[object] = list(clock.wait(seconds))
    port.signal(Signal.RING_ENDED, clock.now)
    return said + list(clock.said())


def connect(**settings: object) -> tuple[FxoPort, Clock]:
    """An outgoing call, dialled, in progress."""
    port, clock = start(**settings)
    assert port.seize("123", clock.now)
    assert clock.said() == [SetHook(True)]
    port.tone(ToneName.DIAL, clock.now)
    assert clock.said() == [Dial("123", False)]
    clock.wait(1)
    port.signal(Signal.DIAL_DONE, clock.now)
    return port, clock


def talk(**settings: object) -> tuple[FxoPort, Clock]:
    port, clock = connect(**settings)
    port.signal(Signal.POLARITY_REVERSED, clock.now)
    assert clock.said() == [Answered(Rule.POLARITY)]
    return port, clock


def test_incoming_with_caller_id() -> None:
    port, clock = start()
    assert ring(port, clock) == [RingDetected(), ListenCallerId(True)]
    clock.wait(1.5)
    port.caller_id(CALLER, clock.now)
    assert clock.said() == [ListenCallerId(False), Alert(CALLER)]
    assert port.answer(clock.now)
    assert clock.said() == [SetHook(True)]
    port.release(clock.now)
    assert clock.said() == [SetHook(False), Hangup(Rule.LOCAL)]
    assert clock.wait(1.5) == [Idle()]


def test_incoming_without_caller_id() -> None:
    port, clock = start()
    ring(port, clock)
    assert clock.wait(3.5) == [ListenCallerId(False), Alert(None)]


def test_second_ring_ends_the_wait_for_caller_id() -> None:
    port, clock = start(caller_id_window=9.0)
    ring(port, clock)
    clock.wait(4)
    assert ring(port, clock) == [ListenCallerId(False), Alert(None)]


def test_no_caller_id_expected_alerts_at_once() -> None:
    port, clock = start(caller_id=CallerIdFrom.NONE)
    assert ring(port, clock) == [RingDetected(), Alert(None)]


def test_caller_id_before_ring() -> None:
    port, clock = start(caller_id=CallerIdFrom.BEFORE_RING)
    port.signal(Signal.POLARITY_REVERSED, clock.now)
    assert clock.said() == [ListenCallerId(True)]
    clock.wait(1)
    port.caller_id(CALLER, clock.now)
    assert clock.said() == [ListenCallerId(False)]
    assert ring(port, clock) == [RingDetected(), Alert(CALLER)]


def test_noise_is_not_a_ring() -> None:
    port, clock = start()
    assert ring(port, clock, 0.2) == []
    assert port.state is FxoState.IDLE
    assert port.ignored["short ring"] == 1


def test_caller_gives_up() -> None:
    port, clock = start(caller_id=CallerIdFrom.NONE)
    ring(port, clock)
    assert clock.wait(4) == []
    ring(port, clock)
    assert clock.wait(9.9) == []
    assert clock.wait(0.2) == [Hangup(Rule.RING_STOPPED), Idle()]
    assert not port.answer(clock.now)


def test_declined_call_is_not_offered_again() -> None:
    port, clock = start(caller_id=CallerIdFrom.NONE)
    ring(port, clock)
    port.release(clock.now)
    assert clock.said() == [Hangup(Rule.LOCAL)]
    clock.wait(4)
    assert ring(port, clock) == []
    assert not port.seize("1", clock.now)
    assert clock.wait(10.1) == [Idle()]


def test_outgoing_by_dial_tone_and_polarity() -> None:
    port, clock = talk()
    assert port.flash(clock.now)
    assert port.dial("9", clock.now)
    assert clock.said() == [SendFlash(), Dial("9", False)]
    port.signal(Signal.POLARITY_REVERSED, clock.now)
    assert clock.said() == [SetHook(False), Hangup(Rule.POLARITY)]


def test_no_dial_tone() -> None:
    port, clock = start()
    port.seize("123", clock.now)
    assert clock.wait(3) == [SetHook(True), Dial("123", False)]
    port, clock = start(dial_without_tone=False)
    port.seize("123", clock.now)
    assert clock.wait(3) == [SetHook(True), SetHook(False), Hangup(Rule.NO_DIAL_TONE)]


def test_fixed_delay_instead_of_dial_tone() -> None:
    port, clock = start(wait_dial_tone=0, pulse=True)
    port.seize("123", clock.now)
    assert clock.wait(1.9) == [SetHook(True)]
    assert clock.wait(0.2) == [Dial("123", True)]


def test_answer_by_voice_after_ringback_only() -> None:
    port, clock = connect()
    port.tone(ToneName.VOICE, clock.now)
    assert clock.said() == []
    port.tone(ToneName.RINGBACK, clock.now)
    port.tone(ToneName.RINGBACK, clock.now)
    assert clock.said() == [Progress()]
    port.tone(ToneName.VOICE, clock.now)
    assert clock.said() == [Answered(Rule.VOICE)]


def test_answer_by_timer_or_at_once() -> None:
    _, clock = connect(answer_timer=12.0)
    assert clock.wait(12) == [Answered(Rule.TIMER)]
    _, clock = connect(answer=(Rule.IMMEDIATE,))
    assert clock.said() == [Answered(Rule.IMMEDIATE)]


def test_late_answer_reversal_does_not_hang_up() -> None:
    port, clock = connect(answer_timer=5.0)
    assert clock.wait(5) == [Answered(Rule.TIMER)]
    port.signal(Signal.POLARITY_REVERSED, clock.now)
    assert clock.said() == []
    port.signal(Signal.POLARITY_REVERSED, clock.now)
    assert clock.said() == [SetHook(False), Hangup(Rule.POLARITY)]


def test_nobody_answers() -> None:
    _, clock = connect(answer=(Rule.POLARITY,))
    assert clock.wait(120) == [SetHook(False), Hangup(Rule.NO_ANSWER)]


def test_battery_drop_is_a_release_but_a_glitch_is_not() -> None:
    port, clock = talk()
    port.signal(Signal.BATTERY_LOST, clock.now)
    assert clock.wait(0.2) == []
    port.signal(Signal.BATTERY_RESTORED, clock.now)
    assert clock.wait(1) == []
    port.signal(Signal.BATTERY_LOST, clock.now)
    assert clock.wait(0.25) == [SetHook(False), Hangup(Rule.CPC)]


def test_tone_release_names_the_tone() -> None:
    port, clock = talk()
    port.tone(ToneName.RINGBACK, clock.now)
    port.tone(ToneName.BUSY, clock.now, "busy, 3 cycles")
    assert clock.said() == [SetHook(False), Hangup(Rule.TONE, "busy, 3 cycles")]


def test_silence_and_longest_call() -> None:
    port, clock = talk(silence=20.0, max_call=60.0)
    clock.wait(15)
    port.heard(clock.now)
    assert clock.wait(19) == []
    assert clock.wait(1) == [SetHook(False), Hangup(Rule.SILENCE)]
    port, clock = talk(max_call=60.0)
    assert clock.wait(60) == [SetHook(False), Hangup(Rule.MAX_CALL)]


def test_glare() -> None:
    port, clock = start()
    port.seize("1", clock.now)
    clock.wait(0.2)
    port.signal(Signal.RING_STARTED, clock.now)
    assert clock.said() == [SetHook(False), Hangup(Rule.GLARE)]
    port, clock = start()
    port.signal(Signal.RING_STARTED, clock.now)
    assert not port.seize("1", clock.now)


def test_guard_before_the_next_seizure_but_not_before_a_ring() -> None:
    port, clock = talk()
    port.release(clock.now)
    clock.said()
    assert not port.seize("1", clock.now)
    assert RingDetected() in ring(port, clock)


def test_unplugged_line() -> None:
    port, clock = start()
    port.signal(Signal.BATTERY_LOST, clock.now)
    assert not port.seize("1", clock.now)
    assert clock.wait(1) == [LineFault("no battery")]
    port.signal(Signal.BATTERY_RESTORED, clock.now)
    assert clock.said() == [LineRestored()]
    assert port.seize("1", clock.now)
    port.signal(Signal.FAULT, clock.now)
    assert clock.said()[1:] == [
        SetHook(False),
        Hangup(Rule.FAULT, "line alarm"),
        LineFault("line alarm"),
    ]


STEPS = st.one_of(
    st.sampled_from(list(Signal)),
    st.sampled_from(list(ToneName)),
    st.sampled_from(["seize", "answer", "dial", "flash", "release", "stop", "cid", "heard"]),
    st.floats(0, 40),
)


@settings(max_examples=300)
@given(
    st.lists(STEPS, max_size=40),
    st.sampled_from(list(CallerIdFrom)),
    st.sets(st.sampled_from([Rule.POLARITY, Rule.VOICE, Rule.TIMER, Rule.IMMEDIATE])),
    st.sampled_from([0.0, 5.0]),
)
def test_nothing_wedges_the_port(
    steps: list[Signal | ToneName | str | float],
    cid: CallerIdFrom,
    answer: set[Rule],
    limit: float,
) -> None:
    """Whatever comes: no exception; each call ends once; released means on hook."""
    port, clock = start(caller_id=cid, answer=tuple(answer), silence=limit, max_call=limit)
    off = listening = in_call = False

    def check(said: list[object]) -> None:
        nonlocal off, listening, in_call
        for output in said:
            match output:
                case SetHook(value):
                    assert value != off
                    off = value
                case ListenCallerId(value):
                    assert value != listening
                    listening = value
                case Alert():
                    assert not in_call
                    in_call = True
                case Hangup():
                    assert in_call, "a call ended twice"
                    in_call = False

    for step in steps:
        match step:
            case Signal():
                port.signal(step, clock.now)
            case ToneName():
                port.tone(step, clock.now)
            case "seize":
                in_call = port.seize("12", clock.now) or in_call
            case "answer":
                check(list(clock.said()))
                in_call = port.answer(clock.now) or in_call
            case "dial":
                port.dial("1", clock.now)
            case "flash":
                port.flash(clock.now)
            case "release":
                port.release(clock.now)
                assert not port.off_hook
            case "stop":
                port.stop(clock.now)
            case "cid":
                port.caller_id(CALLER, clock.now)
            case "heard":
                port.heard(clock.now)
            case float():
                check(list(clock.wait(step)))
        check(list(clock.said()))
        assert off == port.off_hook
    port.release(clock.now)
    check(list(clock.said()))
    assert not off
    assert not in_call
    port.signal(Signal.RING_ENDED, clock.now)
    port.signal(Signal.BATTERY_RESTORED, clock.now)
    port.signal(Signal.FAULT_CLEARED, clock.now)
    check(list(clock.wait(200)))
    assert port.state is FxoState.IDLE
    assert not listening
    assert port.seize("1", clock.now)
