"""Tones against E.180 (FFT), WAV files, recordings read by sox."""

# ruff: noqa: ASYNC221 (the foreign program is the oracle; nothing else waits for the loop)
from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import wave
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from peers import level_at, levels_at, listen, pace, rms_dbm0, sine, talk, usual_level_at

from gateway.errors import DeviceError, UsageError
from gateway.media.streams import (
    FskReceived,
    NullSpec,
    PlayEnded,
    RecordEnded,
    StreamOptions,
    ToneDetected,
)
from gateway.media.tones import TONES
from gateway.testing.clock import until

sox = pytest.mark.skipif(not shutil.which("sox"), reason="sox is missing")


def cadence(pcm: np.ndarray, rate: int = 8000) -> list[int]:
    """Lengths in ms of sound and silence in turn, beginning with sound."""
    loud = np.abs(pcm[: len(pcm) // 80 * 80].reshape(-1, 80)).max(axis=1) > 100
    edges = np.flatnonzero(np.diff(loud.astype(int))) + 1
    bounds = [0, *edges.tolist(), len(loud)]
    runs = [(bool(loud[a]), (b - a) * 10) for a, b in pairwise(bounds)]
    if runs and not runs[0][0]:
        runs = runs[1:]
    return [ms for _, ms in runs]


@pytest.mark.parametrize(
    ("country", "tone", "frequencies", "rhythm"),
    [
        ("us", "dial", (350, 440), []),
        ("us", "busy", (480, 620), [500, 500]),
        ("us", "howler", (1400, 2060, 2450, 2600), [100, 100]),
        ("uk", "ringback", (400, 450), [400, 200, 400, 2000]),
        ("de", "congestion", (425,), [240, 240]),
        ("cn", "busy", (450,), [350, 350]),
        ("fr", "dial", (440,), []),
        ("it", "dial", (425,), [200, 200, 600, 1000]),
        ("in", "dial", (375, 400, 425), []),
    ],
)
async def test_tones_have_the_frequencies_and_cadence_of_their_country(
    engine, peer, leg, country, tone, frequencies, rhythm
):
    a = peer(8)
    stream = leg(a, StreamOptions(country=country))
    stream.play_tone(tone)
    await pace(max(1.2, 1.4 * sum(rhythm) / 1000), listen(a))
    pcm = a.pcm()
    if rhythm:
        found = cadence(pcm)[: len(rhythm)]
        for want, got in zip(rhythm, found, strict=True):
            assert got == pytest.approx(want, abs=20)
        start = np.flatnonzero(np.abs(pcm) > 100)[0]
        pcm = pcm[start : start + rhythm[0] * 8]
    levels = levels_at(pcm, range(300, 3400, 5))
    for f in frequencies:
        assert -26 <= levels[f] <= -5, (f, levels[f])
    loudest = max(levels[f] for f in frequencies)
    spread = 8000 / len(pcm) * 4
    for f, level in levels.items():
        if all(abs(f - g) > spread + 5 for g in frequencies):
            assert level < loudest - 30, (f, level)


def test_every_plan_has_every_tone():
    assert len(TONES) >= 12
    names = set(TONES["us"])
    assert {
        "dial",
        "ringback",
        "busy",
        "congestion",
        "call_waiting",
        "special_information",
        "howler",
        "stutter",
        "confirmation",
        "intercept",
    } <= names
    assert all(set(plan) == names for plan in TONES.values())


@pytest.mark.parametrize("country", sorted(TONES))
async def test_every_tone_of_every_country_plays_and_its_level_is_safe(engine, peer, leg, country):
    a = peer(0)
    stream = leg(a, StreamOptions(country=country))
    for name in TONES[country]:
        stream.play_tone(name)
        a.packets.clear()
        await pace(0.14, listen(a))
        pcm = a.pcm()
        # The loudest stretch: a short tone may be over when a busy test wakes up.
        assert max(rms_dbm0(pcm[at : at + 640]) for at in range(0, len(pcm) - 639, 160)) > -30, name
        assert np.abs(a.pcm()).max() < 32000, name


async def test_a_tone_that_ends_says_so_and_the_bridge_is_heard_again(engine, peer, leg):
    a, b = peer(0), peer(0)
    sa, sb = leg(a), leg(b)
    engine.open_bridge("pair")
    engine.join("pair", sa)
    engine.join("pair", sb)
    await pace(0.3, talk(a, sa.local, sine(701, 1.0)), listen(b))
    sb.play_tone("confirmation", play="ok")
    assert not any(isinstance(e, PlayEnded) for e in sb.events)
    await pace(2.0, talk(a, sa.local, sine(701, 1.0)), listen(b))
    assert sb.events.count(PlayEnded(play="ok")) == 1
    assert usual_level_at(b.pcm()[-8000:], 701) == pytest.approx(-13, abs=0.7)
    assert level_at(b.pcm()[2400:8000], 350) > -25


async def test_busy_is_detected(engine, peer, leg):
    a, b = peer(0), peer(0)
    caller = leg(a, StreamOptions(country="us"))
    listener = leg(b, StreamOptions(country="us", detect_tones=("busy", "dial", "ringback")))
    caller.play_tone("busy")
    got = []

    def forward(i):
        a.collect()
        while len(got) < len(a.packets):
            b.send(a.packets[len(got)].payload, listener.local)
            got.append(1)

    await pace(4.2, forward)
    for _ in range(5):
        # A cadence that the machine broke is none: the next three cycles count.
        if any(isinstance(e, ToneDetected) for e in listener.events):
            break
        await pace(2.0, forward)
    assert [e.tone for e in listener.events if isinstance(e, ToneDetected)] == ["busy"]


@pytest.mark.parametrize(("beeps", "heard"), [(3, []), (4, ["busy"])])
async def test_busy_is_three_whole_cycles(engine, peer, leg, beeps, heard):
    """Three beeps may be a machine that begins to record: the third pause must end in a tone."""
    beep = sine(480, 0.5, level_dbm0=-20) + sine(620, 0.5, level_dbm0=-20)
    cycle = np.concatenate([beep, np.zeros(4000, np.int16)])
    signal = np.concatenate([cycle] * beeps + [cycle * 0])
    for _ in range(3):
        # A machine that stands still breaks the cadence: then it is played once more.
        a = peer(0)
        listener = leg(a, StreamOptions(country="us", detect_tones=("busy", "congestion")))
        await pace(beeps + 0.8, talk(a, listener.local, signal))
        found = [e.tone for e in listener.events if isinstance(e, ToneDetected)]
        if found == heard:
            break
    assert found == heard


async def test_a_caller_id_burst_is_received(engine, peer, leg):
    """Bell 202 as GR-30 has it, made here: 300 bits 0101, 180 bits of mark, the message."""
    body = bytes([0x80, 12, 2, 10]) + b"5551234567"
    message = body + bytes([-sum(body) & 0xFF])
    bits = [0, 1] * 150 + [1] * 180
    for octet in message:
        bits += [0, *((octet >> i) & 1 for i in range(8)), 1]
    bits += [1] * 20
    n = int(len(bits) / 1200 * 8000)
    tone = np.where(np.array(bits)[(np.arange(n) * 1200 // 8000)], 1200.0, 2200.0)
    pcm = (5000 * np.sin(2 * np.pi * np.cumsum(tone) / 8000)).astype(np.int16)
    signal = np.concatenate([np.zeros(1600, np.int16), pcm, np.zeros(8000, np.int16)])
    a = peer(0)
    stream = leg(a, StreamOptions(detect_fsk="bell202"))
    await pace(len(pcm) / 8000 + 0.6, talk(a, stream.local, signal))
    assert [e.data for e in stream.events if isinstance(e, FskReceived)] == [message]


def wav(path: Path, pcm: np.ndarray, rate: int, channels: int = 1) -> str:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat(pcm, channels).astype("<i2").tobytes())
    return str(path)


@pytest.mark.parametrize("pt", [0, 9])
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (16000, 1), (48000, 2)])
async def test_wav_files_at_every_rate(engine, peer, leg, tmp_path, pt, rate, channels):
    a = peer(pt)
    stream = leg(a)
    path = wav(tmp_path / "a.wav", sine(1009, 0.5, rate), rate, channels)
    stream.play_file(path, play="x", repeat=2, gap_s=0.2)
    await pace(1.6, listen(a))
    out = 16000 if pt == 9 else 8000
    pcm = a.pcm()
    start = np.flatnonzero(np.abs(pcm) > 1000)[0]
    assert level_at(pcm[start + out // 10 : start + out // 2 - out // 50], 1009, out) == (
        pytest.approx(-13, abs=0.5)
    )
    rhythm = cadence(pcm[:: out // 8000])
    assert rhythm[:3] == [
        pytest.approx(500, abs=25),
        pytest.approx(200, abs=25),
        pytest.approx(500, abs=25),
    ]
    assert stream.events.count(PlayEnded(play="x")) == 1


@sox
@pytest.mark.parametrize("encoding", ["a-law", "u-law"])
async def test_g711_wav_made_by_sox(engine, peer, leg, tmp_path, encoding):
    source = wav(tmp_path / "s.wav", sine(1009, 0.6), 8000)
    path = str(tmp_path / "g.wav")
    subprocess.run(["sox", source, "-e", encoding, path], check=True)
    a = peer(0)
    stream = leg(a)
    stream.play_file(path)
    await pace(0.8, listen(a))
    assert usual_level_at(a.pcm()[1600:4000], 1009) == pytest.approx(-13, abs=0.5)


async def test_files_that_cannot_be_played_are_named(engine, peer, leg, tmp_path):
    stream = leg(peer())
    with pytest.raises(DeviceError, match="no-such"):
        stream.play_file(str(tmp_path / "no-such.wav"))
    (tmp_path / "bad.wav").write_bytes(b"RIFF\0\0\0\0WAVEfmt \xff\xff\xff\xff")
    with pytest.raises(DeviceError, match=r"bad\.wav"):
        stream.play_file(str(tmp_path / "bad.wav"))
    with pytest.raises(DeviceError, match="11025 Hz"):
        stream.play_file(wav(tmp_path / "r.wav", sine(500, 0.1), 11025))
    with pytest.raises(UsageError, match="there are: busy"):
        stream.play_tone("siren")
    with pytest.raises(UsageError, match="there are: au"):
        stream.configure(StreamOptions(country="xx", detect_tones=("busy",)))


async def test_play_samples_and_stop(engine, peer, leg):
    a = peer(0)
    stream = leg(a)
    stream.play_samples(sine(1009, 5.0, 16000).tobytes(), rate=16000, play="s")
    await pace(0.6, listen(a))
    stream.stop_play()
    await pace(0.4, listen(a))
    assert usual_level_at(a.pcm()[800:3200], 1009) == pytest.approx(-13, abs=0.5)
    assert rms_dbm0(a.pcm()[-1600:]) < -70
    assert stream.events == []


@sox
@pytest.mark.parametrize("right", [0, 9])
async def test_recording_is_read_by_sox(engine, peer, leg, tmp_path, right):
    a, b = peer(0), peer(right)
    sa, sb = leg(a), leg(b)
    engine.open_bridge("pair")
    engine.join("pair", sa)
    engine.join("pair", sb)
    path = str(tmp_path / "r.wav")
    sa.record(path)
    await pace(
        2.0,
        talk(a, sa.local, sine(701, 1.0)),
        talk(b, sb.local, sine(1009, 1.0, 16000 if right == 9 else 8000)),
    )
    sa.stop_record()
    await pace(0.4)
    ended = [e for e in sa.events if isinstance(e, RecordEnded)]
    assert len(ended) == 1
    assert ended[0].duration_s == pytest.approx(2.0, abs=0.1)
    assert ended[0].error == ""
    info = subprocess.run(["soxi", path], capture_output=True, text=True, check=True).stdout
    assert "Channels       : 2" in info
    sides = []
    for side in "12":
        raw = subprocess.run(
            ["sox", path, "-t", "raw", "-", "remix", side], capture_output=True, check=True
        ).stdout
        sides.append(np.frombuffer(raw, np.int16)[-8000:])
    assert usual_level_at(sides[0], 701) == pytest.approx(-13, abs=0.7)
    assert usual_level_at(sides[1], 1009) == pytest.approx(-13, abs=0.7)
    assert level_at(sides[0], 1009) < -60
    assert level_at(sides[1], 701) < -60


_KILLED = """
import asyncio, sys
sys.path.insert(0, {root!r})
from gateway.media.engine import Engine
from gateway.media.streams import NullSpec
async def main():
    engine = Engine()
    await engine.start()
    stream = engine.open(NullSpec())
    stream.play_tone("dial")
    stream.record({path!r})
    await asyncio.sleep(2.0)
    print("now", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@sox
def test_a_killed_process_leaves_a_readable_recording(tmp_path):
    path = str(tmp_path / "k.wav")
    began = time.monotonic()
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED.format(root=root, path=path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"LD_PRELOAD": os.environ.get("CROSSPOINT_PRELOAD", "")},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"now\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    lasted = time.monotonic() - began
    out = subprocess.run(["soxi", "-D", path], capture_output=True, text=True, check=True).stdout
    assert 1.4 <= float(out) <= lasted
    raw = subprocess.run(
        ["sox", path, "-t", "raw", "-", "remix", "2"], capture_output=True, check=True
    ).stdout
    assert usual_level_at(np.frombuffer(raw, np.int16)[-6000:], 350) == pytest.approx(-13, abs=0.5)


async def test_a_recording_that_cannot_be_made(engine):
    events = []
    stream = engine.open(NullSpec(), on_event=events.append)
    stream.record("/dev/null/r.wav")
    await until(lambda: events)
    assert events[0].path == "/dev/null/r.wav"
    assert "exists" in events[0].error or "Not a directory" in events[0].error
    assert events[0].duration_s == 0.0


async def test_a_disk_that_hangs_holds_up_nobody(engine, tmp_path, monkeypatch):
    events = []
    stream = engine.open(NullSpec(), on_event=events.append)
    other = engine.open(NullSpec(), on_event=events.append)
    thawed, makedirs = threading.Event(), os.makedirs

    def hang(path, **how):
        thawed.wait(30.0)
        makedirs(path, **how)

    monkeypatch.setattr(os, "makedirs", hang)
    paths = [str(tmp_path / name / "r.wav") for name in ("a", "b")]
    stream.record(paths[0])
    other.record(paths[1])
    await pace(0.5)
    assert not events
    thawed.set()
    stream.stop_record()
    other.stop_record()
    await until(lambda: len(events) == 2)
    # What was said meanwhile has waited.
    assert [(each.path, each.error, each.dropped_s) for each in events] == [
        (path, "", 0.0) for path in paths
    ]
    assert all(each.duration_s >= 0.4 for each in events)


def test_tone_plans_are_plain_data():
    import msgspec

    assert json.loads(msgspec.json.encode(TONES["us"]["busy"]))["repeat_from"] == 0
