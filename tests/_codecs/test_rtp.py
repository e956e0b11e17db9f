"""RTP and RTCP: an independent decoder written from the RFC's figures, tshark, and garbage."""

import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway._codecs import rtp
from gateway.errors import PeerError, UsageError

U32 = st.integers(0, 2**32 - 1)
U16 = st.integers(0, 2**16 - 1)
PAYLOAD_TYPE = st.integers(0, 127).filter(lambda t: not 72 <= t <= 76)


@given(
    version=st.integers(0, 3),
    padding=st.one_of(st.none(), st.integers(0, 255)),
    extension=st.one_of(st.none(), st.tuples(U16, st.binary(max_size=40))),
    csrcs=st.lists(U32, max_size=15),
    marker=st.booleans(),
    payload_type=st.integers(0, 127),
    seq=U16,
    timestamp=U32,
    ssrc=U32,
    payload=st.binary(max_size=300),
    cut=st.integers(0, 400),
)
def test_parse_against_the_figure(
    version, padding, extension, csrcs, marker, payload_type, seq, timestamp, ssrc, payload, cut
) -> None:
    """RFC 3550 5.1, drawn with struct; then cut short anywhere."""
    first = version << 6 | (padding is not None) << 5 | (extension is not None) << 4 | len(csrcs)
    head = struct.pack("!BBHII", first, marker << 7 | payload_type, seq, timestamp, ssrc)
    head += b"".join(struct.pack("!I", c) for c in csrcs)
    data = b""
    if extension is not None:
        data = extension[1] + b"\0" * (-len(extension[1]) % 4)
        head += struct.pack("!HH", extension[0], len(data) // 4) + data
    tail = b"" if padding is None else b"\0" * max(padding - 1, 0) + bytes([padding])
    packet = head + payload + tail
    good = version == 2 and not 72 <= payload_type <= 76 and padding != 0
    if good:
        got = rtp.parse_rtp(packet)
        assert got == rtp.RtpPacket(
            payload_type, marker, seq, timestamp, ssrc, tuple(csrcs),
            extension and extension[0], data, payload,
        )  # fmt: skip
        if extension is None and padding is None:
            assert rtp.build_rtp(got) == packet
    else:
        with pytest.raises(PeerError):
            rtp.parse_rtp(packet)
    short = packet[:cut]
    if len(short) < len(head):
        with pytest.raises(PeerError):
            rtp.parse_rtp(short)


@given(st.binary(max_size=200))
def test_garbage_raises_only_peer_error(data) -> None:
    for parse in (rtp.parse_rtp, rtp.parse_rtcp, rtp.parse_dtmf):
        try:
            parse(data)
        except PeerError:
            pass


@given(
    st.lists(
        st.tuples(
            st.integers(0, 255),  # P bit and count
            st.integers(195, 210),
            st.binary(max_size=80),
        ),
        min_size=1,
        max_size=5,
    ),
    st.integers(-2, 2),
)
def test_rtcp_almost_right(parts, error) -> None:
    """Headers that look right around bodies that are not."""
    data = b""
    for first, kind, body in parts:
        body += b"\0" * (-len(body) % 4)
        data += struct.pack("!BBH", 0x80 | first & 0x3F, kind, len(body) // 4) + body
    data = data[: len(data) + error] if error < 0 else data + b"\x80" * error
    try:
        for packet in rtp.parse_rtcp(data):
            assert len(packet.reports) <= 31
            assert packet.text in data
    except PeerError:
        pass


BLOCKS = st.lists(
    st.builds(
        rtp.ReportBlock, U32, st.integers(0, 255), st.integers(-(2**23), 2**23 - 1), U32, U32, U32,
        U32,
    ),
    max_size=31,
)  # fmt: skip


@given(
    ssrc=U32,
    sender=st.one_of(st.none(), st.builds(rtp.SenderInfo, U32, U32, U32, U32, U32)),
    blocks=BLOCKS,
    cname=st.binary(max_size=255),
    reason=st.binary(max_size=255),
)
def test_compound_round_trip(ssrc, sender, blocks, cname, reason) -> None:
    compound = rtp.build_report(ssrc, sender, blocks) + rtp.build_sdes(ssrc, cname)
    compound += rtp.build_bye(ssrc, reason)
    assert len(compound) % 4 == 0
    report, sdes, bye = rtp.parse_rtcp(compound)
    assert report == rtp.RtcpPacket(200 if sender else 201, ssrc, sender, blocks, b"")
    assert (sdes.type, sdes.ssrc, sdes.text) == (202, ssrc, cname)
    assert (bye.type, bye.ssrc, bye.text) == (203, ssrc, reason)
    for cut in (1, 4, 7):
        with pytest.raises(PeerError):
            rtp.parse_rtcp(compound[:-cut])


def test_compound_rules() -> None:
    report, sdes = rtp.build_report(1), rtp.build_sdes(1, b"x")
    with pytest.raises(PeerError, match="start with a report"):
        rtp.parse_rtcp(sdes + report)
    with pytest.raises(PeerError, match="version"):
        rtp.parse_rtcp(report + b"\x40" + sdes[1:])
    with pytest.raises(PeerError, match="padding"):
        rtp.parse_rtcp(b"\xa0" + report[1:] + sdes)
    padded = b"\xa1" + sdes[1:3] + bytes([sdes[3] + 1]) + sdes[4:] + b"\0\0\0\4"
    assert rtp.parse_rtcp(report + padded)[1].text == b"x"
    with pytest.raises(PeerError, match="padding"):
        rtp.parse_rtcp(report + padded + sdes)  # only the last packet may be padded


def test_tshark_reads_what_we_build(program, tmp_path: Path) -> None:
    block = rtp.ReportBlock(0xBBBB, 64, -3, 70000, 123, 0x11112222, 65536)
    sender = rtp.SenderInfo(3900000000, 1 << 31, 48000, 300, 48000)
    compound = rtp.build_report(0xAAAA, sender, [block]) + rtp.build_sdes(0xAAAA, b"box@site")
    compound += rtp.build_bye(0xAAAA, b"goodbye")
    event = rtp.build_rtp(
        rtp.RtpPacket(101, True, 7, 800, 0xAAAA, (), None, b"", rtp.build_dtmf(11, True, 10, 1600))
    )
    capture = tmp_path / "x.pcap"
    with capture.open("wb") as f:
        f.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101))
        for port, data in ((5005, compound), (5004, event)):
            udp = struct.pack("!HHHH", port, port, 8 + len(data), 0) + data
            ip = struct.pack("!BBHHHBBHII", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, 1, 2) + udp
            f.write(struct.pack("<IIII", 0, 0, len(ip), len(ip)) + ip)
    fields = [
        "rtcp.ssrc.fraction", "rtcp.ssrc.cum_nr", "rtcp.ssrc.ext_high", "rtcp.ssrc.jitter",
        "rtcp.ssrc.lsr", "rtcp.ssrc.dlsr", "rtcp.sender.packetcount", "rtcp.sdes.text",
        "rtcp.bye_reason_not_padded", "rtpevent.event_id", "rtpevent.end_of_event",
        "rtpevent.volume", "rtpevent.duration", "_ws.malformed",
    ]  # fmt: skip
    command = [program("tshark"), "-r", str(capture), "-T", "fields", "-E", "separator=|"]
    command += ["-d", "udp.port==5005,rtcp", "-d", "udp.port==5004,rtp"]
    command += ["-o", "rtpevent.event_payload_type_value:101"]
    for field in fields:
        command += ["-e", field]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    report, digit = (line.split("|") for line in lines)
    assert report[:7] == ["64", "-3", "70000", "123", str(0x11112222), "65536", "300"]
    assert "box@site" in report[7]
    assert report[8] in ("goodbye", "")  # older dissectors have no such field
    assert digit[9] == "11"
    assert digit[10] in ("1", "True")
    assert digit[11:13] == ["10", "1600"]
    assert report[13] == digit[13] == ""


@given(st.integers(0, 255), st.booleans(), st.integers(0, 255), U16, st.binary(max_size=3))
def test_telephone_event(event, end, volume, duration, short) -> None:
    data = rtp.build_dtmf(event, end, volume, duration)
    assert data == struct.pack("!BBH", event, end << 7 | min(volume, 63), duration)
    assert rtp.parse_dtmf(data) == (event, end, min(volume, 63), duration)
    assert rtp.parse_dtmf(data + b"more") == rtp.parse_dtmf(data)
    with pytest.raises(PeerError):
        rtp.parse_dtmf(short)


def test_source_counts_wraps_and_losses() -> None:
    source = rtp.RtpSource(1, 65530)
    for i in range(100):
        if i not in (10, 11, 50):
            assert source.update((65530 + i) % 65536, i * 160, 100 + i * 0.02)
    assert (source.expected, source.received, source.lost) == (100, 97, 3)
    block = source.report(102.0)
    assert block.fraction_lost == 3 * 256 // 100
    assert block.cumulative_lost == 3
    assert block.highest_seq == 65536 + (65530 + 99) % 65536
    assert block.jitter == 0
    assert source.report(103.0).fraction_lost == 0


def test_first_packet_with_sequence_zero() -> None:
    source = rtp.RtpSource(1, 0)
    assert source.update(0, 0, 0.0)
    assert source.update(1, 160, 0.02)
    assert (source.expected, source.lost) == (2, 0)


def test_source_jitter_is_that_of_the_rfc() -> None:
    """A.8 in plain Python, arrival to the sample."""
    source, jitter, last = rtp.RtpSource(1, 0), 0.0, None
    for i, late in enumerate([0, 8, 0, 80, 16, 0, 0, 40, 3, 160] * 20):
        arrival = 8000 + i * 160 + late
        source.update(i, i * 160, arrival / 8000 + 1e-6)
        transit = arrival - i * 160
        if last is not None:
            jitter += (abs(transit - last) - jitter) / 16
        last = transit
    assert source.jitter == pytest.approx(jitter, abs=1.5)


def test_source_restart_needs_two_packets_in_sequence() -> None:
    source = rtp.RtpSource(1, 100)
    for i in range(5):
        source.update(100 + i, i * 160, i * 0.02)
    assert not source.update(40000, 0, 0.1)
    assert source.update(105, 800, 0.12)
    assert not source.update(40000, 0, 0.14)
    assert source.update(40001, 160, 0.16)
    assert (source.expected, source.received) == (1, 1)


def test_probation() -> None:
    source = rtp.RtpSource(1, 10, 8000, 2)
    assert [source.update(s, 0, 0.0) for s in (10, 11, 12)] == [False, True, True]
    assert (source.expected, source.received) == (2, 2)


def test_reply_to_a_sender_report() -> None:
    source = rtp.RtpSource(1, 0)
    source.update(0, 0, 10.0)
    assert source.report(10.0).last_sr == 0
    source.heard_sender_report(0x12345678, 0x9ABCDEF0, 20.0)
    block = source.report(21.5)
    assert block.last_sr == 0x56789ABC
    assert block.delay_since_sr == pytest.approx(1.5 * 65536, abs=1)


@given(st.lists(st.tuples(U16, U32, st.floats(0, 1e6)), max_size=60))
def test_source_survives_anything(packets) -> None:
    source = rtp.RtpSource(1, 0)
    for seq, timestamp, now in packets:
        source.update(seq, timestamp, now)
        block = source.report(now)
        assert 0 <= block.fraction_lost <= 255
        assert -(2**23) <= block.cumulative_lost < 2**23


def test_bad_use_is_refused() -> None:
    with pytest.raises(UsageError):
        rtp.build_sdes(1, b"x" * 256)
    with pytest.raises(UsageError):
        rtp.build_bye(1, b"x" * 256)
    with pytest.raises(UsageError):
        rtp.build_report(1, None, [rtp.ReportBlock(0, 0, 0, 0, 0, 0, 0)] * 32)
    with pytest.raises(UsageError):
        rtp.build_rtp(rtp.RtpPacket(0, False, 0, 0, 0, (0,) * 16))
