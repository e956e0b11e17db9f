"""RTP header extensions: sent, read, not passed on unasked; tshark reads RFC 8285 and ED-137."""

from __future__ import annotations

import random
import socket
import struct
import subprocess
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peers import Peer, listen, pace, sine, talk, usual_level_at

from gateway.errors import UsageError
from gateway.media.streams import (
    HeaderExtension,
    elements_of,
    one_byte_elements,
)

ED137 = HeaderExtension(0x0167, bytes.fromhex("21400000"))  # normal PTT, identity 5
SQUELCH = HeaderExtension(0x0167, bytes.fromhex("10011160"))  # squelch open, RSSI 12


class Ear(Peer):
    """Keeps datagrams as they came."""

    def datagrams(self) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(self.sock.recv(4096))
            except BlockingIOError:
                return found


@pytest.fixture
def ear():
    """Makes peers that look at whole packets."""
    made = []

    def make(pt: int = 0) -> Ear:
        made.append(Ear(pt))
        return made[-1]

    yield make
    for one in made:
        one.close()


def say(peer: Peer, stream, extension: HeaderExtension, payload: bytes = bytes(160)) -> None:
    """One packet with a header extension."""
    header = struct.pack("!BBHII", 0x90, peer.pt, peer.seq & 0xFFFF, peer.ts, peer.ssrc)
    header += struct.pack("!HH", extension.profile, len(extension.data) // 4) + extension.data
    peer.sock.sendto(header + payload, stream.local)
    peer.seq += 1
    peer.ts += 160


def capture(path: Path, packets: list[bytes]) -> None:
    with path.open("wb") as f:
        f.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101))
        for data in packets:
            udp = struct.pack("!HHHH", 10002, 10002, 8 + len(data), 0) + data
            ip = struct.pack("!BBHHHBBHII", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, 1, 2) + udp
            f.write(struct.pack("<IIII", 0, 0, len(ip), len(ip)) + ip)


def read(program, path: Path, *fields: str) -> list[list[str]]:
    """The fields of each packet, as tshark tells them."""
    command = [program("tshark"), "-r", str(path), "-d", "udp.port==10002,rtp", "-T", "fields"]
    command += ["-E", "separator=|", *(x for field in fields for x in ("-e", field))]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [line.split("|") for line in out.splitlines()]


async def test_tshark_reads_the_words_of_ed137(engine, ear, leg, program, tmp_path: Path):
    a = ear()
    stream = leg(a)
    await pace(0.2)
    a.datagrams()
    stream.attach_extension(ED137)
    await pace(0.3)
    packets = a.datagrams()[2:]
    stream.attach_extension(SQUELCH)
    await pace(0.3)
    later = a.datagrams()[2:]
    stream.attach_extension(None)
    await pace(0.3)
    none = a.datagrams()[2:]
    assert min(len(packets), len(later), len(none)) > 5
    assert {p[0] for p in none} == {0x80}
    assert {len(p) for p in packets} == {12 + 8 + 160}
    assert {p[20:] for p in packets} == {b"\xff" * 160}
    capture(tmp_path / "x.pcap", packets + later)
    rows = read(
        program, tmp_path / "x.pcap", "rtp.ext.profile", "rtp.ext.ed137a.ptt_type",
        "rtp.ext.ed137a.ptt_id", "rtp.ext.ed137a.squ", "rtp.ext.ed137a.ft.sqi.qidx", "rtp.seq",
        "_ws.malformed",
    )  # fmt: skip
    assert len(rows) == len(packets) + len(later)
    for row in rows[: len(packets)]:
        assert (int(row[0], 0), int(row[1], 0), int(row[2], 0)) == (0x167, 1, 5)
        assert row[3] in ("0", "False")
        assert row[6] == ""
    for row in rows[len(packets) :]:
        assert int(row[1], 0) == 0
        assert row[3] in ("1", "True")
        assert int(row[4], 0) == 12
        assert row[6] == ""


async def test_tshark_reads_one_byte_elements(engine, ear, leg, program, tmp_path: Path):
    a = ear()
    stream = leg(a)
    stream.attach_extension(one_byte_elements({1: b"\x85", 5: b"abcd"}))
    await pace(0.4)
    capture(tmp_path / "x.pcap", a.datagrams()[3:])
    rows = read(
        program, tmp_path / "x.pcap", "rtp.ext.rfc5285.id", "rtp.ext.rfc5285.data", "_ws.malformed"
    )
    assert len(rows) > 5
    for row in rows:
        assert row[0] == "1,5"
        assert row[1].replace(":", "") == "85,61626364"
        assert row[2] == ""


async def test_the_last_one_received_is_kept(engine, peer, leg):
    a = peer()
    stream = leg(a)
    await pace(0.1)
    assert stream.received_extension() is None
    say(a, stream, ED137)
    say(a, stream, SQUELCH)
    await pace(0.1)
    assert stream.received_extension() == SQUELCH
    a.send(bytes(160), stream.local)  # without: the last one stays
    say(a, stream, HeaderExtension(0xBEDE, bytes(68)))  # too long for us
    await pace(0.1)
    assert stream.received_extension() == SQUELCH
    stats = stream.stats()
    assert (stats.extensions_received, stats.extensions_refused) == (2, 1)
    assert (stats.packets_received, stats.packets_refused) == (4, 0)
    stranger = peer()
    say(stranger, stream, ED137)
    await pace(0.1)
    assert stream.received_extension() == SQUELCH
    stream.close()
    assert stream.received_extension() is None


@pytest.mark.parametrize("passes", [False, True])
async def test_a_relay_passes_them_on_only_if_told(engine, ear, peer, leg, passes):
    a, b = peer(0), ear(8)
    sa, sb = leg(a), leg(b, pass_extensions=passes)
    engine.open_bridge("x")
    engine.join("x", sa)
    engine.join("x", sb)
    payload = b"\x55" * 160
    await pace(0.4, lambda i: say(a, sa, SQUELCH, payload))
    assert engine.stats().relays == 1
    # Where this test's sender stops for a moment, silence of our own goes out: without.
    got = b.datagrams()
    assert len(got) > 10
    with_word = [p for p in got if p[0] == 0x90]
    words = {bytes.fromhex("0167000110011160")} if passes else set()
    assert {p[12:20] for p in with_word} == words
    assert (len(with_word) > 10) == passes
    # Our own word takes the place of theirs.
    sb.attach_extension(ED137)
    await pace(0.1, lambda i: say(a, sa, SQUELCH, payload))
    b.datagrams()
    await pace(0.2, lambda i: say(a, sa, SQUELCH, payload))
    assert {p[12:20] for p in b.datagrams()} == {bytes.fromhex("0167000121400000")}


async def test_they_are_authenticated_with_srtp(engine, ear, leg):
    from gateway.media.streams import Srtp, SrtpSuite

    a = ear()
    suite = SrtpSuite.AES_128_SHA1_80
    keys = Srtp(suite=suite, receive=bytes(30), send=bytes(range(30)))
    stream = leg(a, srtp=keys)
    stream.attach_extension(ED137)
    await pace(0.3)
    packet = a.datagrams()[-1]
    assert len(packet) == 12 + 8 + 160 + 10
    assert packet[12:20] == bytes.fromhex("0167000121400000")  # in the clear (RFC 3711 3.1)
    other = Ear(0)
    listener = leg(
        other, remote_port=a.port, srtp=Srtp(suite=suite, receive=keys.send, send=bytes(30))
    )
    a.sock.sendto(packet, listener.local)
    await pace(0.1)
    assert listener.received_extension() == ED137
    changed = bytearray(packet)
    changed[17] ^= 1
    changed[3] ^= 1
    a.sock.sendto(bytes(changed), listener.local)
    await pace(0.1)
    assert listener.received_extension() == ED137
    assert listener.stats().srtp_failed == 1
    other.close()


async def test_mutated_extensions_change_nothing_but_counters(engine, peer, leg):
    a, b = peer(0), peer(8)
    sa, sb = leg(a), leg(b, pass_extensions=True)
    engine.open_bridge("x")
    engine.join("x", sa)
    engine.join("x", sb)
    rng = random.Random(4)
    stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def mutate(i):
        for _ in range(30):
            head = struct.pack("!BBHII", 0x90 | rng.randrange(16), 0, rng.randrange(65536),
                               rng.randrange(2**32), a.ssrc ^ 1)  # fmt: skip
            words = struct.pack(
                "!HH", rng.choice((0x167, 0xBEDE)), rng.choice((0, 1, 16, 17, 9999))
            )
            data = head + words + rng.randbytes(rng.randrange(300))
            a.sock.sendto(data, sa.local)
            stranger.sendto(data, sa.local)

    await pace(0.3, talk(a, sa.local, sine(701, 1.0)))
    await pace(1.0, mutate, talk(a, sa.local, sine(701, 1.0)))
    stranger.close()
    b.sock.setblocking(False)
    ear = []
    while True:
        try:
            ear.append(b.sock.recv(4096))
        except BlockingIOError:
            break
    assert all(len(p) <= 12 + 4 + 64 + 1400 for p in ear)
    spec = sb.spec
    sb.update(msgspec.structs.replace(spec, pass_extensions=False))  # our peer reads no such words
    await pace(1.5, talk(a, sa.local, sine(701, 1.0)), listen(b))
    assert usual_level_at(b.pcm()[-6400:], 701) == pytest.approx(-13, abs=0.7)


async def test_what_makes_no_sense_is_refused(engine, peer, leg):
    from gateway.media.streams import NullSpec

    stream = leg(peer())
    for profile, data in ((-1, b""), (0x10000, b""), (1, b"abc"), (1, bytes(68))):
        with pytest.raises(UsageError, match="header extension"):
            stream.attach_extension(HeaderExtension(profile, data))
    with pytest.raises(UsageError, match="no RTP stream"):
        engine.open(NullSpec()).attach_extension(ED137)


@given(st.dictionaries(st.integers(1, 14), st.binary(min_size=1, max_size=16), max_size=14))
def test_one_byte_elements_round_trip(elements) -> None:
    extension = one_byte_elements(elements)
    assert len(extension.data) % 4 == 0
    assert elements_of(extension) == elements


@given(st.integers(0, 0xFFFF), st.binary(max_size=64))
def test_any_octets_have_some_elements(profile, data) -> None:
    for kind in (profile, 0xBEDE):
        for identifier, value in elements_of(HeaderExtension(kind, data)).items():
            assert 1 <= identifier <= 14
            assert value in data


def test_bad_elements_are_refused() -> None:
    for identifier, value in ((0, b"a"), (15, b"a"), (1, b""), (1, bytes(17))):
        with pytest.raises(UsageError):
            one_byte_elements({identifier: value})
