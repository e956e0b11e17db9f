"""Framer: what goes in as frames comes out as packets, whatever else goes in."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator

import pytest

from gateway.drivers._framer import Framer
from tests.fresh import descriptors

FRAME, STEP = 160, 160
PREFIX = b"header of a page"


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket, socket.socket, socket.socket]]:
    """Where frames are written, what the framer reads, what it writes to, what hears it."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ear.bind(("127.0.0.1", 0))
    ear.settimeout(10.0)
    mouth = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    mouth.connect(ear.getsockname())
    four = (near, far, mouth, ear)
    yield four
    for one in four:
        one.close()


def framer(ends, *, count: int = 0, prefix: bytes = PREFIX, frame_bytes: int = FRAME) -> Framer:
    _, far, mouth, _ = ends
    return Framer(
        far.fileno(), mouth.fileno(), prefix, frame_bytes=frame_bytes, step=STEP, count=count
    )


def drained(it: Framer, n: int) -> None:
    """Until the framer has taken `n` datagrams, one way or the other."""
    deadline = time.monotonic() + 10.0
    while sum(it.counts()[:3]) < n:
        assert time.monotonic() < deadline, f"{it.counts()} of {n}"
        time.sleep(0.001)


def test_each_packet_has_header_count_previous_frame_and_frame(ends):
    near, _, _, ear = ends
    it = framer(ends, count=0xFFFFFFFF - STEP)  # the count wraps
    it.forward(True)
    frames = [bytes([n]) * FRAME for n in range(1, 6)]
    for frame in frames:
        near.send(frame)
    counts = [(0xFFFFFFFF - STEP + n * STEP) % 2**32 for n in range(5)]
    before = b""
    for count, frame in zip(counts, frames, strict=True):
        assert ear.recv(2048) == PREFIX + count.to_bytes(4) + before + frame
        before = frame
    assert it.counts()[:3] == (5, 0, 0)
    it.close()
    assert it.counts()[:3] == (5, 0, 0)


def test_nothing_goes_through_before_it_may(ends):
    near, _, _, ear = ends
    it = framer(ends)
    near.send(bytes(FRAME))
    drained(it, 1)
    it.forward(True)
    near.send(b"\1" * FRAME)
    assert ear.recv(2048) == PREFIX + bytes(4) + b"\1" * FRAME
    it.forward(False)
    near.send(bytes(FRAME))
    drained(it, 3)
    assert it.counts()[:3] == (1, 2, 0)
    it.close()


def test_datagrams_of_any_size_are_dropped_and_counted(ends):
    """Also empty ones, which look like the end of a stream and are not."""
    near, _, _, ear = ends
    rng = random.Random(5)
    it = framer(ends, prefix=rng.randbytes(64), frame_bytes=640)
    it.forward(True)
    sizes = []
    for n in range(1, 1001):
        size = rng.choice((0, 1, 159, 639, 640, 640, 641, 642, 1500, 9000))
        near.send(rng.randbytes(size))
        if size == 640:
            sizes.append(len(ear.recv(4096)))
        elif n % 5 == 0:  # a datagram socket holds few
            drained(it, n)
    drained(it, 1000)
    assert sizes == [64 + 4 + 640] + [64 + 4 + 1280] * (len(sizes) - 1)
    assert it.counts()[:3] == (len(sizes), 1000 - len(sizes), 0)
    it.close()


def test_a_far_end_that_is_gone_costs_packets_only(ends):
    near, _, _, ear = ends
    it = framer(ends)
    it.forward(True)
    ear.close()  # from now on the kernel answers with ICMP
    for n in range(1, 51):
        near.send(bytes(FRAME))
        drained(it, n)
    sent, dropped, errors, _ = it.counts()
    assert errors > 0
    assert (sent + errors, dropped) == (50, 0)
    it.close()


def test_sizes_that_do_not_fit(ends):
    for wrong in ({"prefix": bytes(65)}, {"frame_bytes": 0}, {"frame_bytes": 641}):
        with pytest.raises(ValueError, match="octets"):
            framer(ends, **wrong)


def test_bad_descriptors_leave_none_behind(ends):
    _, far, _, _ = ends
    before = descriptors(tidy=True)
    for fds in ((far.fileno(), -1), (-1, far.fileno())):
        with pytest.raises(OSError, match="descriptor"):
            Framer(*fds, PREFIX, frame_bytes=FRAME, step=STEP)
    assert descriptors() == before


def test_opened_and_closed_many_times(ends):
    near, _, _, ear = ends
    before = descriptors(tidy=True)
    for n in range(300):
        it = framer(ends)
        it.forward(True)
        near.send(bytes(FRAME))
        assert len(ear.recv(2048)) == len(PREFIX) + 4 + FRAME
        if n % 2:
            it.close()
            it.close()
            it.forward(True)
        del it  # closes it as well
    assert descriptors() == before
