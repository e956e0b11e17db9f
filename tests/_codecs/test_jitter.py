"""Jitter buffer, driven by a clock that the test turns."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway._codecs import jitter
from gateway._codecs.jitter import JitterBuffer
from gateway.errors import UsageError

KINDS = {
    jitter.FRAME: "F", jitter.LOST: "L", jitter.PAUSE: "P", jitter.EMPTY: "E", jitter.WAITING: "W"
}  # fmt: skip


class Line:
    """A sender with a fixed packet time, a network, and a listener with a steady clock."""

    def __init__(self, ptime: int = 20, seq: int = 65000, timestamp: int = 2**32 - 4000, **limits):
        self.buffer = JitterBuffer(**limits)
        self.ptime, self.seq, self.timestamp = ptime, seq, timestamp
        self.heard: list[tuple[float, str, int]] = []  # time, kind, packet number

    def run(self, arrivals: dict[int, float], seconds: float, *, skip=(), gap: dict | None = None):
        """arrivals: packet number to arrival time; gap: packet number to extra timestamp units."""
        shift, offsets = 0, {}
        for i in range(max(arrivals, default=0) + 1):
            shift += (gap or {}).get(i, 0)
            offsets[i] = shift
        queue = sorted((at, i) for i, at in arrivals.items())
        due = 0.0
        for tick in range(int(seconds * 1000)):
            now = tick / 1000
            while queue and queue[0][0] <= now:
                at, i = queue.pop(0)
                seq = (self.seq + i) % 65536
                if i in skip:
                    self.buffer.skip(seq)
                    continue
                timestamp = (self.timestamp + i * self.ptime * 8 + offsets[i]) % 2**32
                payload = i.to_bytes(4, "big") + bytes(self.ptime * 8 - 4)
                self.buffer.put(seq, timestamp, payload, at)
            while due <= now:
                frame = self.buffer.get(now)
                number = int.from_bytes(frame.payload[:4], "big") if frame.payload else -1
                self.heard.append((now, KINDS[frame.kind], number))
                assert frame.duration > 0
                due += frame.duration / 8000
        return self

    @property
    def kinds(self) -> str:
        return "".join(kind for _, kind, _ in self.heard)

    @property
    def numbers(self) -> list[int]:
        return [number for _, _, number in self.heard if number >= 0]


def steady(n: int, ptime: int = 20, delay: float = 0.001) -> dict[int, float]:
    return {i: i * ptime / 1000 + delay for i in range(n)}


@pytest.mark.parametrize("ptime", [5, 10, 20, 30, 40, 60, 120])
def test_steady_stream_of_any_packet_time(ptime) -> None:
    n = 3000 // ptime
    line = Line(ptime, min_ms=20).run(steady(n, ptime), 2.9)
    assert line.kinds.lstrip("W").strip("F") == ""
    assert line.numbers == list(range(len(line.numbers)))
    assert len(line.numbers) >= n - 200 // ptime - 3
    stats = line.buffer.stats
    assert (stats.n_lost, stats.n_late, stats.n_empty, stats.n_duplicate) == (0, 0, 0, 0)
    assert stats.ptime_ms == ptime
    assert stats.target_ms == 20


def test_waits_for_the_least_depth() -> None:
    line = Line(min_ms=60, max_ms=200).run(steady(100), 1.5)
    first = next(at for at, kind, _ in line.heard if kind == "F")
    assert 0.06 <= first <= 0.085
    assert 55 <= line.buffer.stats.depth_ms <= 85


def test_losses_are_said_in_their_place() -> None:
    arrivals = steady(100)
    for i in (20, 50, 51, 52):
        del arrivals[i]
    line = Line(min_ms=40).run(arrivals, 1.9)
    assert line.kinds.strip("W").count("L") == 4
    assert line.numbers == [i for i in range(100) if i in arrivals][: len(line.numbers)]
    played = [k for k in line.kinds if k in "FL"]
    assert [i for i, k in enumerate(played) if k == "L"] == [20, 50, 51, 52]
    assert line.buffer.stats.n_lost == 4


def test_reordered_and_doubled_packets() -> None:
    arrivals = steady(100)
    arrivals[30], arrivals[31] = arrivals[31], arrivals[30]
    line = Line(min_ms=60)
    line.run(arrivals, 1.9)
    assert line.numbers == sorted(line.numbers)
    assert (line.buffer.stats.n_reordered, line.buffer.stats.n_lost) == (1, 0)
    buffer = JitterBuffer()
    assert buffer.put(1, 160, b"x", 0.0) == jitter.STORED
    assert buffer.put(1, 160, b"x", 0.0) == jitter.DUPLICATE
    assert buffer.stats.n_duplicate == 1


def test_first_packets_overtaken() -> None:
    line = Line(min_ms=60).run({0: 0.02, 1: 0.0, 2: 0.03, 3: 0.06, 4: 0.08}, 0.3)
    assert line.numbers == [0, 1, 2, 3, 4]


def test_late_packets_are_counted_and_the_depth_grows() -> None:
    rng = random.Random(3)
    arrivals = {i: i * 0.02 + rng.choice([0.0, 0.0, 0.0, 0.07]) for i in range(600)}
    line = Line(min_ms=20, max_ms=200).run(arrivals, 11.9)
    assert line.buffer.stats.n_late + line.buffer.stats.n_empty > 0
    assert 70 <= line.buffer.stats.target_ms <= 90
    assert 65 <= line.buffer.stats.jitter_ms <= 80
    later = [kind for at, kind, _ in line.heard if at > 6]
    assert later.count("F") >= len(later) * 0.99
    calm = {i: i * 0.02 for i in range(600, 3000)}
    line.run({**calm}, 59.9)
    assert line.buffer.stats.target_ms <= 30
    assert line.buffer.stats.n_shrunk >= 1
    assert line.buffer.stats.depth_ms <= 90


def test_delay_spike_recovers() -> None:
    arrivals = steady(500)
    for i in range(100, 115):
        arrivals[i] = 2.35
    line = Line(min_ms=20, max_ms=120).run(arrivals, 9.9)
    assert line.numbers == sorted(set(line.numbers))
    assert line.buffer.stats.depth_ms <= 160
    assert line.kinds.endswith("F" * 100)


def test_silence_suppression_is_a_pause() -> None:
    arrivals = {i: i * 0.02 if i < 50 else i * 0.02 + 0.3 for i in range(100)}
    line = Line(min_ms=40).run(arrivals, 2.2, gap={50: 2400})
    assert line.numbers == list(range(len(line.numbers)))
    assert line.buffer.stats.n_lost == 0
    between = [k for at, k, _ in line.heard if 1.06 < at < 1.28]
    assert set(between) <= {"E", "P"}
    first, last = (next(at for at, _, n in line.heard if n == i) for i in (0, 90))
    assert last - first == pytest.approx(90 * 0.02 + 0.3, abs=0.045)


def test_skipped_numbers_are_not_losses() -> None:
    line = Line(min_ms=40).run(steady(100), 1.9, skip=(30, 31, 32), gap={33: -3 * 160})
    assert line.buffer.stats.n_lost == 0
    assert "L" not in line.kinds
    assert line.numbers == [i for i in range(100) if i not in (30, 31, 32)][: len(line.numbers)]


def test_new_source_and_jumps_restart() -> None:
    for change in ({"ssrc": 2}, {"seq": 20000}, {"timestamp": 10**6}, {"timestamp": -(10**6)}):
        buffer = JitterBuffer(min_ms=20)
        for i in range(20):
            buffer.put(1000 + i, 16000 + i * 160, b"old", i * 0.02, ssrc=1)
            buffer.get(i * 0.02)
        answers = []
        for i in range(20, 40):
            seq = (1000 + i + change.get("seq", 0)) % 65536
            timestamp = (16000 + i * 160 + change.get("timestamp", 0)) % 2**32
            answers.append(buffer.put(seq, timestamp, b"new", i * 0.02, ssrc=change.get("ssrc", 1)))
            frame = buffer.get(i * 0.02 + 0.001)
        assert answers[:2] == [jitter.STRAY, jitter.RESTARTED], change
        assert set(answers[2:]) == {jitter.STORED}
        assert frame.payload == b"new"
        assert buffer.stats.n_restarts == 1


def test_a_stray_packet_changes_nothing() -> None:
    buffer = JitterBuffer(min_ms=20)
    for i in range(50):
        buffer.put(i, i * 160, bytes([i]), i * 0.02)
        if i == 25:
            assert buffer.put(5000, 99, b"?", i * 0.02, ssrc=7) == jitter.STRAY
        frame = buffer.get(i * 0.02 + 0.001)
    assert frame.payload in (bytes([48]), bytes([49]))
    assert (buffer.stats.n_restarts, buffer.stats.n_stray) == (0, 1)


def test_long_silence_fills_up_anew() -> None:
    arrivals = {i: i * 0.02 if i < 50 else i * 0.02 + 5.0 for i in range(100)}
    line = Line(min_ms=60).run(arrivals, 6.95, gap={50: 40000})
    assert line.numbers == list(range(len(line.numbers)))
    first = next(at for at, _, n in line.heard if n == 50)
    assert 6.05 <= first <= 6.09
    assert line.buffer.stats.n_restarts == 0


def test_sender_faster_than_listener_stays_shallow() -> None:
    arrivals = {i: i * 0.01998 for i in range(5000)}  # 1000 ppm
    line = Line(min_ms=20, max_ms=100).run(arrivals, 99.0)
    assert line.buffer.stats.depth_ms < 100
    assert line.numbers == sorted(set(line.numbers))
    assert 1 <= line.buffer.stats.n_received - line.buffer.stats.n_played <= 15


def test_sender_slower_than_listener_keeps_on() -> None:
    arrivals = {i: i * 0.02002 for i in range(5000)}
    line = Line(min_ms=20, max_ms=100).run(arrivals, 99.0)
    assert line.buffer.stats.n_lost == 0
    assert line.kinds.count("F") > 4900


def test_payload_lengths() -> None:
    buffer = JitterBuffer(slot_bytes=160)
    assert buffer.put(1, 0, b"x" * 161, 0.0) == jitter.TOO_LONG
    assert buffer.put(1, 0, b"", 0.0) == jitter.TOO_LONG
    assert buffer.put(1, 0, b"x" * 160, 0.0) == jitter.STORED
    assert buffer.stats.n_too_long == 2


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_anything_goes_in(data) -> None:
    """Any packets at any time: answers stay in their sets, counts add up, depth stays bounded."""
    n_slots = data.draw(st.sampled_from([8, 16, 64]))
    max_ms = data.draw(st.integers(0, 500))
    buffer = JitterBuffer(n_slots=n_slots, slot_bytes=64, min_ms=0, max_ms=max_ms)
    rng = random.Random(data.draw(st.integers()))
    now, seq, timestamp = 0.0, rng.randrange(65536), rng.randrange(2**32)
    answers: list[int] = []
    for _ in range(data.draw(st.integers(1, 300))):
        now += rng.choice([0, 0.001, 0.02, 0.02, 0.3])
        roll = rng.random()
        if roll < 0.6:
            step = rng.choice([1, 1, 1, 1, 0, -1, 2, 5, -30, n_slots, 3 * n_slots, 30000])
            seq = (seq + step) % 65536
            timestamp = (timestamp + rng.choice([160, 160, step * 160, 0, -160, 2**31])) % 2**32
            ssrc = rng.choice([1, 1, 1, 1, 1, 2])
            answers.append(
                buffer.put(seq, timestamp, bytes(rng.choice([1, 64, 65])), now, ssrc=ssrc)
            )
        elif roll < 0.7:
            buffer.skip((seq + rng.choice([0, 1, 2, n_slots])) % 65536)
        else:
            frame = buffer.get(now)
            assert frame.kind in KINDS
            assert (frame.payload is not None) == (frame.kind == jitter.FRAME)
            assert 0 < frame.duration <= 960
    stats = buffer.stats
    assert set(answers) <= {0, 1, 2, 3, 4, 5}
    assert stats.n_received == len(answers)
    assert stats.n_restarts == answers.count(jitter.RESTARTED)
    refused = (stats.n_duplicate, stats.n_late, stats.n_too_long, stats.n_stray)
    assert refused == tuple(answers.count(code) for code in (2, 3, 4, 5))
    kept = answers.count(0) + answers.count(1)
    assert stats.n_played + stats.n_overflow + stats.n_shrunk <= kept


def test_size_is_stated_and_limits_are_checked() -> None:
    assert 64 * 960 < jitter.size_of(64, 960) < 64 * 1000 + 2000
    for n_slots, slot_bytes in ((7, 10), (4, 10), (2048, 10), (8, 0), (8, 70000), (-8, 10)):
        assert jitter.size_of(n_slots, slot_bytes) == 0
        with pytest.raises(UsageError):
            JitterBuffer(n_slots=n_slots, slot_bytes=slot_bytes)
    for limits in ({"min_ms": -1}, {"min_ms": 300}, {"max_ms": 5000}, {"clock_rate": 10}):
        with pytest.raises(UsageError):
            JitterBuffer(**limits)
