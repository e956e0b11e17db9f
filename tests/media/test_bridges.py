"""Who hears whom: every participant has a frequency of its own (numpy's FFT listens)."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
from peers import level_at, listen, pace, rms_dbm0, sine, talk, usual_level_at

from gateway.errors import UsageError
from gateway.media.streams import Codec, RtpSpec


def steady(peer) -> np.ndarray:
    """The last second that was heard."""
    rate = 8000 if peer.pt in (0, 8) else 16000
    pcm = peer.pcm()
    assert len(pcm) >= rate, f"only {len(pcm)} samples heard"
    return pcm[-rate - rate // 50 : -rate // 50]


def rate_of(peer) -> int:
    return 8000 if peer.pt in (0, 8) else 16000


async def test_a_pair_with_one_codec_is_relayed_untouched(engine, peer, leg):
    a, b = peer(), peer()
    sa, sb = leg(a), leg(b)
    engine.open_bridge("pair")
    engine.join("pair", sa)
    engine.join("pair", sb)
    signal = sine(1004, 1.0)
    await pace(1.5, talk(a, sa.local, signal), listen(b))
    assert engine.stats().relays == 1
    sent = a.encode(signal)
    heard = [p for p in b.audio() if p.payload != b"\xff" * 160]
    assert len(heard) >= 70
    assert [p.payload for p in heard[:50]] == [sent[i * 160 : i * 160 + 160] for i in range(50)]
    assert len({p.ssrc for p in b.packets}) == 1
    assert a.ssrc != b.packets[0].ssrc
    for before, after in pairwise(heard):
        assert (after.seq - before.seq) & 0xFFFF == 1
        assert (after.ts - before.ts) & 0xFFFFFFFF == 160


@pytest.mark.parametrize(("left", "right"), [(0, 8), (8, 9), (9, 0), (96, 0), (9, 96)])
async def test_a_pair_with_two_codecs_is_transcoded_both_ways(engine, peer, leg, left, right):
    a, b = peer(left), peer(right)
    # Deep enough for a sender who shares his processors with others: what is concealed then is
    # the engine's doing.
    deep = {"jitter_min_ms": 120, "jitter_max_ms": 400}
    sa, sb = leg(a, **deep), leg(b, **deep)
    engine.open_bridge("pair")
    engine.join("pair", sa)
    engine.join("pair", sb)
    jobs = (
        talk(a, sa.local, sine(607, 1.0, rate_of(a))),
        talk(b, sb.local, sine(1009, 1.0, rate_of(b))),
    )
    concealed = [0, 0]
    for _ in range(4):
        before = concealed
        await pace(2.0, *jobs)
        # At once: nobody sends any more, and while we measure the engine conceals that.
        concealed = [stream.stats().frames_concealed for stream in (sa, sb)]
        if concealed == before:  # else the machine stalled for longer than that
            break
    at_a, at_b = steady(a), steady(b)
    assert usual_level_at(at_b, 607, rate_of(b)) == pytest.approx(-13, abs=0.7)
    assert usual_level_at(at_a, 1009, rate_of(a)) == pytest.approx(-13, abs=0.7)
    assert level_at(at_b, 1009, rate_of(b)) < -60
    assert level_at(at_a, 607, rate_of(a)) < -60
    assert rms_dbm0(at_b) == pytest.approx(-13, abs=0.7)
    assert concealed == before


async def test_a_conference_of_twelve_hears_all_others_and_not_itself(engine, peer, leg):
    peers = [peer(pt) for pt in (0, 8, 9, 0, 8, 9, 0, 8, 0, 96, 0, 8)]
    tones = [
        (401, 601, 809, 1009, 1201, 1409, 1601, 1801, 2003, 2203, 2411, 2609)[i] for i in range(12)
    ]
    engine.open_bridge("room")
    legs = [leg(p) for p in peers]
    for stream in legs:
        engine.join("room", stream)
    await pace(
        2.2,
        *(
            talk(p, s.local, sine(hz, 1.0, rate_of(p), -25.0))
            for p, s, hz in zip(peers, legs, tones, strict=True)
        ),
    )
    for i, p in enumerate(peers):
        heard = steady(p)
        for k, hz in enumerate(tones):
            level = level_at(heard, hz, rate_of(p))
            if i == k:
                assert level < -25 - 25, f"{i} hears itself"  # G.711 noise of 11 tones is -55
            else:
                assert level == pytest.approx(-25, abs=1.0), f"{i} hears {k}"


async def test_calls_do_not_leak_into_each_other(engine, peer, leg):
    legs = []
    for call in range(4):
        a, b = peer(0), peer(9 if call % 2 else 8)
        sa, sb = leg(a, jitter_min_ms=120, jitter_max_ms=400), leg(b)
        engine.open_bridge(f"call {call}")
        engine.join(f"call {call}", sa)
        engine.join(f"call {call}", sb)
        legs.append((a, b, sa, sb, (503, 797, 1103, 1409)[call]))
    await pace(
        2.0,
        *(talk(a, sa.local, sine(hz, 1.0)) for a, b, sa, sb, hz in legs),
        *(listen(b) for a, b, sa, sb, hz in legs),
    )
    for _, b, _, _, hz in legs:
        heard = steady(b)
        for other in (leg[4] for leg in legs):
            level = usual_level_at(heard, other, rate_of(b))
            assert level > -14 if other == hz else level < -13 - 50


async def test_a_page_is_heard_by_all_and_nobody_answers(engine, peer, leg):
    speaker, zones = peer(0), [peer(pt) for pt in (0, 8, 9, 0, 9)]
    engine.open_bridge("page")
    mouth = leg(speaker)
    engine.join("page", mouth, hears=False)
    ears = [leg(z) for z in zones]
    for ear in ears:
        engine.join("page", ear, speaks=False)
    await pace(
        2.0,
        talk(speaker, mouth.local, sine(811, 1.0)),
        *(talk(z, s.local, sine(1511, 1.0, rate_of(z))) for z, s in zip(zones, ears, strict=True)),
    )
    for zone in zones:
        assert usual_level_at(steady(zone), 811, rate_of(zone)) == pytest.approx(-13, abs=0.7)
        assert level_at(steady(zone), 1511, rate_of(zone)) < -63
    assert rms_dbm0(steady(speaker)) < -60


async def test_a_listener_comes_into_a_call_that_stands(engine, peer, leg):
    deep = {"jitter_min_ms": 120, "jitter_max_ms": 400}
    talkers, late = [peer(9), peer(9)], [peer(0), peer(9)]
    streams = [leg(each, **deep) for each in talkers]
    engine.open_bridge("pair")
    for stream in streams:
        engine.join("pair", stream)
    signals = [sine(hz, 1.0, 16000) for hz in (607, 1009)]
    jobs = [
        talk(who, stream.local, signal)
        for who, stream, signal in zip(talkers, streams, signals, strict=True)
    ]
    await pace(0.4, *jobs)
    for each in late:
        engine.join("pair", leg(each), speaks=False)
    for _ in range(4):
        await pace(1.5, *jobs, *(listen(each) for each in late))
        levels = [level_at(steady(each), hz, rate_of(each)) for each in late for hz in (607, 1009)]
        levels.append(level_at(steady(talkers[0]), 1009, 16000))
        if min(levels) > -14:  # else the machine stalled
            break
    assert levels == pytest.approx([-13] * 5, abs=1.5)


async def test_what_is_above_4_khz_is_heard_as_soon_as_somebody_can(engine, peer, leg):
    """Beside a narrow leg a wide one is coded by its lower band alone, and only then."""
    deep = {"jitter_min_ms": 120, "jitter_max_ms": 400}
    wide, narrow, late = peer(9), peer(0), peer(9)
    mouth, ear, guest = (leg(each, **deep) for each in (wide, narrow, late))
    engine.open_bridge("pair")
    for stream in (mouth, ear):
        engine.join("pair", stream)
    job = talk(wide, mouth.local, sine(809, 1.0, 16000, -16) + sine(5003, 1.0, 16000, -16))

    async def level(who, hz):
        for _ in range(4):
            await pace(1.5, job, *(listen(each) for each in (narrow, late)))
            if (found := usual_level_at(steady(who), hz, rate_of(who))) > -18:
                break
        return found

    assert await level(narrow, 809) == pytest.approx(-16, abs=1)
    engine.join("pair", guest)
    assert await level(late, 5003) == pytest.approx(-16, abs=1.5)
    assert await level(late, 809) == pytest.approx(-16, abs=1)
    engine.leave("pair", guest)
    assert await level(narrow, 809) == pytest.approx(-16, abs=1)


async def test_a_wide_prompt_stays_wide_beside_a_narrow_leg(engine, peer, leg):
    wide, narrow = peer(9), peer(0)
    streams = [leg(each) for each in (wide, narrow)]
    engine.open_bridge("pair")
    for stream in streams:
        engine.join("pair", stream)
    await pace(0.3, listen(wide), listen(narrow))
    streams[0].play_samples(sine(5003, 3.0, 16000).tobytes(), rate=16000)
    await pace(1.6, listen(wide), listen(narrow))
    assert usual_level_at(steady(wide), 5003, 16000) == pytest.approx(-13, abs=1)


async def test_only_the_floor_holder_is_heard(engine, peer, leg):
    a, b, c = peer(0), peer(0), peer(8)
    legs = [leg(p) for p in (a, b, c)]
    engine.open_bridge("floor")
    for stream in legs:
        engine.join("floor", stream)
    engine.set_floor("floor", legs[0])
    jobs = [
        talk(p, s.local, sine(hz, 1.0))
        for p, s, hz in zip((a, b, c), legs, (503, 907, 1301), strict=True)
    ]
    await pace(1.6, *jobs)
    assert usual_level_at(steady(c), 503) == pytest.approx(-13, abs=0.7)
    assert level_at(steady(c), 907) < -63
    assert rms_dbm0(steady(a)) < -60
    engine.set_floor("floor", legs[1])
    await pace(1.6, *jobs)
    assert usual_level_at(steady(c), 907) == pytest.approx(-13, abs=0.7)
    assert level_at(steady(c), 503) < -63
    engine.set_floor("floor", None)
    await pace(1.6, *jobs)
    assert all(rms_dbm0(steady(p)) < -60 for p in (a, b, c))


async def test_a_leg_that_left_hears_silence_but_its_rtp_goes_on(engine, peer, leg):
    a, b = peer(), peer()
    sa, sb = leg(a), leg(b)
    engine.open_bridge("pair")
    engine.join("pair", sa)
    engine.join("pair", sb)
    await pace(0.6, talk(a, sa.local, sine(700, 1.0)), listen(b))
    engine.leave("pair", sa)
    await pace(1.5, talk(a, sa.local, sine(700, 1.0)), listen(b))
    assert rms_dbm0(steady(b)) < -60
    base = b.packets[0]
    # One time line, whoever produced the packet; a stall of our own reading is none of it.
    ahead = [((p.ts - base.ts) & 0xFFFFFFFF) / 8000 - (p.at - base.at) for p in b.packets]
    assert abs(np.median(ahead[:25]) - np.median(ahead[40:])) < 0.06
    seqs = [p.seq for p in b.audio()]
    assert len(set(seqs)) == len(seqs)


async def test_gains(engine, peer, leg):
    a, b = peer(0), peer(8)
    sa, sb = leg(a), leg(b)
    engine.open_bridge("pair")
    engine.join("pair", sa, gain_db=-6.0)
    engine.join("pair", sb)
    await pace(1.6, talk(a, sa.local, sine(700, 1.0)), listen(b))
    assert usual_level_at(steady(b), 700) == pytest.approx(-19, abs=0.5)
    stats = sb.stats()
    assert stats.level_out_dbm0 == pytest.approx(-19, abs=2.5)


def test_misuse_names_what_is_wrong(engine):
    with pytest.raises(UsageError, match="no bridge 'x'"):
        engine.set_floor("x", None)


@pytest.mark.parametrize("right", [0, 8])
async def test_a_relayed_sender_may_send_in_bursts(engine, peer, leg, right):
    a, b = peer(0), peer(right)
    sa, sb = leg(a), leg(b)
    engine.open_bridge("pair")
    engine.join("pair", sa)
    engine.join("pair", sb)
    octets = a.encode(sine(701, 1.0))

    def seven_at_once(i):
        if i % 7 == 0:
            for n in range(i, i + 7):
                at = n % 50 * 160
                a.send(octets[at : at + 160], sa.local)

    await pace(2.1, seven_at_once, listen(b))
    heard = b.pcm()[-8800:-800]
    assert level_at(heard, 701) == pytest.approx(-13, abs=1.5), "no silence of ours in between"


async def test_the_far_end_of_a_relay_knows_what_was_lost(engine, peer, leg):
    a, b = peer(), peer()
    sa, sb = leg(a), leg(b)
    engine.open_bridge("pair")
    engine.join("pair", sa)
    engine.join("pair", sb)
    lost = {30, 50, 51, 52, 53}
    times: list[float] = []

    def speak(i):
        a.collect()
        times.append(time.monotonic())
        if i in lost:
            a.seq += 1
            a.ts += 160
        else:
            a.send(bytes([i]) * 160, sa.local)  # each packet says its number

    for _ in range(5):
        times.clear()
        b.packets.clear()
        await pace(1.6, speak, listen(b))
        # A busy machine may itself make a pause, which is filled.
        if max(y - x for x, y in pairwise(times)) < 0.08:
            break
    heard = [p for p in b.audio() if 20 < p.payload[0] < 75 and len(set(p.payload)) == 1]
    assert {p.payload[0] for p in heard} == set(range(21, 75)) - lost
    base = heard[0]
    for p in heard:
        n = p.payload[0] - base.payload[0]
        assert ((p.seq - base.seq) & 0xFFFF, (p.ts - base.ts) & 0xFFFFFFFF) == (n, 160 * n)


async def test_a_chain_of_codecs_keeps_level_polarity_and_zero(engine, peer, leg):
    """A-law to mu-law to G.722 to linear, each hop a call of its own."""
    a, b = peer(8), peer(96)
    first, last = leg(a), leg(b)
    ends = [first]
    for n, codec in enumerate((Codec.PCMU, Codec.G722)):
        fields = {
            "local_ip": "127.0.0.1",
            "codec": codec,
            "payload_type": (0, 9)[n],
            "rate": (8000, 16000)[n],
        }
        near = engine.open(RtpSpec(**fields))
        to = {"remote_ip": "127.0.0.1", "remote_port": near.local[1]}
        far = engine.open(RtpSpec(**fields, **to))
        near.update(RtpSpec(**fields, remote_ip="127.0.0.1", remote_port=far.local[1]))
        ends += [near, far]
    ends.append(last)
    for n in range(0, len(ends), 2):
        engine.open_bridge(f"hop {n}")
        engine.join(f"hop {n}", ends[n])
        engine.join(f"hop {n}", ends[n + 1])
    # The second tone stands on the first one's zero crossings: upside down it would not.
    at = np.arange(8000) / 8000
    tones = 6000 * np.sin(2 * np.pi * 311 * at) + 3000 * np.cos(2 * np.pi * 622 * at)
    await pace(3.0, talk(a, first.local, np.round(tones).astype(np.int16)), listen(b))
    pcm = b.pcm().astype(float)
    found = []
    for start in range(16000, len(pcm) - 3199, 1600):
        part, at = pcm[start : start + 3200], np.arange(3200) / 16000
        window = np.hanning(3200)
        low, high = (
            2 * (part * window) @ np.exp(-2j * np.pi * hz * at) / window.sum() for hz in (311, 622)
        )
        turned = np.angle(high / (1j * low / abs(low)) ** 2, deg=True)
        found.append((20 * np.log10(abs(low) / 6000), 20 * np.log10(abs(high) / 3000), turned))
    # What a stall of our own has spoiled is quieter.
    low_db, high_db, turned = np.median(sorted(found)[-5:], axis=0)
    assert low_db == pytest.approx(0, abs=0.1)
    assert high_db == pytest.approx(0, abs=0.15)
    assert turned == pytest.approx(0, abs=5)
    assert abs(pcm[16000:].mean()) < 20
