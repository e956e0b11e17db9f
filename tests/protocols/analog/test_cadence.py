"""Cadence matching and the raw hook switch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocols.analog.cadence import RING_CADENCES, CadenceMatcher, HookSwitch
from gateway.protocols.analog.signals import Signal


def matches(matcher: CadenceMatcher, times_ms: list[float]) -> bool:
    """Feed alternating on and off times, on first."""
    now, on, hit = 0.0, True, matcher.edge(True, 0.0)
    for ms in times_ms:
        now += ms / 1000
        on = not on
        hit = matcher.edge(on, now) or hit
    return hit


@pytest.mark.parametrize("scale", [0.9, 1.0, 1.1])
def test_three_cycles_of_busy(scale: float) -> None:
    assert matches(CadenceMatcher((500, 500)), [500 * scale] * 6)
    assert not matches(CadenceMatcher((500, 500)), [500 * scale] * 5)


def test_congestion_is_not_busy() -> None:
    assert not matches(CadenceMatcher((500, 500)), [250] * 40)
    assert not matches(CadenceMatcher((250, 250)), [500] * 40)
    assert not matches(CadenceMatcher((500, 500)), [2000, 4000] * 5)


def test_uneven_cadence_from_any_place() -> None:
    uk = [400.0, 350, 225, 525]
    for start in (0, 2):
        assert matches(CadenceMatcher((400, 350, 225, 525)), (uk[start:] + uk[:start]) * 4)


def test_speech_restarts_the_count() -> None:
    assert not matches(CadenceMatcher((500, 500)), [500, 500, 500, 500, 90, 500, 500, 500, 500])


@given(st.lists(st.floats(1, 5000), max_size=60))
def test_any_times(times: list[float]) -> None:
    matches(CadenceMatcher((375, 375)), times)


def test_ring_cadences_are_pairs() -> None:
    assert all(len(c) % 2 == 0 and min(c) > 0 for c in RING_CADENCES.values())


class Phone:
    """Opens and closes a loop for so many milliseconds each."""

    def __init__(self) -> None:
        self.switch = HookSwitch()
        self.now = 0.0
        self.seen: list[Signal | str] = []

    def loop(self, closed: bool, for_ms: float) -> None:
        self.seen += self.switch.loop(closed, self.now)
        end = self.now + for_ms / 1000
        while (due := self.switch.next_timeout()) is not None and due <= end:
            self.seen += self.switch.tick(due)
        self.now = end


def test_lift_and_hang_up_with_bounces() -> None:
    phone = Phone()
    for ms in (3, 2, 4):
        phone.loop(True, ms)
        phone.loop(False, ms)
    phone.loop(True, 500)
    phone.loop(False, 5)
    phone.loop(True, 500)
    phone.loop(False, 800)
    assert phone.seen == [Signal.LIFTED, Signal.HUNG_UP]


@pytest.mark.parametrize(("break_ms", "make_ms"), [(60, 40), (66, 33), (33, 33)])
def test_pulse_digits(break_ms: int, make_ms: int) -> None:
    phone = Phone()
    phone.loop(True, 500)
    for pulses in (3, 10, 1):
        for i in range(pulses):
            phone.loop(False, break_ms)
            phone.loop(True, make_ms if i < pulses - 1 else 700)
    assert [s for s in phone.seen if not isinstance(s, Signal)] == ["3", "0", "1"]
    assert phone.seen.count(Signal.PULSE_STARTED) == 3


@pytest.mark.parametrize(("ms", "flash"), [(150, False), (210, True), (690, True), (710, False)])
def test_flash_window(ms: int, flash: bool) -> None:
    phone = Phone()
    phone.loop(True, 500)
    phone.loop(False, ms)
    phone.loop(True, 100)
    assert (Signal.FLASHED in phone.seen) == flash
    assert (Signal.HUNG_UP in phone.seen) == (ms > 700)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 3000)), max_size=60))
def test_any_contact(steps: list[tuple[bool, float]]) -> None:
    phone = Phone()
    for closed, ms in steps:
        phone.loop(closed, ms)
    phone.loop(False, 5000)
    assert not phone.switch.up
    assert phone.seen.count(Signal.LIFTED) == phone.seen.count(Signal.HUNG_UP)
