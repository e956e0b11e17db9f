"""Extended reports of a running stream (RFC 3611): sent, read, judged by tshark, and garbage."""

# ruff: noqa: ASYNC221 (the foreign program is the oracle; nothing else waits for the loop)
from __future__ import annotations

import random
import struct
import subprocess
from pathlib import Path

import pytest
from peers import listen, pace, sine, talk, usual_level_at

from gateway._codecs import xr


def compound(report: bytes) -> dict[int, bytes]:
    """Bodies of the packets of a compound, by type."""
    at, found = 0, {}
    while at < len(report):
        words = struct.unpack("!H", report[at + 2 : at + 4])[0]
        found[report[at + 1]] = report[at + 4 : at + 4 + 4 * words]
        at += 4 + 4 * words
    return found


def tell(peer, stream, *packets: bytes) -> None:
    """A compound from the right source: an empty receiver report and what follows."""
    report = struct.pack("!BBHI", 0x80, 201, 1, peer.ssrc) + b"".join(packets)
    peer.rtcp.sendto(report, (stream.local[0], stream.local[1] + 1))


async def last_report(peer, stream) -> bytes:
    """Closing a stream sends its last report at once."""
    peer.collect()
    peer.reports.clear()
    stream.close()
    await pace(0.2, listen(peer))
    return peer.reports[-1]


async def test_metrics_of_loss_are_sent_and_shown(engine, peer, leg, program, tmp_path: Path):
    a = peer()
    stream = leg(a, xr_metrics=True, xr_round_trip=True)
    lost = [i for burst in (40, 100, 160) for i in range(burst, burst + 9, 2)]  # five of nine each
    await pace(5.0, talk(a, stream.local, sine(701, 1.0), drop=lost))
    tell(a, stream, xr.build_xr(a.ssrc, ntp=(0x11112222, 0x33334444)))
    await pace(0.5, talk(a, stream.local, sine(701, 1.0)))
    earlier = [xr.parse_xr(compound(r)[207], a.ssrc) for r in a.reports]
    quality = stream.stats().quality
    assert quality is not None
    assert quality.loss_percent == pytest.approx(100 * 15 / 250, abs=0.8)
    # Where this test's sender stops for a moment, packets are late besides.
    assert 120 <= quality.burst_ms <= 500
    assert 35 <= quality.burst_percent <= 90
    assert quality.signal_dbm0 == pytest.approx(-13, abs=1)
    assert quality.round_trip_ms is None
    bad = quality.loss_percent + quality.discard_percent
    expected_r = xr.e_model(0, 25.1, bad, quality.end_system_ms)[0]
    assert quality.r_factor == pytest.approx(expected_r, abs=3)
    assert quality.mos_cq is not None
    assert quality.mos_lq is not None
    assert 2 < quality.mos_cq <= quality.mos_lq < 4.4
    report = await last_report(a, stream)
    (ssrc,) = struct.unpack("!I", compound(report)[207][:4])
    last = xr.parse_xr(compound(report)[207], a.ssrc)
    assert ssrc == a.packets[0].ssrc
    assert [block[0] for block in last if block[0] != "dlrr"] == ["rrtr", "voip"]
    assert last[-1][1].ssrc == a.ssrc
    # A report may have been due since we asked: each question is answered once.
    answers = [b for blocks in (*earlier, last) for b in blocks if b[0] == "dlrr"]
    assert [b[1] for b in answers] == [0x22223333]
    assert 0 <= answers[0][2] < 5 * 65536
    capture = tmp_path / "x.pcap"
    with capture.open("wb") as f:
        f.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101))
        udp = struct.pack("!HHHH", 5005, 5005, 8 + len(report), 0) + report
        ip = struct.pack("!BBHHHBBHII", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, 1, 2) + udp
        f.write(struct.pack("<IIII", 0, 0, len(ip), len(ip)) + ip)
    fields = (
        "rtcp.xr.bt", "rtcp.xr.voipmetrics.rfactor", "rtcp.xr.voipmetrics.signallevel",
        "rtcp.xr.voipmetrics.burstduration", "rtcp.xr.lrr", "_ws.malformed", "_ws.expert",
    )  # fmt: skip
    command = [program("tshark"), "-r", str(capture), "-T", "fields", "-E", "separator=|"]
    command += ["-d", "udp.port==5005,rtcp", *(x for field in fields for x in ("-e", field))]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    types, rating, level, burst, asked, malformed, expert = out.strip("\n").split("|")
    assert (malformed, expert) == ("", "")
    assert types in ("4,5,7", "4,7")
    # Between our look at it and the end a few packets more came, and the round trip is new.
    assert abs(int(rating) - quality.r_factor) <= 5
    assert abs(int(level) - (quality.signal_dbm0 or 0)) <= 1
    assert abs(int(burst) - quality.burst_ms) <= 80
    assert asked in ("", str(0x22223333))


async def test_nothing_is_said_that_was_not_agreed(engine, peer, leg):
    a = peer()
    stream = leg(a)
    await pace(0.5, talk(a, stream.local, sine(701, 1.0)))
    tell(a, stream, xr.build_xr(a.ssrc, ntp=(1, 2)))
    await pace(0.2, talk(a, stream.local, sine(701, 1.0)))
    assert stream.stats().quality is not None  # known here all the same
    assert set(compound(await last_report(a, stream))) == {200, 202, 203}


async def test_what_the_far_end_says_of_us(engine, peer, leg):
    a = peer()
    stream = leg(a, xr_round_trip=True)
    await pace(0.5, talk(a, stream.local, sine(701, 1.0)))
    ours = a.packets[0].ssrc
    said = xr.VoipMetrics(
        ours, 26, 13, 100, 2, 140, 9000, 88, 45, -19, 127, 127, 16, 71, 127, 36, 127, 0xBF, 40, 80,
        200,
    )  # fmt: skip
    # Of another stream, and from another source: not ours.
    tell(a, stream, xr.build_xr(a.ssrc, metrics=said._replace(ssrc=ours ^ 1)))
    tell(a, stream, xr.build_xr(a.ssrc ^ 1, metrics=said))
    await pace(0.1)
    assert stream.stats().remote_quality is None
    tell(a, stream, xr.build_xr(a.ssrc, metrics=said))
    await pace(0.1)
    quality = stream.stats().remote_quality
    assert quality is not None
    assert quality.loss_percent == pytest.approx(26 / 2.56)
    assert quality.discard_percent == pytest.approx(13 / 2.56)
    assert (quality.burst_ms, quality.gap_ms, quality.end_system_ms) == (140, 9000, 45)
    assert (quality.signal_dbm0, quality.noise_dbm0, quality.echo_loss_db) == (-19, None, None)
    assert (quality.r_factor, quality.mos_lq, quality.mos_cq) == (71, 3.6, None)
    assert (quality.buffer_ms, quality.buffer_max_ms) == (40, 80)


async def test_round_trip_without_sender_reports(engine, peer, leg):
    """We ask by RRTR, the far end answers by DLRR as if it had held it for the whole time."""
    a = peer()
    stream = leg(a, xr_round_trip=True)
    for _ in range(400):
        await pace(0.02, talk(a, stream.local, sine(701, 1.0)), listen(a))
        if a.reports:
            break
    (asked,) = xr.parse_xr(compound(a.reports[0])[207])
    assert asked[0] == "rrtr"
    assert stream.stats().round_trip_ms is None
    tell(a, stream, xr.build_xr(a.ssrc, dlrr=(a.packets[0].ssrc, asked[1], 0)))
    await pace(0.1)
    trip = stream.stats().round_trip_ms
    assert trip is not None
    assert 0 <= trip < 3000


async def test_mutated_extended_reports_change_nothing_but_counters(engine, peer, leg):
    a, b = peer(0), peer(8)
    sa, sb = leg(a, xr_metrics=True, xr_round_trip=True), leg(b)
    engine.open_bridge("pair")
    engine.join("pair", sa)
    engine.join("pair", sb)
    await pace(0.3, talk(a, sa.local, sine(701, 1.0)), listen(b))
    rng = random.Random(5)
    good = xr.build_xr(
        a.ssrc, ntp=(1, 2), dlrr=(a.ssrc, 3, 4), metrics=xr.VoipMetrics(a.ssrc, *(7,) * 20)
    )

    def mutate(i):
        for _ in range(40):
            packet = bytearray(good)
            for _ in range(rng.randrange(1, 6)):
                packet[rng.randrange(4, len(packet))] = rng.randrange(256)
            if rng.random() < 0.3:
                packet += rng.randbytes(4 * rng.randrange(20))
                packet[2:4] = struct.pack("!H", len(packet) // 4 - 1)
            tell(a, sa, bytes(packet))

    await pace(1.0, mutate, talk(a, sa.local, sine(701, 1.0)), listen(b))
    await pace(1.5, talk(a, sa.local, sine(701, 1.0)), listen(b))
    assert usual_level_at(b.pcm()[-8160:-160], 701) == pytest.approx(-13, abs=0.7)
    stats = sa.stats()
    assert stats.packets_lost == 0
    assert stats.packets_refused > 0
    assert stats.remote_quality is None
