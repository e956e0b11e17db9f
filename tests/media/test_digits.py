"""DTMF: RFC 4733 in and out by the tests' own decoder, in-band judged by multimon-ng."""

from __future__ import annotations

import shutil
import struct
import subprocess
from itertools import pairwise

import numpy as np
import pytest
from peers import Peer, listen, pace, rms_dbm0, sine, talk, usual_level_at

from gateway.errors import UsageError
from gateway.media.streams import DigitDetected, StreamOptions

KEYS = "0123456789*#ABCD"
ROWS = {k: f for f, ks in ((697, "123A"), (770, "456B"), (852, "789C"), (941, "*0#D")) for k in ks}
COLUMNS = {
    k: f for f, ks in ((1209, "147*"), (1336, "2580"), (1477, "369#"), (1633, "ABCD")) for k in ks
}

multimon = pytest.mark.skipif(not shutil.which("multimon-ng"), reason="multimon-ng is missing")


def dtmf(digits: str, on_ms: int = 100, off_ms: int = 100, rate: int = 8000) -> np.ndarray:
    """Q.23 tones as a phone would send them."""
    parts = []
    for d in digits:
        parts += [
            sine(ROWS[d], on_ms / 1000, rate, -10) + sine(COLUMNS[d], on_ms / 1000, rate, -8),
            np.zeros(rate * off_ms // 1000, np.int16),
        ]
    return np.concatenate(parts)


def heard_by_multimon(pcm: np.ndarray, rate: int = 8000) -> str:
    """Digits that multimon-ng finds."""
    raw = subprocess.run(
        [
            "sox",
            "-q",
            "-t",
            "raw",
            "-r",
            str(rate),
            "-e",
            "signed",
            "-b",
            "16",
            "-c",
            "1",
            "-",
            "-t",
            "raw",
            "-r",
            "22050",
            "-",
        ],
        input=pcm.tobytes(),
        capture_output=True,
        check=True,
    ).stdout
    out = subprocess.run(
        ["multimon-ng", "-q", "-a", "DTMF", "-t", "raw", "-"],
        input=raw,
        capture_output=True,
        check=True,
    ).stdout.decode()
    return "".join(line.split()[-1] for line in out.splitlines() if line.startswith("DTMF:"))


def events_of(peer: Peer) -> list[tuple[str, int, int, int, int]]:
    """RFC 4733 presses: (digit, last duration, packets, ends, markers) by timestamp."""
    presses: dict[int, list] = {}
    for p in peer.audio(peer.te_pt):
        event, flags, duration = struct.unpack("!BBH", p.payload)
        one = presses.setdefault(p.ts, [KEYS[event], 0, 0, 0, 0])
        one[1] = max(one[1], duration)
        one[2] += 1
        one[3] += flags >> 7
        one[4] += p.marker
        if one[2] == 1:
            assert p.marker, "the first packet of a press carries the marker"
    return [tuple(v) for v in presses.values()]


def press(peer, to, digit, *, at, on_ms=100, ends=3, te_pt=101, speech=None):
    """A job that sends speech, and from frame `at` one press."""
    speech = speech or talk(peer, to, sine(307, 1.0, level_dbm0=-30))
    state = {}

    def job(i):
        n = on_ms // 20
        n_press = n + max(ends - 1, 0)
        if not at <= i < at + n_press:
            # The press stood in for as many packets of speech.
            speech(i if i < at else i - n_press)
            return
        peer.collect()
        state.setdefault("ts", peer.ts)
        k = i - at + 1
        end = k >= n and ends > 0
        peer.send(
            struct.pack("!BBH", KEYS.index(digit), 0x80 * end | 10, min(k, n) * 160),
            to,
            pt=te_pt,
            marker=int(k == 1),
            ts=state["ts"],
        )

    return job


async def test_send_digits_as_rfc4733(engine, peer, leg):
    a = peer()
    a.te_pt = 101
    stream = leg(a)
    stream.send_digits("159*#0aD", on_ms=120, off_ms=80)
    await pace(2.6, listen(a))
    presses = events_of(a)
    assert "".join(p[0] for p in presses) == "159*#0AD"
    for _, duration, packets, ends, markers in presses:
        assert duration == 960
        assert ends == 3
        assert markers == 1
        assert packets == 5 + 3
    seqs = [(p.seq - a.packets[0].seq) & 0xFFFF for p in a.packets]
    assert seqs == list(range(len(seqs)))
    stamps = list({p.ts: None for p in a.audio(101)})
    gaps = {(y - x) & 0xFFFFFFFF for x, y in pairwise(stamps)}
    assert gaps == {1600}, "on plus off is 200 ms"


@multimon
@pytest.mark.parametrize("pt", [0, 8, 9])
async def test_send_digits_in_band(engine, peer, leg, pt):
    a = peer(pt)
    stream = leg(a)
    await pace(0.2, listen(a))
    stream.send_digits(KEYS, on_ms=80, off_ms=80)
    await pace(2.9, listen(a))
    assert heard_by_multimon(a.pcm(), 16000 if pt == 9 else 8000) == KEYS


@pytest.mark.parametrize("ends", [3, 1, 0])
async def test_one_event_per_press(engine, peer, leg, ends):
    a = peer()
    a.te_pt = 101
    stream = leg(a)
    await pace(1.0, press(a, stream.local, "7", at=10, on_ms=160, ends=ends))
    digits = [e for e in stream.events if isinstance(e, DigitDetected)]
    assert digits == [DigitDetected(digit="7", duration_ms=160, via="rfc4733")]
    assert stream.stats().frames_concealed <= 1


async def test_same_digit_twice_is_two(engine, peer, leg):
    a = peer()
    a.te_pt = 101
    stream = leg(a)
    await pace(0.5, press(a, stream.local, "7", at=5))
    await pace(0.5, press(a, stream.local, "7", at=5, ends=0))
    await pace(0.5, press(a, stream.local, "7", at=5))
    digits = [e.digit for e in stream.events if isinstance(e, DigitDetected)]
    assert digits == ["7", "7", "7"]


@pytest.mark.parametrize("right", [0, 8, 9])
async def test_rfc4733_is_passed_to_rfc4733(engine, peer, leg, right):
    """G.711 on both sides: relayed; other codec: regenerated. One press either way, another pt."""
    a, b = peer(0), peer(right)
    a.te_pt, b.te_pt = 101, 96
    sa, sb = leg(a), leg(b)
    engine.open_bridge("pair")
    engine.join("pair", sa)
    engine.join("pair", sb)
    await pace(1.4, press(a, sa.local, "4", at=20, on_ms=140), listen(b))
    assert [e.digit for e in sa.events if isinstance(e, DigitDetected)] == ["4"]
    presses = events_of(b)
    assert [(p[0], p[1]) for p in presses] == [("4", 1120)]
    assert presses[0][3] == 3
    assert engine.stats().relays == (0 if right == 9 else 1)


async def test_digits_stay_when_the_bridge_does_not_pass_them(engine, peer, leg):
    a, b = peer(0), peer(0)
    a.te_pt, b.te_pt = 101, 101
    sa, sb = leg(a), leg(b)
    engine.open_bridge("pair", pass_digits=False)
    engine.join("pair", sa)
    engine.join("pair", sb)
    await pace(1.0, press(a, sa.local, "4", at=10), listen(b))
    assert [e.digit for e in sa.events if isinstance(e, DigitDetected)] == ["4"]
    assert events_of(b) == []


@multimon
async def test_rfc4733_becomes_in_band_where_it_was_not_negotiated(engine, peer, leg):
    a, b = peer(0), peer(0)
    a.te_pt = 101
    sa, sb = leg(a), leg(b)
    engine.open_bridge("pair")
    engine.join("pair", sa)
    engine.join("pair", sb)
    await pace(1.2, press(a, sa.local, "9", at=20), listen(b))
    assert heard_by_multimon(b.pcm()) == "9"


@multimon
@pytest.mark.parametrize("via", ["rfc4733", "inband"])
async def test_in_band_is_detected_and_passed_once(engine, peer, leg, via):
    a, b = peer(8), peer(0)
    if via == "rfc4733":
        b.te_pt = 101
    sa = leg(a, StreamOptions(detect_dtmf=True, mute_dtmf=True))
    sb = leg(b)
    engine.open_bridge("pair")
    engine.join("pair", sa)
    engine.join("pair", sb)
    digits = "1590*#"
    signal = np.concatenate([np.zeros(3200, np.int16), dtmf(digits), np.zeros(8000, np.int16)])
    await pace(2.8, talk(a, sa.local, signal), listen(b))
    found = [e for e in sa.events if isinstance(e, DigitDetected)]
    assert "".join(e.digit for e in found) == digits
    assert all(e.via == "inband" and 70 <= e.duration_ms <= 130 for e in found)
    if via == "inband":
        assert heard_by_multimon(b.pcm()) == digits
    else:
        assert "".join(p[0] for p in events_of(b)) == digits
        assert heard_by_multimon(b.pcm()) == "", "the tone itself must not get through too"


@multimon
@pytest.mark.parametrize("comes", ["rfc4733", "inband"])
async def test_who_is_told_digits_beside_hears_none(engine, peer, leg, comes):
    a, b = peer(0), peer(0)
    if comes == "rfc4733":
        a.te_pt = 101
    b.te_pt = 101
    sa = leg(a, StreamOptions(detect_dtmf=comes == "inband"))
    sb = leg(b, StreamOptions(digits_beside=True))
    engine.open_bridge("pair")
    engine.join("pair", sa)
    engine.join("pair", sb)
    if comes == "inband":
        signal = np.concatenate([np.zeros(3200, np.int16), dtmf("159"), np.zeros(4000, np.int16)])
        await pace(1.6, talk(a, sa.local, signal), listen(b))
    else:
        await pace(1.2, press(a, sa.local, "9", at=20), listen(b))
    found = [e.digit for e in sa.events if isinstance(e, DigitDetected)]
    assert "".join(found) == ("159" if comes == "inband" else "9")
    assert heard_by_multimon(b.pcm()) == ""
    assert list(events_of(b)) == []


async def test_speech_like_noise_is_no_digit(engine, peer, leg):
    a = peer(0)
    stream = leg(a, StreamOptions(detect_dtmf=True))
    rng = np.random.default_rng(3)
    noise = (rng.normal(0, 3000, 16000)).astype(np.int16)
    await pace(2.0, talk(a, stream.local, noise))
    assert [e for e in stream.events if isinstance(e, DigitDetected)] == []


async def test_digits_do_not_disturb_the_bridge_afterwards(engine, peer, leg):
    a, b = peer(0), peer(0)
    a.te_pt = b.te_pt = 101
    sa, sb = leg(a), leg(b)
    engine.open_bridge("pair")
    engine.join("pair", sa)
    engine.join("pair", sb)
    await pace(0.3, talk(a, sa.local, sine(701, 1.0)), listen(b))
    sb.send_digits("5")
    await pace(1.8, talk(a, sa.local, sine(701, 1.0)), listen(b))
    assert engine.stats().relays == 1
    assert usual_level_at(b.pcm()[-8000:], 701) == pytest.approx(-13, abs=0.7)
    assert rms_dbm0(b.pcm()[-8000:]) == pytest.approx(-13, abs=0.7)


async def test_a_bad_digit_is_refused(engine, peer, leg):
    stream = leg(peer())
    with pytest.raises(UsageError, match="'X' is no DTMF digit"):
        stream.send_digits("12x")


async def test_of_too_many_digits_the_newest_are_dropped_and_counted(engine, peer, leg):
    a = peer()
    a.te_pt = 101
    stream = leg(a)
    with pytest.raises(UsageError, match="65 digits at once; send at most 64"):
        stream.send_digits("1" * 65)
    stream.send_digits("1" * 60, on_ms=5000)
    stream.send_digits("123456789", on_ms=5000)
    await pace(0.2, listen(a))
    assert stream.stats().digits_dropped == 5
