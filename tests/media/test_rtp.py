"""RTP and RTCP at the socket: sources, loss, order, time, addresses, garbage."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from itertools import pairwise

import pytest
from peers import clicks, level_at, listen, pace, rms_dbm0, sine, talk, usual_level_at

from gateway.media.streams import (
    ByeReceived,
    Codec,
    Direction,
    MediaStarted,
    MediaTimeout,
    RtpSpec,
    StreamOptions,
)


def pair(engine, peer, leg, *, right=8, **fields):
    a, b = peer(0), peer(right)
    sa, sb = leg(a, **fields), leg(b)
    engine.open_bridge("pair")
    engine.join("pair", sa)
    engine.join("pair", sb)
    return a, b, sa, sb


async def test_nothing_is_sent_before_the_remote_is_known_then_silence_flows(engine, peer, leg):
    a = peer()
    stream = leg(a, remote_ip=None, remote_port=0)
    await pace(0.3, talk(a, stream.local, sine(700, 1.0)))
    assert a.packets == []
    assert stream.stats().packets_refused >= 14
    assert stream.stats().packets_received == 0
    stream.update(
        RtpSpec(local_ip="127.0.0.1", remote_ip="127.0.0.1", remote_port=a.port, payload_type=0)
    )
    await pace(1.0, listen(a))
    assert 45 <= len(a.packets) <= 52
    assert rms_dbm0(a.pcm()) < -70
    assert a.packets[0].marker == 1
    assert all(p.marker == 0 for p in a.packets[1:])
    assert {(y.ts - x.ts) & 0xFFFFFFFF for x, y in pairwise(a.packets)} == {160}


@pytest.mark.parametrize("ptime", [10, 20, 30, 40, 60])
async def test_ptime_in_and_out(engine, peer, leg, ptime):
    a, b = peer(0), peer(8)
    sa, sb = leg(a), leg(b, ptime_ms=ptime)
    engine.open_bridge("pair")
    engine.join("pair", sa)
    engine.join("pair", sb)
    at: list[float] = []
    await pace(
        1.8,
        lambda i: at.append(time.monotonic()),
        talk(a, sa.local, sine(705, 1.2), ptime_ms=ptime),
        listen(b),
    )
    # A stall of our own sending has to be concealed, whatever way the packets go.
    stalls = sum((y - x) // 0.02 for x, y in pairwise(at) if y - x > 0.025)
    concealed = sa.stats().frames_concealed
    assert {len(p.payload) for p in b.packets} == {8 * ptime}
    steps = [((y.ts - x.ts) & 0xFFFFFFFF, y.marker) for x, y in pairwise(b.packets)]
    assert {step for step, marker in steps if not marker} == {8 * ptime}
    # Silence of ours before the first packet came has another phase, but no time is used twice.
    assert all(8 * ptime <= step < 0x80000000 for step, marker in steps if marker)
    heard = b.pcm()[-6000:]
    assert usual_level_at(heard, 705) == pytest.approx(-13, abs=0.7)
    assert rms_dbm0(heard) == pytest.approx(-13, abs=0.7)
    assert concealed <= 3 + stalls


async def test_strangers_are_neither_heard_nor_answered(engine, peer, leg):
    a, b, sa, _ = pair(engine, peer, leg)
    stranger = peer()
    stranger.ssrc = a.ssrc
    await pace(0.4, talk(a, sa.local, sine(701, 1.0)), listen(b))
    before = len(b.packets)
    await pace(
        1.4, talk(a, sa.local, sine(701, 1.0)), listen(b), talk(stranger, sa.local, sine(1303, 1.0))
    )
    assert stranger.packets == []
    heard = b.pcm()[before * 160 + 1600 :]
    assert level_at(heard, 1303) < -63
    assert usual_level_at(heard, 701) == pytest.approx(-13, abs=0.7)
    assert sa.stats().packets_refused == stranger.sent


async def test_symmetric_learns_the_port_once(engine, peer, leg):
    a, b, other = peer(0), peer(8), peer(0)
    stream = leg(a, remote_port=a.port ^ 2, symmetric=True)  # the NAT shows another port
    await pace(0.6, talk(a, stream.local, sine(701, 1.0)), listen(b))
    assert a.packets
    assert stream.stats().remote == f"127.0.0.1:{a.port}"
    await pace(
        0.4, talk(a, stream.local, sine(701, 1.0)), talk(other, stream.local, sine(907, 1.0))
    )
    assert other.packets == []
    # The phone's NAT rebinds: only the next signalling lets the new port in, after a silence.
    await pace(1.2, talk(other, stream.local, sine(907, 1.0)))
    assert other.packets
    assert any(isinstance(e, MediaStarted) for e in stream.events)


async def test_the_latch_window_closes(engine, peer, leg):
    a = peer(0)
    stream = leg(a, remote_port=a.port ^ 2, latch_ms=200)
    await pace(0.3)
    await pace(0.3, talk(a, stream.local, sine(701, 1.0)))
    assert a.packets == []
    stream.update(
        RtpSpec(local_ip="127.0.0.1", remote_ip="127.0.0.1", remote_port=a.port ^ 2, latch_ms=200)
    )
    await pace(0.3, talk(a, stream.local, sine(701, 1.0)))
    assert a.packets


async def test_not_symmetric_never_learns(engine, peer, leg):
    a = peer(0)
    stream = leg(a, remote_port=a.port ^ 2, symmetric=False)
    await pace(0.4, talk(a, stream.local, sine(701, 1.0)))
    assert a.packets == []
    assert stream.stats().packets_refused == 20


async def test_other_addresses_only_behind_nat(engine, peer, leg):
    a = peer(0, "127.0.0.2")
    closed = leg(a, local_ip="127.0.0.1", remote_ip="127.0.0.3")
    opened = leg(a, local_ip="127.0.0.1", remote_ip="127.0.0.3", latch_anywhere=True)
    await pace(0.3, talk(a, closed.local, sine(701, 1.0)))
    assert a.packets == []
    await pace(0.3, talk(a, opened.local, sine(701, 1.0)))
    assert a.packets


async def test_ssrc_change_needs_two_packets_in_sequence(engine, peer, leg):
    a, b, sa, _ = pair(engine, peer, leg)
    await pace(0.5, talk(a, sa.local, sine(701, 1.0)), listen(b))
    refused = sa.stats().packets_refused
    keep, a.ssrc = a.ssrc, 1
    a.send(b"\x00" * 160, sa.local)
    a.ssrc = keep
    await pace(0.2, talk(a, sa.local, sine(701, 1.0)))
    assert sa.stats().packets_refused == refused + 1
    a.ssrc, a.seq, a.ts = 99, 500, 12345
    await pace(1.5, talk(a, sa.local, sine(701, 1.0)), listen(b))
    assert sa.stats().packets_refused == refused + 2
    assert usual_level_at(b.pcm()[-8000:], 701) == pytest.approx(-13, abs=0.7)


async def test_loss_duplicates_and_reordering_are_counted_and_survived(engine, peer, leg):
    a, b, sa, sb = pair(engine, peer, leg)
    sb.configure(StreamOptions(gain_out_db=-0.01))  # through the jitter buffer, not relayed
    lost = {20, 41, 42, 77}
    octets = a.encode(sine(701, 2.0))
    base_seq, base_ts = a.seq, a.ts

    def job(i):
        order = [i]
        if i == 50:
            order = []
        if i == 51:
            order = [51, 50]  # swapped on the way
        for n in order:
            if n in lost:
                continue
            a.seq, a.ts = base_seq + n, base_ts + 160 * n
            a.send(octets[n * 160 : n * 160 + 160], sa.local)
            if n == 30:
                a.seq, a.ts = base_seq + n, base_ts + 160 * n
                a.send(octets[n * 160 : n * 160 + 160], sa.local)

    await pace(2.0, job, listen(b))
    stats = sa.stats()
    assert stats.packets_received == 96
    assert stats.packets_lost == 4
    assert stats.packets_duplicate == 1
    assert 4 <= stats.frames_concealed <= 8
    heard = b.pcm()[-2600:]
    assert usual_level_at(heard, 701) == pytest.approx(-13, abs=0.7)


async def test_jitter_is_of_arrivals_not_of_our_wakes(engine, peer, leg):
    source = peer(0)
    stream = leg(source)
    if not engine.stats().io_uring:
        pytest.skip("no io_uring here: packets count as coming when they are read")
    await asyncio.sleep(0.1)
    sent = []
    for gap in [30, 10] * 30:
        before = time.monotonic()
        source.send(bytes(160), stream.local)
        sent.append((before + time.monotonic()) / 2)
        await asyncio.sleep(gap / 1000)
    jitter_ms = 0.0  # RFC 3550 A.8, by the sender's own clock
    for last, this in pairwise(sent):
        jitter_ms += (abs((this - last) * 1000 - 20) - jitter_ms) / 16
    for _ in range(200):
        if stream.stats().packets_received == len(sent):
            break
        await asyncio.sleep(0.02)
    # By the wakes that read them, every 20 ms, it would be next to 0 or to 20.
    assert stream.stats().jitter_ms == pytest.approx(jitter_ms, abs=1.5)


async def test_jitter_makes_the_buffer_deeper_not_the_speech_gappy(engine, peer, leg):
    a, b, sa, _ = pair(engine, peer, leg)
    rng = random.Random(7)
    octets = a.encode(sine(701, 1.0))
    queue: list[tuple[float, int]] = []

    def job(i):
        queue.append((i + rng.random() * 3.0, i))  # up to 60 ms late
        queue.sort()
        while queue and queue[0][0] <= i:
            n = queue.pop(0)[1]
            a.seq, a.ts = 1000 + n, 160 * n
            a.send(octets[n % 50 * 160 : n % 50 * 160 + 160], sa.local)

    await pace(5.0, job, listen(b))
    stats = sa.stats()
    assert stats.packets_lost <= 3
    assert stats.jitter_ms > 5
    assert stats.buffer_ms <= 120
    before = stats.frames_concealed
    await pace(2.0, lambda i: job(i + 250), listen(b))
    assert sa.stats().frames_concealed - before <= 4


async def test_media_timeout_once_and_again_after_recovery(engine, peer, leg):
    a = peer()
    stream = leg(a, media_timeout_s=0.3)
    await pace(0.3, talk(a, stream.local, sine(701, 1.0)))
    await pace(0.7, listen(a))
    assert stream.events.count(MediaTimeout()) == 1
    await pace(0.2, talk(a, stream.local, sine(701, 1.0)))
    await pace(0.6, listen(a))
    assert stream.events.count(MediaTimeout()) == 2


@pytest.mark.parametrize("direction", [Direction.SENDONLY, Direction.RECVONLY, Direction.INACTIVE])
async def test_direction(engine, peer, leg, direction):
    a, b, sa, sb = pair(engine, peer, leg, direction=direction)
    await pace(1.4, talk(a, sa.local, sine(701, 1.0)), talk(b, sb.local, sine(907, 1.0)))
    heard_at_b = level_at(b.pcm()[-8000:], 701)
    assert (heard_at_b > -14) == (direction is Direction.RECVONLY)
    if direction is Direction.SENDONLY:
        assert level_at(a.pcm()[-8000:], 907) > -14
    else:
        assert a.packets == []


async def test_update_changes_codec_and_port_stays(engine, peer, leg):
    a, b, sa, sb = pair(engine, peer, leg)
    await pace(0.4, talk(a, sa.local, sine(701, 1.0)), talk(b, sb.local, sine(907, 1.0)))
    port, n = sa.local, len(a.packets)
    a.pt = 9
    sa.update(
        RtpSpec(
            local_ip="127.0.0.1",
            remote_ip="127.0.0.1",
            remote_port=a.port,
            codec=Codec.G722,
            payload_type=9,
            rate=16000,
        )
    )
    await pace(1.5, talk(a, sa.local, sine(701, 1.0, 16000)), talk(b, sb.local, sine(907, 1.0)))
    assert sa.local == port
    assert usual_level_at(a.pcm()[-16000:], 907, 16000) == pytest.approx(-13, abs=0.7)
    assert usual_level_at(b.pcm()[-8000:], 701) == pytest.approx(-13, abs=0.7)
    assert a.packets[-1].ssrc == a.packets[0].ssrc
    assert (a.packets[-1].seq - a.packets[0].seq) & 0xFFFF == len(a.packets) - 1
    assert n > 10


async def test_update_goes_to_linear_and_back(engine, peer, leg):
    deep = {"jitter_min_ms": 100, "jitter_max_ms": 190}
    a, b, sa, sb = pair(engine, peer, leg, **deep)
    await pace(0.3, talk(a, sa.local, sine(701, 1.0)), talk(b, sb.local, sine(907, 1.0)))
    for pt, codec, rate, ptime in ((96, Codec.L16, 16000, 30), (0, Codec.PCMU, 8000, 20)):
        a.pt = pt
        sa.update(
            RtpSpec(
                local_ip="127.0.0.1", remote_ip="127.0.0.1", remote_port=a.port, codec=codec,
                payload_type=pt, rate=rate, ptime_ms=ptime, **deep,
            )
        )  # fmt: skip
        at_a = len(a.packets)
        jobs = talk(a, sa.local, sine(701, 1.0, rate)), talk(b, sb.local, sine(907, 1.0))
        for _ in range(4):
            await pace(1.2, *jobs)
            at_b = level_at(b.pcm()[-6000:], 701)
            back = level_at(a.pcm()[-rate * 3 // 4 :], 907, rate)
            if min(at_b, back) > -14:
                break
        # A stall of the machine costs level; what is heard at all comes through the new buffer.
        assert (at_b, back) == pytest.approx((-13, -13), abs=1.5)
        octets = rate * ptime // 1000 * (2 if codec is Codec.L16 else 1)
        assert {len(p.payload) for p in a.packets[at_a:] if p.pt == pt} == {octets}


async def test_ipv6(engine, peer, leg):
    a, b = peer(0, "::1"), peer(8)
    sa, sb = leg(a), leg(b)
    engine.open_bridge("pair")
    engine.join("pair", sa)
    engine.join("pair", sb)
    await pace(1.4, talk(a, sa.local, sine(701, 1.0)), talk(b, sb.local, sine(907, 1.0)))
    assert usual_level_at(b.pcm()[-8000:], 701) == pytest.approx(-13, abs=0.7)
    assert usual_level_at(a.pcm()[-8000:], 907) == pytest.approx(-13, abs=0.7)
    assert MediaStarted(source=f"[::1]:{a.port}") in sa.events


def _rtcp(data: bytes):
    """Packets of a compound: (type, body)."""
    at, out = 0, []
    while at < len(data):
        kind, words = data[at + 1], struct.unpack("!H", data[at + 2 : at + 4])[0]
        out.append((kind, data[at + 4 : at + 4 + 4 * words]))
        at += 4 + 4 * words
    assert at == len(data)
    return out


async def test_rtcp_reports_round_trip_and_bye(engine, peer, leg):
    a = peer()
    stream = leg(a)
    await pace(8.0, talk(a, stream.local, sine(701, 1.0), drop=range(50, 400, 10)))
    kinds = [_rtcp(r) for r in a.reports]
    assert 1 <= len(kinds) <= 2
    (sr, body), (sdes, text) = kinds[0][:2]
    assert (sr, sdes) == (200, 202)
    assert b"gateway@" in text
    (ssrc,) = struct.unpack("!I", body[:4])
    assert ssrc == a.packets[0].ssrc
    their, fraction = struct.unpack("!IB", body[24:29])
    assert their == a.ssrc
    assert 10 <= fraction <= 40  # one in ten is 25 of 256; the first second lost nothing
    # Our receiver report: loss 12.5 %; we pretend to have answered their last SR at once.
    last = kinds[-1][0][1]
    hi, lo = struct.unpack("!II", last[4:12])
    lsr = (hi & 0xFFFF) << 16 | lo >> 16
    rr = struct.pack("!BBHIIBBHIIII", 0x81, 201, 7, a.ssrc, ssrc, 32, 0, 0, 0, 0, lsr, 0)
    a.rtcp.sendto(rr, (stream.local[0], stream.local[1] + 1))
    bye = struct.pack("!BBHI", 0x80, 201, 1, a.ssrc) + struct.pack("!BBHI", 0x81, 203, 1, a.ssrc)
    a.rtcp.sendto(bye, (stream.local[0], stream.local[1] + 1))
    await pace(0.1)
    stats = stream.stats()
    assert stats.remote_loss_percent == pytest.approx(12.5)
    assert stats.round_trip_ms is not None
    assert 0 <= stats.round_trip_ms < 8000
    assert stream.events.count(ByeReceived()) == 1
    a.collect()
    a.reports.clear()
    stream.close()
    await pace(0.1)
    a.collect()
    assert [k for k, _ in _rtcp(a.reports[-1])] == [200, 202, 203]


async def test_garbage_floods_do_no_harm(engine, peer, leg):
    a, b, sa, sb = pair(engine, peer, leg)
    rng = random.Random(1)
    stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def flood(i):
        for _ in range(60):
            data = rng.randbytes(rng.choice((0, 1, 11, 12, 13, 40, 172, 1400)))
            stranger.sendto(data, sa.local)
            stranger.sendto(data, (sb.local[0], sb.local[1] + 1))
        for _ in range(10):  # from the right source, nearly right
            packet = bytearray(struct.pack("!BBHII", 0x80, 0, 1, 1, a.ssrc) + bytes(20))
            packet[rng.randrange(2)] = rng.randrange(256)
            if (
                bytes(packet[:2]) != b"\x80\x00"
                and packet[1] & 0x7F != 0
                and packet[1] & 0x7F != 13
            ):
                a.sock.sendto(bytes(packet[: rng.randrange(len(packet))]), sa.local)
            a.rtcp.sendto(rng.randbytes(rng.randrange(80)), (sa.local[0], sa.local[1] + 1))

    await pace(2.0, flood, talk(a, sa.local, sine(701, 1.0)), listen(b))
    stranger.close()
    heard = b.pcm()[-8160:-160]
    assert usual_level_at(heard, 701) == pytest.approx(-13, abs=0.7)
    assert rms_dbm0(heard) == pytest.approx(-13, abs=0.7)
    stats = sa.stats()
    assert stats.packets_refused > 5000
    assert stats.packets_received == a.sent
    assert stats.packets_lost == 0


async def test_mutated_packets_from_the_right_source(engine, peer, leg):
    a, b, sa, _ = pair(engine, peer, leg)
    a.te_pt = 101
    rng = random.Random(2)

    def mutate(i):
        for _ in range(40):
            n = rng.randrange(1, 4)
            packet = bytearray(
                struct.pack(
                    "!BBHII",
                    0x80,
                    rng.choice((0, 101, 72, 200)),
                    rng.randrange(65536),
                    rng.randrange(2**32),
                    rng.choice((a.ssrc, 5)),
                )
                + rng.randbytes(rng.randrange(1500))
            )
            for _ in range(n):
                packet[rng.randrange(min(len(packet), 20))] = rng.randrange(256)
            a.sock.sendto(bytes(packet), sa.local)

    await pace(1.0, mutate, listen(b))
    await pace(2.0, talk(a, sa.local, sine(701, 1.0)), listen(b))  # and it still works
    heard = b.pcm()[-8160:-160]
    assert usual_level_at(heard, 701) == pytest.approx(-13, abs=0.7)


async def test_mutated_reports_from_the_right_source(engine, peer, leg):
    a, b, sa, _ = pair(engine, peer, leg)
    rng = random.Random(3)
    to = (sa.local[0], sa.local[1] + 1)
    head = struct.pack("!BBHI", 0x81, 200, 12, a.ssrc)
    block = struct.pack("!IIIIII", 1, 32, 0, 0, 0, 0)
    name = struct.pack("!BBHI", 0x81, 202, 3, a.ssrc) + b"\x01\x04name\0\0"
    bye = struct.pack("!BBHIB", 0x81, 203, 2, a.ssrc, 3) + b"off"
    compound = head + bytes(20) + block + name + bye

    def mutate(i):
        for _ in range(40):
            packet = bytearray(compound)
            for _ in range(rng.randrange(1, 6)):
                packet[rng.choice((0, 1, 2, 3, rng.randrange(len(packet))))] = rng.randrange(256)
            a.rtcp.sendto(bytes(packet[: rng.choice((len(packet), rng.randrange(120)))]), to)

    await pace(1.0, mutate, talk(a, sa.local, sine(701, 1.0)), listen(b))
    await pace(1.5, talk(a, sa.local, sine(701, 1.0)), listen(b))  # and it still works
    assert usual_level_at(b.pcm()[-8160:-160], 701) == pytest.approx(-13, abs=0.7)


@pytest.mark.parametrize("every", [0.97, 1.03], ids=["fast", "slow"])
async def test_clock_drift_is_absorbed_without_clicks(engine, peer, leg, every):
    """A fast sender would fill the buffer for ever: it gives frames up instead."""
    a, b, sa, _ = pair(engine, peer, leg, right=97)
    octets = a.encode(sine(433, 1.0))  # 20 ms less are no whole number of waves
    state = {"due": 0.0, "n": 0}

    def job(i):
        while state["due"] <= i:
            n = state["n"]
            a.send(octets[n % 50 * 160 : n % 50 * 160 + 160], sa.local)
            state["n"] += 1
            state["due"] += every  # 3 %, so that a short test shows it

    depths: list[float] = []
    await pace(8.0, job, listen(b), lambda i: depths.append(sa.stats().buffer_ms))
    # 240 ms have come too much by now; a stall of our own makes it deeper, but not for long.
    assert min(depths[-150:]) <= 120
    heard = b.pcm()[4000:]
    assert usual_level_at(heard[-8000:], 433) == pytest.approx(-13, abs=1)
    assert clicks(heard) <= 4  # a stall of our own may be one; cut hard it is 40 for the fast one


@pytest.mark.parametrize("right", [0, 8])
@pytest.mark.parametrize("ptime", [5, 80, 100, 120])
async def test_packets_of_odd_lengths_are_heard(engine, peer, leg, ptime, right):
    """Lengths that we do not offer, but some telephones send."""
    a, b = peer(0), peer(right)
    sa, sb = leg(a), leg(b)
    engine.open_bridge("pair")
    engine.join("pair", sa)
    engine.join("pair", sb)
    await pace(2.4, talk(a, sa.local, sine(700, 1.2), ptime_ms=ptime), listen(b))
    heard = b.pcm()[-8000:]
    assert usual_level_at(heard, 700) == pytest.approx(-13, abs=0.7)
    assert sa.stats().packets_refused == 0


async def test_nothing_and_far_too_much_are_survived(engine, peer, leg):
    """Headers without audio, packets of a whole second, and a length that changes all the time."""
    a, b, sa, _ = pair(engine, peer, leg)
    octets = a.encode(sine(700, 1.0))

    def odd(i):
        a.send(b"", sa.local)
        a.send(octets[: (1, 7, 159, 161, 480, 1400)[i % 6]], sa.local)
        a.sock.sendto(struct.pack("!BBHII", 0x80, 0, 0, 0, a.ssrc) + bytes(8000), sa.local)
        a.sock.sendto(b"", sa.local)

    await pace(1.0, odd, listen(b))
    await pace(2.4, talk(a, sa.local, sine(700, 1.0)), listen(b))
    assert usual_level_at(b.pcm()[-8160:-160], 700) == pytest.approx(-13, abs=0.7)
