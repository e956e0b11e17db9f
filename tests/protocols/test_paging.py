"""Paging packets: octets against the published layouts, and garbage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import PeerError, UsageError
from gateway.protocols.paging import PolyCodec, PolyOperation, PolyPacket, SpaCommand, SpaControl

# Written by hand from the layout: operation, channel, serial, 13, caller id padded to 13.
ALERT = bytes.fromhex("0f 1a 01020304 0d") + b"Guard\0\0\0\0\0\0\0\0"
AUDIO = (
    bytes.fromhex("10 32 01020304 0d") + b"Guard\0\0\0\0\0\0\0\0" + bytes.fromhex("00 00 000001e0")
)
FIRST, SECOND = bytes([0x11]) * 160, bytes([0x22]) * 160
START = bytes.fromhex("0000002a 00000006 ef000102 0000138e")


def test_poly_alert_and_end() -> None:
    packet = PolyPacket(
        operation=PolyOperation.ALERT, channel=26, serial=b"\1\2\3\4", caller_id="Guard"
    )
    assert packet.encode() == ALERT
    assert PolyPacket.parse(ALERT) == packet
    assert PolyPacket.parse(b"\xff" + ALERT[1:]).operation is PolyOperation.END


def test_poly_audio_carries_the_frame_before() -> None:
    found = PolyPacket.parse(AUDIO + FIRST + SECOND)
    assert (found.channel, found.codec, found.sample_count) == (50, PolyCodec.PCMU, 480)
    assert (found.previous, found.frame) == (FIRST, SECOND)
    assert found.encode() == AUDIO + FIRST + SECOND
    alone = PolyPacket.parse(AUDIO + FIRST)
    assert (alone.previous, alone.frame) == (b"", FIRST)


def test_a_long_or_foreign_name_is_cut_and_never_breaks_the_layout() -> None:
    packet = PolyPacket(operation=PolyOperation.END, channel=1, caller_id="Tür 7, Obergeschoss")
    assert packet.encode()[7:] == b"T?r 7, Oberge"


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "octets"),
        (b"\x11" + ALERT[1:], "operation"),
        (ALERT[:1] + b"\0" + ALERT[2:], "channel 0"),
        (ALERT[:1] + b"\x33" + ALERT[2:], "channel 51"),
        (ALERT[:6] + b"\x0c" + ALERT[7:], "caller id"),
        (AUDIO[:22], "audio header"),
        (AUDIO[:20] + b"\x12" + AUDIO[21:] + FIRST, "codec"),
        (AUDIO + FIRST[:159], "159 octets of audio"),
        (AUDIO + FIRST + SECOND + b"x", "321 octets of audio"),
    ],
)
def test_what_is_no_poly_packet_is_named(data: bytes, word: str) -> None:
    with pytest.raises(PeerError, match=word):
        PolyPacket.parse(data)


def test_spa_control() -> None:
    packet = SpaControl(identifier=42, command=SpaCommand.START, group="239.0.1.2", port=5006)
    assert packet.encode() == START
    assert SpaControl.parse(START) == packet
    assert SpaControl.parse(START[:7] + b"\7" + START[8:]).command is SpaCommand.STOP
    for wrong in (START[:15], START + b"x", START[:7] + b"\5" + START[8:], START[:12] + bytes(4)):
        with pytest.raises(PeerError):
            SpaControl.parse(wrong)


def test_our_own_mistakes_are_told_apart_from_the_peers() -> None:
    for packet in (
        PolyPacket(operation=PolyOperation.END, channel=0),
        PolyPacket(operation=PolyOperation.END, channel=1, serial=b"\1"),
        SpaControl(identifier=1, command=SpaCommand.STOP, group="hall", port=1),
    ):
        with pytest.raises(UsageError):
            packet.encode()


@given(st.binary(max_size=400) | st.binary(max_size=330).map(lambda tail: AUDIO[:7] + tail))
def test_garbage(data: bytes) -> None:
    for kind in (PolyPacket, SpaControl):
        try:
            found = kind.parse(data)
        except PeerError:
            continue
        assert kind.parse(found.encode()) == found
