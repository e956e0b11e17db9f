"""SRTP by the engine, with ffmpeg (its own implementation) at the other end."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from peers import level_at, pace, sine

from gateway.errors import UsageError
from gateway.media import srtp
from gateway.media.streams import Codec, RtpSpec, Srtp, SrtpSuite
from gateway.testing import until
from gateway.timeline.taps import Chunk, packets

pytestmark = [
    pytest.mark.skipif(not srtp.suites(), reason=f"libsrtp2 is not installed: {srtp.REMEDY}"),
]
FFMPEG = shutil.which("ffmpeg")
SUITES = list(SrtpSuite)


def keys(suite: SrtpSuite, start: int = 1) -> Srtp:
    n = suite.key_octets
    return Srtp(
        suite=suite,
        receive=bytes((start + i) & 255 for i in range(n)),
        send=bytes((start + 100 + i) & 255 for i in range(n)),
    )


def turned(srtp: Srtp) -> Srtp:
    return Srtp(suite=srtp.suite, receive=srtp.send, send=srtp.receive)


def started(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def two_ports() -> int:
    for _ in range(50):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as a:
            a.bind(("127.0.0.1", 0))
            port = a.getsockname()[1] & ~1
        if port > 1024:
            return port
    raise AssertionError


def spec(port: int, keys: Srtp | None, **fields) -> RtpSpec:
    return RtpSpec(
        local_ip="127.0.0.1", remote_ip="127.0.0.1", remote_port=port, codec=Codec.PCMU,
        srtp=keys, **fields,
    )  # fmt: skip


async def pair(engine, one: Srtp | None, other: Srtp | None):
    """Two streams of the engine that send to each other."""
    a = engine.open(spec(9, None))
    b = engine.open(spec(a.local[1], other))
    a.update(spec(b.local[1], one))
    return a, b


class Wire:
    """A man in the middle of two streams: he sees packets, and may send any."""

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.setblocking(False)
        self.port = self.sock.getsockname()[1]

    def take(self) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(self.sock.recv(2048))
            except BlockingIOError:
                return found


@pytest.fixture
def wire():
    it = Wire()
    yield it
    it.sock.close()


async def sent_by_us(engine, wire: Wire, keys: Srtp, seconds: float = 0.5) -> list[bytes]:
    """Encrypted packets with a tone, made by a stream of the engine."""
    stream = engine.open(spec(wire.port, keys))
    stream.play_samples(sine(700, seconds).tobytes())
    await asyncio.sleep(seconds)
    found = wire.take()
    stream.close()
    return found


@pytest.mark.parametrize("suite", SUITES)
async def test_both_ends_ours_with_different_keys_each_way(engine, suite) -> None:
    one = keys(suite)
    a, b = await pair(engine, one, turned(one))
    a.play_samples(sine(700, 5).tobytes())
    await pace(0.7)
    found = b.stats()
    assert found.packets_received > 20
    assert found.srtp_failed == found.srtp_replayed == 0
    assert found.srtp_suite == suite.value
    assert found.level_in_dbm0 > -25


@pytest.mark.skipif(FFMPEG is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize(
    ("suite", "name"),
    [
        (SrtpSuite.AES_128_SHA1_80, "AES_CM_128_HMAC_SHA1_80"),
        (SrtpSuite.AES_128_SHA1_32, "AES_CM_128_HMAC_SHA1_32"),
    ],
)
async def test_ffmpeg_decrypts_what_we_send(engine, tmp_path, suite, name) -> None:
    port, secret = two_ports(), keys(suite)
    text = base64.b64encode(secret.send).decode()
    sdp = tmp_path / "in.sdp"
    sdp.write_text(
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=-\nc=IN IP4 127.0.0.1\nt=0 0\n"
        f"m=audio {port} RTP/SAVP 0\na=crypto:1 {name} inline:{text}\n"
    )
    out = tmp_path / "heard.raw"
    program = started(
        [FFMPEG, "-loglevel", "error", "-protocol_whitelist", "file,rtp,srtp,udp", "-y",
         "-i", str(sdp), "-t", "1.0", "-f", "s16le", "-ar", "8000", str(out)]
    )  # fmt: skip
    try:
        stream = engine.open(spec(port, secret))
        stream.play_samples(sine(700, 20).tobytes())
        await asyncio.to_thread(program.wait, 20)
    finally:
        program.kill()
        program.wait()
    assert out.exists()
    pcm = np.frombuffer(out.read_bytes(), np.int16)
    assert len(pcm) >= 6000
    assert level_at(pcm[1600:], 700) > -16


@pytest.mark.skipif(FFMPEG is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize("suite", [SrtpSuite.AES_128_SHA1_80, SrtpSuite.AES_128_SHA1_32])
async def test_we_decrypt_what_ffmpeg_sends(engine, suite) -> None:
    stream = engine.open(spec(9, None))
    secret = keys(suite)
    text = base64.b64encode(secret.receive).decode()
    program = started(
        [FFMPEG, "-loglevel", "error", "-re", "-f", "lavfi", "-i", "sine=700:r=8000:d=15",
         "-af", "volume=8dB", "-c:a", "pcm_mulaw", "-f", "rtp", "-srtp_out_suite", suite.value,
         "-srtp_out_params", text, f"srtp://127.0.0.1:{stream.local[1]}?pkt_size=172"]
    )  # fmt: skip
    try:
        # Its port is only known from its packets.
        stream.update(spec(9, secret, latch_ms=60000))
        for _ in range(400):
            await asyncio.sleep(0.05)
            if stream.stats().packets_received > 50:
                break
        found = stream.stats()
        assert found.packets_received > 50
        # Its report has the short tag too with that suite; RFC 4568 section 6.2.2 says ten octets.
        assert found.srtp_failed <= (suite is SrtpSuite.AES_128_SHA1_32)
        await asyncio.sleep(0.5)
        assert stream.stats().level_in_dbm0 > -25
    finally:
        program.kill()
        program.wait()


@pytest.mark.parametrize("suite", [SrtpSuite.AES_128_SHA1_80, SrtpSuite.AES_256_GCM])
async def test_tampered_replayed_and_foreign_packets_change_counters_only(
    engine, wire, suite
) -> None:
    good = keys(suite)
    genuine = await sent_by_us(engine, wire, turned(good))
    foreign = await sent_by_us(engine, wire, keys(suite, 77))
    assert len(genuine) > 20
    stream = engine.open(spec(wire.port, good))
    to = stream.local
    for packet in genuine[:10]:
        wire.sock.sendto(packet, to)
    await pace(0.1)
    assert stream.stats().packets_received == 10
    for packet in genuine[10:15]:  # a bit of the payload, one of the header
        broken = bytearray(packet)
        broken[20] ^= 1
        wire.sock.sendto(broken, to)
        broken = bytearray(packet)
        broken[7] ^= 1
        wire.sock.sendto(broken, to)
    for packet in genuine[:5]:
        wire.sock.sendto(packet, to)
    for packet in foreign[:7]:
        wire.sock.sendto(packet, to)
    plain = struct.pack("!BBHII", 0x80, 0, 5, 800, 7) + bytes(160)
    wire.sock.sendto(plain, to)
    for n in range(13):
        wire.sock.sendto(genuine[12][:n], to)
    await pace(0.1)
    found = stream.stats()
    assert found.packets_received == 10
    assert found.srtp_replayed == 5
    assert found.srtp_failed == 10 + 7 + 1 + 1  # the last: a header alone
    assert found.packets_refused == 12
    for packet in genuine[10:20]:
        wire.sock.sendto(packet, to)
    await pace(0.1)
    assert stream.stats().packets_received == 20
    assert stream.stats().packets_lost == 0


async def test_an_address_is_learned_from_an_authentic_packet_only(engine, wire) -> None:
    good = keys(SrtpSuite.AES_128_SHA1_80)
    genuine = await sent_by_us(engine, wire, turned(good))
    foreign = await sent_by_us(engine, wire, keys(SrtpSuite.AES_128_SHA1_80, 9))
    stream = engine.open(spec(9, good))
    thief = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with thief:
        thief.bind(("127.0.0.1", 0))
        for packet in foreign[:5]:
            thief.sendto(packet, stream.local)
        await pace(0.1)
        assert stream.stats().remote == "127.0.0.1:9"
        assert stream.stats().srtp_failed == 5
        wire.sock.sendto(genuine[0], stream.local)
        await pace(0.1)
        assert stream.stats().remote == f"127.0.0.1:{wire.port}"


async def delivered(sock: socket.socket, sent: list[bytes], stream, tap) -> list[bytes]:
    """Send packets and return what a clear tap of the stream saw of each.

    What a stall of the machine lost is sent again.
    """
    came: dict[bytes, bytes] = {}
    for _ in range(20):
        for packet in sent:
            if packet[2:4] not in came:
                sock.sendto(packet, stream.local)
        await pace(0.2)
        came |= {p.data[2:4]: p.data
                 for p in packets(Chunk(1, 0.0, "", stream.local, None, tap.read()))
                 if not p.outward}  # fmt: skip
        if len(came) == len(sent):
            break
    return [came[packet[2:4]] for packet in sent]


async def test_a_relay_between_two_keys_encrypts_anew(engine, wire) -> None:
    """Packets pass without being decoded: what comes out is the very payload that went in."""
    near, far = keys(SrtpSuite.AES_128_SHA1_80, 1), keys(SrtpSuite.AES_256_GCM, 50)
    genuine = await sent_by_us(engine, wire, turned(near))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        a = engine.open(spec(wire.port, near))
        b = engine.open(spec(other.getsockname()[1], far))
        seen_in, seen_out = a.tap(1 << 18, clear=True), b.tap(1 << 18, clear=True)
        engine.open_bridge("x")
        engine.join("x", a)
        engine.join("x", b)
        await until(lambda: engine.stats().relays == 1, "it is a relay")
        came = [p[12:] for p in await delivered(wire.sock, genuine[:20], a, seen_in)]
        left = [p.data[12:] for p in packets(Chunk(1, 0.0, "", b.local, None, seen_out.read()))
                if p.outward]  # fmt: skip
        # Before and afterwards, and wherever the sender stood still, silence is sent.
        silence = b"\xff" * 160
        came = [p for p in came if p != silence]
        assert len(came) > 10
        assert sorted(came) == sorted(p for p in left if p != silence)
        other.setblocking(False)
        on_wire = [other.recv(2048) for _ in left]
        on_wire = [p for p, clear in zip(on_wire, left, strict=True) if clear != silence]
        assert all(len(p) == 172 + 16 for p in on_wire)
        # Who has the key gets the same payloads.
        c = engine.open(spec(other.getsockname()[1], turned(far)))
        heard = c.tap(1 << 18, clear=True)
        got = [p[12:] for p in await delivered(other, on_wire, c, heard)]
        assert got == [p for p in left if p != silence]


async def test_a_tap_sees_ciphertext_unless_asked(engine, wire) -> None:
    good = keys(SrtpSuite.AES_128_SHA1_80)
    stream = engine.open(spec(wire.port, good))
    tap = stream.tap(1 << 18)
    stream.play_samples(sine(700, 0.3).tobytes())
    await pace(0.4)
    copied = [p.data for p in packets(Chunk(1, 0.0, "", stream.local, None, tap.read()))]
    on_wire = wire.take()
    assert len(copied) > 10
    assert set(copied) <= set(on_wire)
    assert all(len(p) == 172 + 10 for p in copied)


async def test_a_changed_key_counts_anew_and_an_unchanged_one_goes_on(engine, wire) -> None:
    good, later = keys(SrtpSuite.AES_128_SHA1_80), keys(SrtpSuite.AES_128_SHA1_80, 30)
    genuine = await sent_by_us(engine, wire, turned(good))
    renewed = await sent_by_us(engine, wire, turned(later))
    stream = engine.open(spec(wire.port, good))
    for packet in genuine[:5]:
        wire.sock.sendto(packet, stream.local)
    await pace(0.1)
    stream.update(spec(wire.port, good))  # a hold and its end: the same keys
    await pace(0.1)
    for packet in genuine[:5]:
        wire.sock.sendto(packet, stream.local)
    await pace(0.1)
    assert stream.stats().srtp_replayed == 5
    stream.update(spec(wire.port, later))
    await pace(0.1)
    for packet in genuine[5:8]:
        wire.sock.sendto(packet, stream.local)
    for packet in renewed[:8]:
        wire.sock.sendto(packet, stream.local)
    await pace(0.1)
    found = stream.stats()
    assert found.srtp_failed == 3
    assert found.packets_received >= 11


async def test_reports_are_encrypted_too(engine, wire) -> None:
    good = keys(SrtpSuite.AES_128_SHA1_32)
    a, b = await pair(engine, good, turned(good))
    b.play_samples(sine(700, 0.3).tobytes())
    a.play_samples(sine(700, 0.3).tobytes())
    tap, clear = b.tap(1 << 18), a.tap(1 << 18, clear=True)
    await pace(0.4)
    a.close()  # says BYE
    await pace(0.2)
    found = [p.data for p in packets(Chunk(1, 0.0, "", b.local, None, tap.read()))
             if p.data[1] in (200, 201)]  # fmt: skip
    plain = [p.data for p in packets(Chunk(1, 0.0, "", a.local, None, clear.read()))
             if p.data[1] in (200, 201)]  # fmt: skip
    assert found
    assert plain
    # RFC 3711 section 3.4: four octets of index and, whatever the suite's RTP tag, ten of tag.
    assert len(found[-1]) == len(plain[-1]) + 14
    assert found[-1][8:-14] != plain[-1][8:]
    assert b.stats().srtp_failed == 0


def test_keys_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="master key and salt are 30"):
        srtp.check(Srtp(suite=SrtpSuite.AES_128_SHA1_80, receive=b"x", send=b"y"))
    assert "01" not in repr(keys(SrtpSuite.AES_128_GCM))


def test_a_missing_library_is_named(tmp_path) -> None:
    code = (
        "from gateway.media import _engine\n"
        "print(_engine.srtp_suites('libsrtp2-that-is-not-there.so'))\n"
        "from gateway.media import srtp\n"
        "print(srtp.suites(), srtp.missing())\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"LD_PRELOAD": os.environ.get("CROSSPOINT_PRELOAD", "")},
    ).stdout  # fmt: skip
    assert "((), 'libsrtp2-that-is-not-there.so: cannot open" in out
    assert "install Debian's package libsrtp2-1" in out
