"""Wires: bytes go through unchanged, the bad link is as bad as it says, and repeatable."""

from __future__ import annotations

import os

import pytest
import serial
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.testing.wires import BadLink, SerialLine


async def test_pyserial_opens_it_and_every_octet_passes_both_ways() -> None:
    everything = bytes(range(256))
    with SerialLine() as line, serial.Serial(line.path, 9600, timeout=1) as port:
        port.write(everything)
        assert await line.read(256) == everything
        assert line.pending() == b""
        line.write(everything)
        assert port.read(256) == everything


async def test_nothing_comes_and_something_else_comes() -> None:
    with SerialLine() as line:
        fd = os.open(line.path, os.O_RDWR | os.O_NOCTTY)
        os.write(fd, b"ab")
        with pytest.raises(TimeoutError, match="3 bytes wanted, b'ab' came"):
            await line.read(3, within_s=0.05)
        line.unplug()
        with pytest.raises(OSError, match="Input/output error"):
            os.write(fd, b"x")
        os.close(fd)


def _through(link: BadLink, n: int = 1000) -> list[tuple[object, bytes]]:
    for k in range(n):
        link.send("b", k.to_bytes(2, "big"), k * 0.001)
    return link.deliver(1e9)


def test_a_good_link_is_a_wire() -> None:
    link = BadLink(1, delay_s=0.5)
    link.send("b", b"x", 10.0)
    assert link.next_timeout() == 10.5
    assert link.deliver(10.49) == []
    assert link.deliver(10.5) == [("b", b"x")]
    assert link.next_timeout() is None


def test_badness_is_what_was_ordered() -> None:
    lossy = BadLink(7, loss=0.2)
    assert len(_through(lossy)) == 1000 - lossy.lost
    assert 150 < lossy.lost < 250
    assert 1050 < len(_through(BadLink(7, duplicate=0.1))) < 1150
    late = [data for _, data in _through(BadLink(7, jitter_s=0.05))]
    assert late != sorted(late)
    assert sorted(late) == sorted(data for _, data in _through(BadLink(7)))
    spoiled = _through(BadLink(7, corrupt=0.5))
    wrong = sum(data != k.to_bytes(2, "big") for k, (_, data) in enumerate(spoiled))
    assert 400 < wrong < 600


def test_a_cut_link() -> None:
    link = BadLink(1)
    link.cut = True
    assert _through(link, 10) == []
    assert (link.sent, link.lost) == (10, 10)


@settings(max_examples=30)
@given(st.integers(), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_one_seed_is_one_fate(
    seed: int, loss: float, duplicate: float, corrupt: float, jitter_s: float
) -> None:
    def once() -> list[tuple[object, bytes]]:
        link = BadLink(seed, loss=loss, duplicate=duplicate, corrupt=corrupt, jitter_s=jitter_s)
        return _through(link, 50)

    assert once() == once()
