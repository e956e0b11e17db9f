"""Framing under cruelty: octets one at a time, split anywhere, with rubbish around."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.adapters.intercom.config import profile, shipped
from gateway.errors import ConfigError, UsageError
from gateway.protocols.intercom import checksums
from gateway.protocols.intercom.framing import Frame, Framer, Spoiled
from gateway.protocols.intercom.link import Link
from gateway.protocols.intercom.profile import Checksum, Framing, parse

BINARY = Framing(start="AA 55", length_at=5, length_add=8, maximum=220)
XMODEM = Checksum(kind="crc16-xmodem", begin=2)
body = st.binary(max_size=180)


def framer() -> Framer:
    return Framer(BINARY, XMODEM)


def written(payload: bytes) -> bytes:
    return framer().encode("03 02 07 00 " + payload.hex())


def frames(found: list[Frame | Spoiled]) -> list[bytes]:
    return [each.octets[6:] for each in found if isinstance(each, Frame)]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        # The check values of the usual catalogue, for the nine digits.
        ("crc16-xmodem", 0x31C3), ("crc16-ccitt-false", 0x29B1), ("crc16-modbus", 0x4B37),
        ("crc16-arc", 0xBB3D), ("sum8", 0xDD), ("lrc8", 0x23), ("xor8", 0x31), ("none", 0),
    ],
)  # fmt: skip
def test_checksums(kind: str, value: int) -> None:
    assert Checksum(kind=kind).of(b"123456789") == value
    assert kind in checksums.KINDS


@given(st.lists(body, max_size=4), st.data())
def test_split_anywhere(payloads: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(written, payloads))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    cut = framer()
    found: list[Frame | Spoiled] = []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += cut.feed(stream[begin:end])
    assert frames(found) == payloads
    assert not [each for each in found if isinstance(each, Spoiled)]
    one_by_one = framer()
    assert frames([f for octet in stream for f in one_by_one.feed(bytes((octet,)))]) == payloads


@given(st.binary(max_size=300), body, st.binary(max_size=300))
def test_a_frame_among_rubbish_is_found(before: bytes, payload: bytes, after: bytes) -> None:
    cut = framer()
    found = cut.feed(before + written(payload) + after)
    # Rubbish may look like the beginning of a longer frame: silence ends that.
    for _ in range(400):
        if payload in frames(found) or not cut.pending:
            break
        found += cut.idle()
    assert payload in frames(found)


@given(body, st.data())
def test_no_spoiled_frame_is_taken(payload: bytes, data: st.DataObject) -> None:
    good = bytearray(written(payload))
    at = data.draw(st.integers(0, len(good) - 1))
    good[at] ^= data.draw(st.integers(1, 255))
    cut = framer()
    found = cut.feed(bytes(good)) + cut.idle()
    assert payload not in frames(found)
    assert [each for each in found if isinstance(each, Spoiled)]


@pytest.mark.parametrize("name", ["acdp", "callpoint", "fermax", "kocom", "touchline", "tcsbus"])
@given(chunks=st.lists(st.binary(max_size=120), max_size=12), gap=st.floats(0, 0.4))
@settings(max_examples=60)
def test_rubbish_never_raises_and_is_bounded(name: str, chunks: list[bytes], gap: float) -> None:
    link = Link(profile(name), ["3", "1", "102"], chance=lambda: 0.5)
    now = 0.0
    link.start(now)
    for chunk in chunks:
        now += gap
        link.receive(chunk, now)
        link.advance(now)
        assert link.due() > now - 1.0
        assert len(link.take()) < 4096


@given(st.text('0123456789*# \r\n$HL="ABCDEF', max_size=60))
def test_rubbish_of_the_right_letters(text: str) -> None:
    for name in shipped():
        link = Link(profile(name), ["1"])
        link.start(0.0)
        link.receive(text.encode() + bytes.fromhex(profile(name).framing.end), 0.1)


def test_a_half_frame_before_a_whole_one() -> None:
    cut = framer()
    half = written(b"x" * 100)[:20]
    assert cut.feed(half + written(b"good")) == []  # it could still be the rest of the first
    assert frames(cut.idle()) == [b"good"]
    assert not cut.pending
    bus = profile("tcsbus")
    text = Framer(bus.framing, bus.checksum)
    found = text.feed(b"\x01$11\x01$1100\x04")
    assert [f.text for f in found if isinstance(f, Frame)] == ["$1100"]


def test_a_line_that_is_too_long_is_not_read_from_its_middle() -> None:
    bus = profile("touchline")
    text = Framer(bus.framing, bus.checksum)
    found = text.feed(b"x" * 300 + b"0200 101\r0201 101\r")
    assert [f.text for f in found if isinstance(f, Frame)] == ["0201 101"]


def test_silence_ends_a_frame_where_nothing_else_does() -> None:
    cut = Framer(Framing(gap_ms=4), Checksum(kind="crc16-modbus", order="little"))
    # Modbus over serial line, request of ten coils: 01 01 00 13 00 0A 4D C8.
    assert cut.feed(bytes.fromhex("0101")) == []
    assert cut.feed(bytes.fromhex("0013000A4DC8")) == []
    assert cut.idle() == [Frame(bytes.fromhex("01010013000A"))]
    assert [type(each) for each in cut.feed(b"\x01\x02\x03") + cut.idle()] == [Spoiled]


def test_what_is_no_legal_frame_is_not_written() -> None:
    with pytest.raises(UsageError, match="not legal"):
        framer().encode("00" * 300)
    with pytest.raises(UsageError, match="hexadecimal"):
        framer().encode("0x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("title = 3", "str"),
        ("title = 'a'\n[framing]\n", "size, length_at"),
        ("title = 'a'\n[framing]\nend = 'zz'", "hexadecimal"),
        ("title = 'a'\n[framing]\nend = '0D'\n[checksum]\nkind = 'crc'", "crc16-xmodem"),
        ("title = 'a'\ncall = 'x'\n[framing]\nend = '0D'", "no command 'x'"),
        ("title = 'a'\n[framing]\nend = '0D'\n[[rules]]\nname = 'r'\npattern = '('", "pattern"),
        ("title = 'a'\nbaud = 3\n[framing]\nend = '0D'", "baud"),
        ("title", "Expected '='"),
    ],
)
def test_a_wrong_profile_is_refused_with_its_file(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        parse(text, "door.toml")
    assert "door.toml" in str(error.value)
