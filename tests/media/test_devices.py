"""Streams over descriptors: socket pairs stand for line cards and sound cards."""

from __future__ import annotations

import asyncio
import os
import socket
import time

import numpy as np
import pytest
from peers import (
    Stalls,
    g711_decode,
    g711_encode,
    listen,
    pace,
    rms_dbm0,
    sine,
    talk,
    usual_level_at,
)

from gateway.errors import DeviceError, UsageError
from gateway.media.streams import Codec, DeviceFailed, DeviceSpec, MediaStarted
from gateway.testing import until


class Card:
    """The far side of a descriptor: gives a block, takes a block."""

    def __init__(self, codec_pt: int = 0, block: int = 160) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.setblocking(False)
        self.pt, self.block, self.heard, self.n = codec_pt, block, [], 0
        self.counts: list[int] = []

    def job(self, pcm: np.ndarray, every: float = 1.0):
        """A `pace` job: the card's clock is `every` times 20 ms per block."""
        octets = g711_encode(pcm, self.pt)
        state = {"due": 0.0}

        def run(i: int) -> None:
            while state["due"] <= i:
                at = self.n * self.block % len(octets)
                self.ours.send(octets[at : at + self.block])
                self.n += 1
                state["due"] += every * self.block / 160
            self.take()

        return run

    def take(self) -> None:
        before = len(self.heard)
        while True:
            try:
                self.heard.append(self.ours.recv(4096))
            except BlockingIOError:
                break
        self.counts.append(len(self.heard) - before)

    async def answered(self, spare: int) -> None:
        """Until one block has been written for each block read, but for so many."""

        def all_came() -> bool:
            self.take()
            return abs(len(self.heard) - self.n) <= spare

        await until(all_came, "one block written for each block read", 5.0)

    def pcm(self) -> np.ndarray:
        return g711_decode(b"".join(self.heard), self.pt)

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def card():
    made = []

    def make(*args):
        made.append(Card(*args))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("block", [80, 160, 320])
async def test_a_line_card_talks_with_rtp(engine, peer, leg, card, block):
    line, a = card(0, block), peer(8)
    events = []
    stream = engine.open(
        DeviceSpec(fd=line.theirs.fileno(), block_bytes=block), on_event=events.append
    )
    sa = leg(a)
    engine.open_bridge("x")
    engine.join("x", stream)
    engine.join("x", sa)
    stalls = Stalls()
    await pace(2.4, stalls, line.job(sine(1009, 1.0)), talk(a, sa.local, sine(701, 1.0)))
    concealed = stream.stats().frames_concealed
    assert usual_level_at(a.pcm()[-8000:], 1009) == pytest.approx(-13, abs=1.5)
    assert usual_level_at(line.pcm()[-8000:], 701) == pytest.approx(-13, abs=1.5)
    await line.answered(320 // block + stalls.frames)
    assert all(len(b) == block for b in line.heard)
    assert MediaStarted(source="") in events
    assert concealed <= 8 + stalls.frames, "the card here is as punctual as Python"


@pytest.mark.parametrize("block", [80, 160, 320])
async def test_a_card_hears_the_beginning_without_a_gap(engine, card, block):
    begins, gaps = [], []
    for _ in range(5):
        line = card(0, block)
        stream = engine.open(DeviceSpec(fd=line.theirs.fileno(), block_bytes=block))
        stream.play_samples(sine(1009, 0.3).tobytes())
        await pace(0.6, line.job(sine(701, 1.0)))
        stream.close()
        loud = np.flatnonzero(np.abs(line.pcm()) > 200)
        begins.append(loud[0])
        gaps.append(np.diff(loud).max())
        # Where a block of silence slipped in, 80 samples or more were quiet. It does wherever this
        # card stands still, so another one may try.
        if begins[-1] <= 160 * 6 and gaps[-1] < 40:
            return
    pytest.fail(f"begins at {begins}, gaps of {gaps} samples")


@pytest.mark.parametrize("every", [0.98, 1.02])
async def test_a_drifting_card_slips_and_does_not_pile_up(engine, peer, leg, card, every):
    line, a = card(), peer(0)
    stream = engine.open(DeviceSpec(fd=line.theirs.fileno()))
    sa = leg(a)
    engine.open_bridge("x")
    engine.join("x", stream)
    engine.join("x", sa)
    stalls = Stalls()
    await pace(6.0, stalls, line.job(sine(1009, 1.0), every), talk(a, sa.local, sine(701, 1.0)))
    stats = stream.stats()
    assert stats.buffer_ms <= 100 + 20 * stalls.frames, "6 s of drift alone would be 120 more"
    await line.answered(1 + stalls.frames)
    assert stats.frames_concealed <= 12 + stalls.frames
    assert usual_level_at(a.pcm()[-8000:], 1009) > -17
    assert usual_level_at(line.pcm()[-8000:], 701) > -17


async def test_a_card_of_g722_gets_silence_of_g722_where_it_is_ahead(engine, card):
    import G722

    line, silence = card(0, 160), b"\xff" * 160
    stream = engine.open(DeviceSpec(fd=line.theirs.fileno(), codec=Codec.G722, rate=16000))
    stream.play_samples(sine(1009, 4.0, 16000).tobytes(), rate=16000)
    await pace(1.5, line.job(np.zeros(8000, np.int16), 0.8))
    assert sum(block == silence for block in line.heard) > 5
    spoken = b"".join(block for block in line.heard if block != silence)
    pcm = np.asarray(G722.G722(16000, 64000).decode(spoken), np.int16)[3200:]
    assert usual_level_at(pcm, 1009, 16000) == pytest.approx(-13, abs=0.3)
    assert rms_dbm0(pcm) == pytest.approx(-13, abs=0.3)
    still = np.asarray(G722.G722(16000, 64000).decode(silence * 10), np.int16)
    assert rms_dbm0(still) < -65


async def test_a_pipe_is_written_by_our_clock(engine):
    read, write = os.pipe()
    stream = engine.open(
        DeviceSpec(fd=write, codec=Codec.L16, rate=16000, block_bytes=640, paced_by_device=False)
    )
    os.close(write)
    began = time.monotonic()
    stream.play_samples(sine(1009, 4.0, 16000).tobytes(), rate=16000)
    await asyncio.sleep(1.0)
    os.set_blocking(read, False)
    pcm = np.frombuffer(os.read(read, 65536), np.int16)
    lasted = time.monotonic() - began
    os.close(read)
    # The pipe takes 32768 samples. The engine's thread may be late, but not early.
    assert 14000 <= len(pcm) <= 16000 * lasted + 1000
    assert usual_level_at(pcm[2000:12000], 1009, 16000) == pytest.approx(-13, abs=0.3)
    await until(lambda: stream.stats().packets_sent > 40, "what was sent is counted")


async def test_end_of_file_is_an_event_and_the_bridge_goes_on(engine, peer, leg, card):
    line, a = card(), peer(0)
    events = []
    stream = engine.open(DeviceSpec(fd=line.theirs.fileno()), on_event=events.append)
    line.theirs.close()
    sa = leg(a)
    engine.open_bridge("x")
    engine.join("x", stream)
    engine.join("x", sa)
    await pace(0.4, line.job(sine(1009, 1.0)), listen(a))
    line.ours.close()
    await pace(0.4, listen(a))
    assert [type(e) for e in events] == [MediaStarted, DeviceFailed]
    before = len(a.packets)
    await pace(0.4, listen(a))
    assert len(a.packets) > before + 15


async def test_a_descriptor_that_is_not_there(engine):
    with pytest.raises(DeviceError, match="descriptor 9999"):
        engine.open(DeviceSpec(fd=9999))
    with pytest.raises(UsageError, match="44100 Hz"):
        engine.open(DeviceSpec(fd=0, codec=Codec.L16, rate=44100))
