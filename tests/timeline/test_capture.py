"""The file of a capture as foreign readers see it, and what must not be in it."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.media import _engine
from gateway.protocols import packets, pcapng
from gateway.timeline.capture import Capture
from gateway.timeline.redact import Redactor
from gateway.timeline.taps import Chunk
from gateway.timeline.wire import Ends, Ring, WireEntry, whole

needs_tshark = pytest.mark.skipif(not shutil.which("tshark"), reason="tshark is not installed")
SIP = b"OPTIONS sip:box SIP/2.0\r\nCall-ID: c1\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
TCP: Ends = ("tcp", ("192.0.2.1", 5060), ("192.0.2.9", 40001))
SIX: Ends = ("udp", ("2001:db8::1", 5060), ("2001:db8::9", 5060))


def entry(
    kind: str, data: bytes | str, mono: float, *, about: str = "", outward: bool = False,
    words: str = "", ends: Ends | None = None,
) -> WireEntry:  # fmt: skip
    return WireEntry(
        mono=mono, at=mono, adapter=about.partition("/")[0] or kind, about=about, outward=outward,
        kind=kind, data=data, words=words, ends=ends,
    )  # fmt: skip


def copied(*datas: bytes, outward: bool = False) -> bytes:
    head = struct.Struct(_engine.PACKET)
    ip = bytes((127, 0, 0, 1)) + bytes(12)
    return b"".join(
        head.pack(n * 20_000_000, len(data), int(outward), 4, 4000, 0, ip) + data
        for n, data in enumerate(datas)
    )


def rtp(kind: int, payload: bytes, n: int = 1) -> bytes:
    return struct.pack("!BBHII", 0x80, kind, n, 160 * n, 7) + payload


@pytest.mark.interop
@needs_tshark
def test_every_kind_of_wire_in_one_file(tmp_path: Path) -> None:
    entries = [
        entry("sip", SIP[:40], 1.0, ends=TCP),
        entry("sip", SIP[40:] + SIP, 1.1, ends=TCP),
        entry("sip", SIP, 1.2, outward=True, ends=SIX),
        entry("mqtt", packets.publish("house/smoke", b"ON"), 1.3, about="mqtt/house",
              words="house/smoke ON"),
        entry("modbus", bytes.fromhex("0000000000060105 0003ff00"), 1.4, about="modbus/gate",
              outward=True, words="WriteSingleCoil address 3"),
        entry("dahdi", "ring on", 1.5, about="fxs/1#1", outward=True),
        entry("serial", b"\x02\x41\x42\x03", 1.6, about="intercom/bus"),
    ]  # fmt: skip
    capture = Capture(Redactor(), box="box", version="1", trace="t1", ties={"c1": "sip/a#1"})
    chunk = Chunk(1, 2.0, "sip/a#1", ("127.0.0.1", 4002), 96, copied(rtp(0, b"\xff" * 160)))
    file = tmp_path / "all.pcapng"
    file.write_bytes(capture.begin() + capture.take(whole(entries), [chunk]) + capture.end(3))

    def shown(*words: str) -> list[str]:
        done = subprocess.run(
            ["tshark", "-r", file, *words], capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout.splitlines()

    assert not shown("-Y", "_ws.malformed")
    lines = "\n".join(shown("-N", "n"))
    assert len(shown("-Y", "sip.Method == OPTIONS")) == 3
    assert shown("-Y", "mqtt", "-T", "fields", "-e", "mqtt.topic") == ["house/smoke"]
    assert shown("-Y", "modbus", "-T", "fields", "-e", "modbus.func_code") == ["5"]
    assert len(shown("-Y", 'syslog.msg contains "ring on"')) == 1
    assert len(shown("-Y", 'syslog.msg contains "02 41 42 03"')) == 1
    assert shown("-d", "udp.port==4002,rtp", "-Y", "rtp", "-T", "fields", "-e", "rtp.ssrc")
    # Names stand in place of addresses that mean nothing.
    for name in ("mqtt/house", "modbus/gate", "fxs/1", "intercom/bus"):
        assert name in lines
    comments = "\n".join(shown("-T", "fields", "-e", "frame.comment"))
    assert "sip, sip/a#1, trace t1" in comments
    assert "WriteSingleCoil address 3" in comments
    assert "leg sip/a#1" in comments
    assert not shown("-Y", "ip.checksum.status == 0", "-o", "ip.check_checksum:TRUE")
    assert not shown("-Y", "udp.checksum.status == 0", "-o", "udp.check_checksum:TRUE")
    assert not shown("-Y", "tcp.analysis.lost_segment || tcp.analysis.out_of_order")
    facts = subprocess.run(["capinfos", file], capture_output=True, text=True, check=True).stdout
    assert "Raw IP" in facts
    # What sngrep and tcpdump are made of takes one link type for a file.
    subprocess.run(
        ["sngrep", "-N", "-q", "-I", file, "-O", tmp_path / "again"],
        capture_output=True, check=True, timeout=60, env={"TERM": "xterm", "PATH": "/usr/bin"},
    )  # fmt: skip
    facts = subprocess.run(
        ["tshark", "-r", tmp_path / "again", "-Y", "sip"],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    assert len(facts.splitlines()) == 3


@pytest.mark.parametrize(
    ("packet", "hidden"),
    [
        (rtp(96, b"\x07\x8a\x03\x20"), True),
        (rtp(101, b"\x07\x8a\x03\x20"), True),
        (b"\x90" + rtp(96, b"\xbe\xde\0\1abcd\x07\x8a\x03\x20")[1:], True),
        (rtp(0, b"\x07\x8a\x03\x20" * 40), False),
        (rtp(96, b""), False),
    ],
)
def test_digits_are_not_in_the_file(packet: bytes, hidden: bool) -> None:
    def written(*, digits: bool) -> bytes:
        capture = Capture(Redactor(digits=digits), box="b", version="1")
        return capture.take([], [Chunk(1, 0.0, "l", ("127.0.0.1", 4002), 96, copied(packet))])

    assert packet in written(digits=True)
    assert (packet not in written(digits=False)) is hidden
    assert (b"the digit is hidden" in written(digits=False)) is hidden


@given(st.lists(st.tuples(st.sampled_from(["sip", "mqtt", "serial", "x"]), st.binary(max_size=300)
                          | st.text(max_size=100), st.booleans(), st.sampled_from([None, TCP, SIX])
                          ), max_size=20), st.binary(max_size=300))  # fmt: skip
def test_whatever_came_can_be_written(
    found: list[tuple[str, bytes | str, bool, Ends | None]], raw: bytes
) -> None:
    ring = Ring()
    for n, (kind, data, outward, ends) in enumerate(found):
        ring.put(entry(kind, data, float(n), outward=outward, ends=ends, about="a/b#1"))
    capture = Capture(Redactor(), box="b", version="1", ties=ring.leg_of())
    file = capture.begin() + capture.take(ring.entries(), []) + capture.end(0)
    capture.take([], [Chunk(1, 0.0, "l", ("127.0.0.1", 4002), None, copied(raw))])
    at = 0
    while at < len(file):
        _, length = struct.unpack_from("<II", file, at)
        assert length % 4 == 0
        assert struct.unpack_from("<I", file, at + length - 4) == (length,)
        at += length
    assert at == len(file)


@given(st.lists(st.integers(1, 200), max_size=12))
def test_a_stream_may_cut_messages_anywhere(cuts: list[int]) -> None:
    wire, at, entries = SIP * 4, 0, []
    for size in [*cuts, len(wire)]:
        if at < len(wire):
            entries.append(entry("sip", wire[at : at + size], float(at), ends=TCP))
            at += size
    assert [each.data for each in whole(entries)] == [SIP] * 4


def test_names_of_a_file_are_at_its_addresses() -> None:
    block = pcapng.names({"192.0.2.1": "fxs/1", "2001:db8::1": "ü"})
    assert b"fxs/1\0" in block
    assert len(block) % 4 == 0


@given(st.text(min_size=1, max_size=60), st.binary(max_size=40_000))
def test_a_publish_comes_back(topic: str, payload: bytes) -> None:
    encoded = topic.encode("utf-8", "replace").decode()
    assert packets.published(packets.publish(topic, payload)) == (encoded, payload)
