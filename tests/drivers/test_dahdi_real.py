"""The driver on the real kernel module: run in the guest (tests/guest), skipped elsewhere.

Channels 1 and 5 are an FXS and an FXO port, cabled inside the kernel.
"""

import os
import time
from collections.abc import Iterator

import pytest

from gateway.drivers import dahdi
from gateway.drivers.dahdi import Channel, EventKind, EventPoll, Hook, PortKind, Tone
from gateway.errors import DeviceError, Unsupported

pytestmark = pytest.mark.skipif(
    not os.path.exists("/sys/module/dahdi"), reason="the dahdi kernel module is not loaded"
)


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    with Channel.open(1) as a, Channel.open(5) as b:
        yield a, b


def expect(channel: Channel, kind: EventKind, within: float = 3.0) -> str | None:
    """Wait for an event of that kind, ignoring others; returns its digit."""
    poll = EventPoll()
    poll.add(channel)
    end = time.monotonic() + within
    seen = []
    while time.monotonic() < end:
        for ready in poll.ready(end - time.monotonic()):
            for event in ready.events():
                seen.append(event)
                if event.kind is kind:
                    poll.close()
                    return event.digit
    pytest.fail(f"no {kind.name}, only {seen}")


def test_finds_spans_and_ports() -> None:
    assert [span.channels for span in dahdi.spans()] == [4, 4]
    ports = dahdi.channels()
    assert [port.kind for port in ports] == [PortKind.FXS] * 4 + [PortKind.FXO] * 4
    assert [port.number for port in ports] == list(range(1, 9))


def test_a_call_with_pulse_digits(pair: tuple[Channel, Channel]) -> None:
    a, b = pair
    b.hook(Hook.OFF_HOOK)
    expect(a, EventKind.RING_OFF_HOOK)
    assert a.params().rx_off_hook
    a.tone(Tone.DIAL)
    time.sleep(0.7)
    b.dial("42", pulse=True)
    assert b.dialing()
    assert expect(a, EventKind.PULSE_DIGIT) == "4"
    assert expect(a, EventKind.PULSE_DIGIT) == "2"
    expect(b, EventKind.DIAL_COMPLETE)
    b.hook(Hook.ON_HOOK)
    expect(a, EventKind.ON_HOOK)


def test_close_hangs_up(pair: tuple[Channel, Channel]) -> None:
    a, b = pair
    b.hook(Hook.OFF_HOOK)
    expect(a, EventKind.RING_OFF_HOOK)
    b.close()
    expect(a, EventKind.ON_HOOK)


def test_ringing_and_battery_drop(pair: tuple[Channel, Channel]) -> None:
    a, b = pair
    time.sleep(2.1)  # no ring is reported in the first two seconds after the port was opened
    a.ring([500, 700])
    expect(b, EventKind.RING_BEGIN)
    expect(b, EventKind.RING_OFF_HOOK)
    b.hook(Hook.OFF_HOOK)
    expect(a, EventKind.RING_OFF_HOOK)
    a.hook(Hook.OFF_HOOK)
    time.sleep(0.8)
    a.hook(Hook.ON_HOOK)
    expect(b, EventKind.ON_HOOK)
    expect(a, EventKind.HOOK_COMPLETE)


def test_errors_name_what_and_remedy(pair: tuple[Channel, Channel]) -> None:
    with pytest.raises(DeviceError, match="busy"):
        Channel.open(1)
    with pytest.raises(DeviceError, match="no such channel"):
        Channel.open(99)
    with pytest.raises(Unsupported):  # the kernel's loop has no line circuit
        pair[0].set_polarity(True)
    with pytest.raises(DeviceError, match="busy"):
        pair[0].hook(Hook.FLASH)
