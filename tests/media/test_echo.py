"""Line echo cancellation in the engine: a two-wire line on a descriptor or behind RTP, with a
hybrid whose echo the tests make, is heard by an RTP peer of the tests' own.

How well it cancels is judged in `tests/_codecs/test_echo.py`, where nothing can stall: here a stall
of the machine moves the echo.
"""

from __future__ import annotations

import socket

import numpy as np
import pytest
from peers import g711_decode, g711_encode, pace, talk

from gateway.errors import UsageError
from gateway.media.engine import Engine
from gateway.media.shaping import EchoCanceller
from gateway.media.streams import Codec, DeviceSpec, NullSpec, RtpSpec, StreamOptions
from tests.lines import OTHER, dbm0, hybrid, spoken, white

PLAIN = EchoCanceller(tail_ms=16, suppress=False)


class Line:
    """A line card's channel: for each block that it gives it takes one, and its hybrid reflects.

    `card_blocks` wait in the card on their way out, as in a driver's buffers. Its clock waits for
    the engine, so that a stall of either moves no echo; for so long as a dropped block is missing.
    """

    def __init__(self, path: np.ndarray, near: np.ndarray, card_blocks: int = 2) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.setblocking(False)
        self.path, self.near = path, near
        self.waiting = [np.zeros(160)] * card_blocks
        self.sent = np.zeros(0)
        self.echo: list[np.ndarray] = []
        self.missed = 0

    def run(self, _: int) -> None:
        self.take()
        self.missed = 0 if self.waiting else self.missed + 1
        if not self.waiting and self.missed < 5:
            return
        n = len(self.echo) * 160
        played = self.waiting.pop(0) if self.waiting else np.zeros(160)
        self.sent = np.concatenate([self.sent, played])
        tail = self.sent[-160 - len(self.path) :]
        self.echo.append(np.convolve(tail, self.path)[: len(tail)][-160:])
        pcm = self.echo[-1] + self.near[n : n + 160]
        self.ours.send(g711_encode(pcm.astype(np.int16), 8))

    def take(self) -> None:
        while True:
            try:
                block = self.ours.recv(4096)
            except BlockingIOError:
                return
            self.waiting.append(g711_decode(block, 8).astype(float))

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def line():
    made = []

    def make(loss_db: float | None, near: np.ndarray | None = None, **fields) -> Line:
        path = hybrid(loss_db) if loss_db is not None else np.zeros(80)
        near = np.zeros(0) if near is None else near
        padded = np.concatenate([near, np.zeros(160 * 1000)])
        made.append(Line(path, padded, **fields))
        return made[-1]

    yield make
    for each in made:
        each.close()


def levels(pcm: np.ndarray, seconds: float = 0.2) -> np.ndarray:
    """dBm0 of each piece."""
    n = int(seconds * 8000)
    return np.array([dbm0(pcm[at : at + n]) for at in range(0, len(pcm) - n + 1, n)])


def bridged(engine: Engine, it: Line, other, echo: EchoCanceller | None):
    stream = engine.open(
        DeviceSpec(fd=it.theirs.fileno(), codec=Codec.PCMA), StreamOptions(echo=echo)
    )
    engine.open_bridge("x")
    engine.join("x", stream)
    engine.join("x", other)
    return stream


@pytest.mark.parametrize(("signal", "loss_db"), [("noise", 8), ("speech", 15)])
async def test_the_echo_of_a_line_is_taken_away(engine, peer, leg, line, program, signal, loss_db):
    for name in ("espeak-ng", "sox"):
        program(name)
    it, a = line(loss_db), peer(8)
    stream = bridged(engine, it, leg(a), PLAIN)
    voice = talk(a, stream_of(a, engine), white(3) if signal == "noise" else spoken())
    for _ in range(3):
        await learned(stream, it.run, voice)
        begun = len(it.echo) * 160, len(a.pcm())
        await pace(1.6, it.run, voice)
        found = stream.stats()
        echo, heard = np.concatenate(it.echo)[begun[0] :], a.pcm()[begun[1] :].astype(float)
        gone = np.median(levels(echo)) - np.median(levels(heard))
        if gone > 20 and found.erle_db > 20:
            break  # else this program or the engine stalled, which moves the echo
    assert gone > 10, "as the peer hears it"
    assert found.echo_tail_ms == 16
    assert found.erle_db is not None
    assert found.erle_db > 8, "as it says itself"
    assert found.erl_db == pytest.approx(loss_db, abs=6), "of speech, which is not white"
    assert found.echo_delay_ms is not None
    assert 40 <= found.echo_delay_ms <= 200
    assert found.echo_s > 1


async def learned(stream, *jobs, db: float = 20) -> float:
    """The ERLE it comes to; within a second, but a busy machine's may be longer."""
    best = 0.0
    for _ in range(16):
        await pace(0.5, *jobs)
        best = max(best, stream.stats().erle_db or 0.0)
        if best > db:
            break
    return best


def likeness(heard: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Correlation with what is heard of each quarter of a second that is loud, wherever it is:
    stalls of the program move pieces against each other."""
    found = []
    for at in range(0, len(near) - 1999, 2000):
        piece = near[at : at + 2000].astype(float)
        if dbm0(piece) > dbm0(near) - 6:
            lag = int(np.argmax(np.correlate(heard, piece, "valid")))
            found.append(float(np.corrcoef(heard[lag : lag + 2000], piece)[0, 1]))
    return np.array(found)


def stream_of(a, engine: Engine) -> tuple[str, int]:
    """Where the RTP leg of the only bridge listens."""
    return next(s.local for s in engine._streams.values() if s.local[1])


async def test_the_suppression_takes_the_rest(engine, peer, leg, line):
    it, a = line(8), peer(8)
    stream = bridged(engine, it, leg(a), EchoCanceller(tail_ms=32, suppress=True))
    await pace(3.0, it.run, talk(a, stream_of(a, engine), white(3)))
    assert dbm0(np.concatenate(it.echo)[8000:]) > -26
    assert np.median(levels(a.pcm()[-8000:])) < -60
    assert stream.stats().erle_db > 8, "which is measured before it"


async def test_who_speaks_at_the_line_is_heard_while_both_do(engine, peer, leg, line, program):
    for name in ("espeak-ng", "sox"):
        program(name)
    near = spoken(OTHER, "en+f3", -15)[:12000]
    it, a = line(10, np.concatenate([np.zeros(8000 * 2), near])), peer(8)
    bridged(engine, it, leg(a), EchoCanceller(tail_ms=16))
    await pace(4.0, it.run, talk(a, stream_of(a, engine), spoken()))
    heard = a.pcm().astype(float)
    assert np.median(likeness(heard[8000:], near)) > 0.7


async def test_without_an_echo_nothing_is_changed(engine, peer, leg, line, program):
    for name in ("espeak-ng", "sox"):
        program(name)
    near = np.resize(spoken(OTHER, "en+f3", -20), 8000 * 4)
    it, a = line(None, near), peer(8)
    stream = bridged(engine, it, leg(a), EchoCanceller(tail_ms=16, suppress=True))
    await pace(3.6, it.run, talk(a, stream_of(a, engine), spoken()))
    assert (stream.stats().erle_db or 0.0) < 3
    assert np.median(likeness(a.pcm().astype(float), near[8000:20000])) > 0.99


async def test_a_tone_is_no_sign_of_a_delay(engine, line):
    it = line(8)
    stream = engine.open(
        DeviceSpec(fd=it.theirs.fileno(), codec=Codec.PCMA), StreamOptions(echo=PLAIN)
    )
    stream.play_tone("dial")
    await pace(1.6, it.run)
    assert stream.stats().echo_delay_ms is None
    stream.play_samples(white(8).tobytes())
    assert await learned(stream, it.run) > 10, "and does no harm to what is learned after it"


async def test_an_echo_that_comes_by_rtp(engine, peer, leg):
    """A gateway with a line of its own, 100 ms away."""
    path, far, near = hybrid(10), peer(8), peer(8)
    sa = leg(far, StreamOptions(echo=EchoCanceller(tail_ms=64, suppress=False)))
    sb = leg(near)
    engine.open_bridge("x")
    engine.join("x", sa)
    engine.join("x", sb)
    sent: list[np.ndarray] = [np.zeros(160)] * 5
    echo: list[np.ndarray] = []

    def reflect(_: int) -> None:
        far.collect()
        for packet in far.audio()[len(sent) - 5 :]:
            sent.append(g711_decode(packet.payload, 8).astype(float))
        if len(sent) - 5 > len(echo):
            played = np.concatenate(sent[max(0, len(echo) - 1) : len(echo) + 1])
            echo.append(np.convolve(played, path)[: len(played)][-160:])
            far.send(g711_encode(echo[-1].astype(np.int16), 8), sa.local)

    noise = talk(near, sb.local, white(3))
    # A stall of this program moves the echo, which is then looked for again.
    assert await learned(sa, reflect, noise, db=15) > 5
    assert np.median(levels(np.concatenate(echo)[-8000:])) > -28


async def test_the_canceller_stays_while_other_options_change(engine, line):
    it = line(8)
    spec = DeviceSpec(fd=it.theirs.fileno(), codec=Codec.PCMA)
    stream = engine.open(spec, StreamOptions(echo=PLAIN))
    stream.play_samples(white(8).tobytes())
    assert await learned(stream, it.run) > 10
    before = stream.stats()
    stream.configure(StreamOptions(echo=PLAIN, detect_dtmf=True, gain_in_db=3))
    await pace(0.4, it.run)
    assert stream.stats().echo_s > before.echo_s > 0
    stream.configure(StreamOptions())
    await pace(0.1, it.run)
    found = stream.stats()
    assert (found.echo_tail_ms, found.echo_delay_ms, found.erle_db) == (0, None, None)
    assert len(engine._cancellers) == 1
    stream.configure(StreamOptions(echo=PLAIN))
    assert len(engine._cancellers) == 1, "the first one has been given back"


async def test_it_moves_to_another_thread_with_its_stream(line):
    engine = Engine(max_streams=8, threads=2, realtime=False)
    await engine.start()
    try:
        it = line(8)
        spec = DeviceSpec(fd=it.theirs.fileno(), codec=Codec.PCMA)
        stream = engine.open(spec, StreamOptions(echo=PLAIN))
        stream.play_samples(white(18).tobytes())
        assert await learned(stream, it.run) > 10
        for name in "ab":
            engine.open_bridge(name)
            engine.join(name, stream)
            await pace(0.2, it.run)
        before = stream.stats().echo_s
        assert await learned(stream, it.run) > 10
        assert stream.stats().echo_s > before
    finally:
        await engine.stop()


async def test_what_cannot_be_is_refused(engine, line):
    it = line(8)
    spec = DeviceSpec(fd=it.theirs.fileno())
    with pytest.raises(UsageError, match=r"echo\.tail_ms 17"):
        engine.open(spec, StreamOptions(echo=EchoCanceller(tail_ms=17)))
    for wide in (
        NullSpec(rate=16000),
        RtpSpec(local_ip="127.0.0.1", codec=Codec.G722, payload_type=9),
        DeviceSpec(fd=it.theirs.fileno(), codec=Codec.L16, rate=16000, block_bytes=640),
    ):
        with pytest.raises(UsageError, match="echo: the stream is at 16000 Hz"):
            engine.open(wide, StreamOptions(echo=PLAIN))
    assert engine.stats().streams == 0
