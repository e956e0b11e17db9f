"""Extended reports: the RFC's figures drawn with struct, tshark, the appendix's counts, garbage."""

import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway._codecs import rtp, xr
from gateway.errors import PeerError, UsageError

U8, U16, U32 = st.integers(0, 255), st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1)
LEVEL = st.integers(-128, 127)
METRICS = st.builds(
    xr.VoipMetrics,
    U32, U8, U8, U8, U8, U16, U16, U16, U16, LEVEL, LEVEL, U8, U8, U8, U8, U8, U8, U8, U16, U16,
    U16,
)  # fmt: skip


def figure(m: xr.VoipMetrics) -> bytes:
    """RFC 3611 4.7."""
    return struct.pack(
        "!BBHIBBBBHHHHbbBBBBBBBBHHH", 7, 0, 8, m.ssrc, m.loss_rate, m.discard_rate,
        m.burst_density, m.gap_density, m.burst_ms, m.gap_ms, m.round_trip_ms, m.end_system_ms,
        m.signal_dbm0, m.noise_dbm0, m.echo_loss_db, m.gmin, m.r_factor, m.external_r, m.mos_lq,
        m.mos_cq, m.config, 0, m.buffer_ms, m.buffer_max_ms, m.buffer_abs_max_ms,
    )  # fmt: skip


@given(U32, U32, U32, U32, U32, METRICS)
def test_blocks_as_the_rfc_draws_them(ssrc, sec, frac, last, delay, metrics) -> None:
    built = xr.build_xr(ssrc, ntp=(sec, frac), dlrr=(7, last, delay), metrics=metrics)
    body = struct.pack("!I", ssrc)
    body += struct.pack("!BBHII", 4, 0, 2, sec, frac)
    body += struct.pack("!BBHIII", 5, 0, 3, 7, last, delay)
    body += figure(metrics)
    assert built == struct.pack("!BBH", 0x80, 207, len(body) // 4) + body
    middle = (sec & 0xFFFF) << 16 | frac >> 16
    assert xr.parse_xr(body, 7) == [("rrtr", middle), ("dlrr", last, delay), ("voip", metrics)]
    assert xr.parse_xr(body, 8) == [("rrtr", middle), ("voip", metrics)]
    for cut in (1, 4, 30):
        with pytest.raises(PeerError):
            xr.parse_xr(body[:-cut])


def test_other_types_are_stepped_over_and_short_blocks_refused() -> None:
    strange = struct.pack("!IBBH", 1, 6, 0xE0, 1) + b"abcd"  # a statistics summary, too short
    rrtr = struct.pack("!BBHII", 4, 0, 2, 1, 2)
    assert xr.parse_xr(strange + rrtr) == [("rrtr", 1 << 16)]
    for short in (struct.pack("!BBHI", 4, 0, 1, 1), struct.pack("!BBHI", 7, 0, 1, 1)):
        with pytest.raises(PeerError, match="too few"):
            xr.parse_xr(struct.pack("!I", 1) + short)


@given(st.binary(max_size=200), U32)
def test_garbage_raises_only_peer_error(data, ssrc) -> None:
    try:
        xr.parse_xr(data, ssrc)
    except PeerError:
        pass


@given(
    st.lists(
        st.tuples(st.sampled_from([4, 5, 7, 1, 99]), st.integers(0, 10), st.binary(max_size=50))
    )
)
def test_almost_right_raises_only_peer_error(parts) -> None:
    body = struct.pack("!I", 1)
    for kind, words, data in parts:
        body += struct.pack("!BBH", kind, 0, words) + data
    try:
        xr.parse_xr(body, 1)
    except PeerError:
        pass


def test_tshark_reads_what_we_build(program, tmp_path: Path) -> None:
    metrics = xr.VoipMetrics(
        0xBBBB, 26, 13, 100, 2, 140, 9000, 88, 45, -19, 127, 127, 16, 87, 127, 43, 42, 0xBF, 40,
        200, 200,
    )  # fmt: skip
    compound = rtp.build_report(0xAAAA) + rtp.build_sdes(0xAAAA, b"box")
    compound += xr.build_xr(0xAAAA, ntp=(3900000000, 1 << 31), dlrr=(0xBBBB, 0x11112222, 65536),
                            metrics=metrics)  # fmt: skip
    capture = tmp_path / "x.pcap"
    with capture.open("wb") as f:
        f.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101))
        udp = struct.pack("!HHHH", 5005, 5005, 8 + len(compound), 0) + compound
        ip = struct.pack("!BBHHHBBHII", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, 1, 2) + udp
        f.write(struct.pack("<IIII", 0, 0, len(ip), len(ip)) + ip)
    wanted = {
        "rtcp.xr.bt": "4,5,7", "rtcp.xr.voipmetrics.burstdensity": "100",
        "rtcp.xr.voipmetrics.gapdensity": "2", "rtcp.xr.voipmetrics.burstduration": "140",
        "rtcp.xr.voipmetrics.gapduration": "9000", "rtcp.xr.voipmetrics.rtdelay": "88",
        "rtcp.xr.voipmetrics.esdelay": "45", "rtcp.xr.voipmetrics.signallevel": "-19",
        "rtcp.xr.voipmetrics.noiselevel": "127", "rtcp.xr.voipmetrics.gmin": "16",
        "rtcp.xr.voipmetrics.rfactor": "87", "rtcp.xr.voipmetrics.extrfactor": "127",
        "rtcp.xr.voipmetrics.moslq": "4.3", "rtcp.xr.voipmetrics.moscq": "4.2",
        "rtcp.xr.voipmetrics.jbnominal": "40", "rtcp.xr.voipmetrics.jbmax": "200",
        "rtcp.xr.voipmetrics.jbabsmax": "200", "rtcp.xr.lrr": str(0x11112222),
        "rtcp.xr.dlrr": "65536", "_ws.malformed": "", "_ws.expert": "",
    }  # fmt: skip
    command = [program("tshark"), "-r", str(capture), "-T", "fields", "-E", "separator=|"]
    command += ["-d", "udp.port==5005,rtcp"]
    for field in wanted:
        command += ["-e", field]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip("\n")
    assert dict(zip(wanted, out.split("|"), strict=True)) == wanted


def test_no_loss_is_one_gap() -> None:
    found = xr.bursts([0] * 500)
    assert (found.loss_rate, found.burst_ms, found.burst_density, found.gap_density) == (0, 0, 0, 0)
    assert found.gap_ms == 10000
    assert found.gmin == 16


def test_single_losses_far_apart_are_no_burst() -> None:
    found = xr.bursts(([0] * 49 + [1]) * 20)
    assert found.loss_rate == 256 // 50
    assert (found.burst_ms, found.burst_density) == (0, 0)
    assert found.gap_density == pytest.approx(256 / 50, abs=1)


def test_bursts_and_gaps_of_a_made_up_call() -> None:
    """Ten times 200 good packets, then ten of which every other one is bad."""
    events = ([0] * 200 + [1, 0] * 5) * 10
    found = xr.bursts(events)
    assert found.loss_rate == int(256 * 50 / 2100)
    assert found.discard_rate == 0
    # A burst runs from its first bad packet to its last: 9 packets, 5 of them bad.
    assert found.burst_ms == pytest.approx(9 * 20, abs=40)
    assert found.gap_ms == pytest.approx(200 * 20, abs=40)
    assert found.burst_density == pytest.approx(256 * 5 / 9, abs=26)
    assert xr.bursts([2 if e else 0 for e in events]).discard_rate == found.loss_rate


@given(st.lists(st.integers(0, 2), max_size=400), st.floats(1, 120))
def test_bursts_of_anything_stay_within_their_fields(events, packet_ms) -> None:
    found = xr.bursts(events, packet_ms)
    n = max(1, len(events))
    assert found.loss_rate == min(255, int(256 * events.count(1) / n))
    assert found.burst_ms <= 2 * n * packet_ms + 1
    with pytest.raises(UsageError):
        xr.bursts([3])


def test_e_model() -> None:
    """G.107: the default of all inputs is R 93.2, which Annex B makes MOS 4.41."""
    r, mos = xr.e_model(0, 25.1, 0, 0)
    assert (r, round(mos, 2)) == (93.2, 4.41)
    # G.113 Appendix I: half of Ie,eff's range is gone where loss equals Bpl.
    assert xr.e_model(0, 25.1, 25.1, 0)[0] == pytest.approx(93.2 - 95 / 2)
    assert xr.e_model(11, 19, 0, 0)[0] == pytest.approx(82.2)  # G.729A
    # Beyond 177.3 ms people notice.
    assert xr.e_model(0, 25.1, 0, 177.3)[0] == pytest.approx(93.2 - 4.2552)
    assert xr.e_model(0, 25.1, 0, 400)[0] == pytest.approx(93.2 - 9.6 - 0.11 * 222.7)
    assert xr.e_model(0, 1, 100, 2000) == (0, 1.0)


@given(st.floats(0, 50), st.floats(1, 40), st.floats(0, 100), st.floats(0, 5000))
def test_e_model_stays_on_its_scale(ie, bpl, loss, delay) -> None:
    r, mos = xr.e_model(ie, bpl, loss, delay)
    assert 0 <= r <= 100
    assert 1 <= mos <= 4.5
