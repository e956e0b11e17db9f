"""When a signal counts."""

from __future__ import annotations

from gateway.protocols.radio.carrier import Carrier, CarrierTiming

TIMING = CarrierTiming(debounce_s=0.03, hang_s=0.2, turnaround_s=0.3)


def active(**fields: bool) -> Carrier:
    it = Carrier(TIMING, **fields)
    it.signal(True, 0.0)
    it.poll(0.03)
    assert it.open
    return it


def test_a_click_is_nothing() -> None:
    it = Carrier(TIMING)
    it.signal(True, 0.0)
    it.signal(False, 0.02)
    it.poll(1.0)
    assert not it.busy
    assert it.next_timeout() is None


def test_an_over_hangs() -> None:
    it = active()
    it.signal(False, 1.0)
    assert not it.open
    assert it.busy
    it.poll(1.19)
    assert it.busy
    it.poll(1.2)
    assert not it.busy


def test_flutter_is_one_over() -> None:
    it = active()
    for n in range(5):
        it.signal(False, 1.0 + n * 0.2)
        it.signal(True, 1.1 + n * 0.2)
        assert it.open
        assert it.busy


def test_what_a_simplex_receiver_hears_of_us_does_not_count() -> None:
    it = Carrier(TIMING)
    it.transmitting(True, 0.0)
    it.signal(True, 0.1)
    it.poll(5.0)
    assert not it.busy
    it.transmitting(False, 5.0)
    it.poll(5.2)
    assert not it.busy
    it.poll(5.3)
    it.poll(5.33)
    assert it.busy, "he still speaks after the turnaround"


def test_a_duplex_receiver_is_heeded() -> None:
    it = active(heed_while_transmitting=True)
    it.transmitting(True, 1.0)
    assert it.busy


def test_transmitting_ends_what_was_heard() -> None:
    it = active()
    it.transmitting(True, 1.0)
    assert not it.open
    assert not it.busy
