"""Comfort noise (RFC 3389) of a running stream: heard, sent, passed on, decoded by ffmpeg."""

# ruff: noqa: ASYNC221 (the foreign program is the oracle; nothing else waits for the loop)
from __future__ import annotations

import asyncio
import random
import shutil
import subprocess

import numpy as np
import pytest
from peers import g711_decode, level_at, listen, pace, rms_dbm0, sine, talk, usual_level_at

from gateway.media.streams import MediaTimeout, StreamOptions

FULL_SQUARE_DBM0 = 6.15
"""0 dBov."""


def bridge(engine, *streams):
    engine.open_bridge("x")
    for stream in streams:
        engine.join("x", stream)


def noise(seconds: float, level_dbov: float) -> np.ndarray:
    rms = 32768 * 10 ** (level_dbov / 20)
    return (np.random.default_rng(3).normal(size=int(seconds * 8000)) * rms).astype(np.int16)


async def fall_silent(peer, stream, *others, level: int = 50, seconds: float = 1.5) -> None:
    """One packet of noise and then nothing; the clock goes on."""
    peer.send(bytes([level]), stream.local, pt=13)
    await pace(seconds, *others)
    peer.ts += round(seconds * 8000) - 160


@pytest.mark.parametrize("how", ["relayed", "mixed"])
async def test_noise_is_heard_until_audio_resumes(engine, peer, leg, how):
    a, b = peer(0), peer(0)
    options = StreamOptions() if how == "relayed" else StreamOptions(gain_out_db=-0.01)
    sa, sb = leg(a), leg(b, options)
    bridge(engine, sa, sb)
    await pace(0.6, talk(a, sa.local, sine(701, 1.0)), listen(b))
    before = sa.stats()
    await fall_silent(a, sa, listen(b))
    n = len(b.packets)
    still = sa.stats()
    await pace(0.8, talk(a, sa.local, sine(701, 1.0)), listen(b))
    quiet = g711_decode(b"".join(p.payload for p in b.packets[n - 45 : n - 5]), 0)
    assert rms_dbm0(quiet) == pytest.approx(FULL_SQUARE_DBM0 - 50, abs=1.5)
    assert level_at(quiet, 701) < -55  # no buzz of the last vowel
    assert {len(p.payload) for p in b.packets} == {160}
    assert usual_level_at(b.pcm()[-3200:], 701) == pytest.approx(-13, abs=0.7)
    after = sa.stats()
    assert (after.packets_lost, after.packets_refused) == (0, 0)
    # 75 frames are missing; a few may be from before, when this sender was stopped.
    assert still.frames_concealed - before.frames_concealed <= 5


async def test_noise_passes_a_relay_where_both_agreed(engine, peer, leg):
    a, b = peer(0), peer(8)
    sa, sb = leg(a, comfort_noise=13), leg(b, comfort_noise=13)
    bridge(engine, sa, sb)
    await pace(0.6, talk(a, sa.local, sine(701, 1.0)), listen(b))
    n = len(b.packets)
    await fall_silent(a, sa, listen(b), level=61)
    told = b.packets[n:]
    assert [p.payload for p in told if p.pt == 13] == [bytes([61])]
    assert told[-1].pt == 13
    await pace(0.5, talk(a, sa.local, sine(701, 1.0)), listen(b))
    assert usual_level_at(b.pcm()[-2400:], 701) == pytest.approx(-13, abs=0.7)
    seqs = [p.seq for p in b.packets]
    assert seqs == [(seqs[0] + i) & 0xFFFF for i in range(len(seqs))]


async def test_our_silence_goes_out_as_its_level(engine, peer, leg):
    b = peer(0)
    stream = leg(b, comfort_noise=13, suppress_silence=True)
    await pace(0.5, listen(b))  # digital silence: nothing but its level
    assert b.packets[-1].pt == 13
    assert b.packets[-1].payload[0] == 127
    n = len(b.packets)
    pcm = np.concatenate([sine(701, 0.6), noise(2.4, -62), sine(701, 0.6)])
    stream.play_samples(pcm.tobytes())
    await pace(4.3, listen(b))
    begun = next(p.ts for p in b.packets[n:] if p.pt == 0)
    quiet = [p for p in b.packets[n:] if p.pt == 13 and 5000 < (p.ts - begun) & 0xFFFFFFFF < 23000]
    assert 1 <= len(quiet) <= 5
    assert {len(p.payload) for p in quiet} == {9}
    assert np.median([p.payload[0] for p in quiet]) == pytest.approx(62, abs=2)
    speech = [p for p in b.packets[n:] if p.pt == 0]
    assert 76 <= len(speech) <= 82  # 1.2 s, and twice 200 ms that might be the end of a word
    assert sum(p.marker for p in speech) == 2
    heard = g711_decode(b"".join(p.payload for p in speech), 0)
    assert usual_level_at(heard, 701) == pytest.approx(-13, abs=0.7)
    # Its numbers have no gaps: nothing seems lost.
    seqs = [p.seq for p in b.packets]
    assert seqs == [(seqs[0] + i) & 0xFFFF for i in range(len(seqs))]


async def test_silence_is_sent_as_ever_unless_asked_otherwise(engine, peer, leg):
    a = peer(0)
    leg(a, comfort_noise=13)
    b = peer(0)
    leg(b, suppress_silence=True)  # not agreed on
    await pace(1.0, listen(a), listen(b))
    assert {p.pt for p in a.packets + b.packets} == {0}
    assert min(len(a.packets), len(b.packets)) > 40


async def test_wideband_noise_is_white_at_its_level(engine, peer, leg):
    a, b = peer(9), peer(9)
    sa, sb = leg(a), leg(b, StreamOptions(gain_out_db=-0.01))
    bridge(engine, sa, sb)
    await pace(0.6, talk(a, sa.local, sine(701, 1.0, 16000)), listen(b))
    a.send(bytes([45, 250, 3]), sa.local, pt=13)
    await pace(1.5, listen(b))
    heard = b.pcm()[-16000:]
    assert rms_dbm0(heard) == pytest.approx(FULL_SQUARE_DBM0 - 45, abs=1.5)


async def test_reports_keep_a_silent_stream_alive(engine, peer, leg):
    a = peer(0)
    stream = leg(a, media_timeout_s=0.5)
    await pace(0.3, talk(a, stream.local, sine(701, 1.0)))
    a.send(bytes([60]), stream.local, pt=13)
    report = b"\x80\xc9\x00\x01" + a.ssrc.to_bytes(4, "big")
    await pace(
        1.5,
        lambda i: i % 10 or a.rtcp.sendto(report, (stream.local[0], stream.local[1] + 1)),
    )
    assert MediaTimeout() not in stream.events
    await pace(1.5)
    assert stream.events.count(MediaTimeout()) == 1


async def test_garbage_as_comfort_noise(engine, peer, leg):
    a, b = peer(0), peer(8)
    sa, sb = leg(a, comfort_noise=13), leg(b, StreamOptions(gain_out_db=-0.01))
    bridge(engine, sa, sb)
    rng = random.Random(9)
    signal = talk(a, sa.local, sine(701, 1.0))

    def mutate(i):
        signal(i)
        for _ in range(5):
            payload = rng.randbytes(rng.choice((0, 1, 2, 11, 40, 900)))
            a.send(payload, sa.local, pt=13, ticks=0, ts=a.ts + rng.randrange(-3000, 3000))

    await pace(1.0, mutate, listen(b))
    await pace(1.5, signal, listen(b))  # and it still works
    assert usual_level_at(b.pcm()[-8160:-160], 701) == pytest.approx(-13, abs=0.7)


@pytest.mark.interop
@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is missing")
async def test_ffmpeg_hears_our_noise(engine, peer, leg, tmp_path):
    sink = peer(0)
    stream = leg(sink, comfort_noise=13, suppress_silence=True)
    sink.close()  # ffmpeg takes these ports
    description, out = tmp_path / "x.sdp", tmp_path / "x.raw"
    description.write_text(
        "v=0\no=- 1 1 IN IP4 127.0.0.1\ns=-\nc=IN IP4 127.0.0.1\nt=0 0\n"
        f"m=audio {sink.port} RTP/AVP 13\na=rtpmap:13 CN/8000\n"
    )
    process = await asyncio.create_subprocess_exec(
        "ffmpeg", "-v", "error", "-protocol_whitelist", "file,udp,rtp",
        "-c:a", "comfortnoise", "-i", str(description), "-f", "s16le", "-y", str(out),
    )  # fmt: skip
    quiet, loud = noise(0.4, -64), noise(0.4, -58)
    # Levels in turn make more packets: ffmpeg plays one frame for each.
    stream.play_samples(np.concatenate([quiet, loud] * 9).tobytes())
    await pace(7.0)
    stream.close()
    process.terminate()
    await process.wait()
    pcm = np.frombuffer(out.read_bytes(), np.int16)
    assert len(pcm) > 3000
    # It plays its own descriptions some 7 dB too low: ours must sound like those.
    raw, own = tmp_path / "own.raw", tmp_path / "own.nut"
    raw.write_bytes(np.concatenate([quiet, loud]).tobytes())
    mono = ["-f", "s16le", "-ar", "8000", "-ac", "1"]
    subprocess.run(
        ["ffmpeg", "-v", "error", *mono, "-i", str(raw), "-c:a", "comfortnoise", str(own)],
        check=True,
    )
    played = subprocess.run(
        ["ffmpeg", "-v", "error", "-c:a", "comfortnoise", "-i", str(own), "-f", "s16le", "-"],
        capture_output=True,
        check=True,
    ).stdout
    assert rms_dbm0(pcm) == pytest.approx(rms_dbm0(np.frombuffer(played, np.int16)), abs=3)


def test_the_oracle_is_there() -> None:
    """ffmpeg without its comfort noise decoder would not be heard to fail."""
    if not shutil.which("ffmpeg"):
        pytest.skip("ffmpeg is missing")
    found = subprocess.run(["ffmpeg", "-v", "error", "-decoders"], capture_output=True, check=True)
    assert b"comfortnoise" in found.stdout
