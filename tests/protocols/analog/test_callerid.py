"""Caller ID messages against published vectors and two foreign decoders' accepted frame."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError, PeerError, UsageError
from gateway.lab import callerid as lab
from gateway.protocols.analog.callerid import (
    CallerId,
    build_dtmf,
    build_mdmf,
    build_message_waiting,
    build_sdmf,
    parse,
    parse_dtmf,
)

# Rendered as FSK this frame is printed by minimodem (--rx callerid) and multimon-ng (CLIPFSK).
ACCEPTED = bytes.fromhex(
    "80240108 31313231313933380 20A 35353531323334353637 070C 4741544557415920544553541D".replace(
        " ", ""
    )
)
CALLER = CallerId(number="5551234567", name="GATEWAY TEST", stamp="11211938")


def test_vector_both_ways() -> None:
    assert build_mdmf(CALLER) == ACCEPTED
    assert parse(ACCEPTED) == CALLER


def test_lab_sender_agrees() -> None:
    assert parse(lab.mdmf("5551234567", "GATEWAY TEST", "11211938")) == CALLER


def test_published_sdmf_example() -> None:
    # Telcordia's often printed single data message: 30 September, 12:24, 609-555-1212
    message = bytes.fromhex("041230393330313232343630393535353132313251")
    assert parse(message) == CallerId(number="6095551212", stamp="09301224")
    assert build_sdmf(CallerId(number="6095551212", stamp="09301224")) == message


@pytest.mark.parametrize("reason", ["P", "O"])
def test_reason_instead_of_number(reason: str) -> None:
    caller = CallerId(stamp="01020304", reason=reason)
    assert parse(build_mdmf(caller)) == caller
    assert parse(build_sdmf(caller)) == caller


def test_message_waiting() -> None:
    assert parse(build_message_waiting(True)).messages is True
    assert parse(build_message_waiting(False)).messages is False
    assert parse(bytes.fromhex("0603424242") + bytes([-(6 + 3 + 3 * 0x42) & 0xFF])).messages is True


def test_bad_octet_is_told() -> None:
    for at in range(len(ACCEPTED)):
        broken = bytearray(ACCEPTED)
        broken[at] ^= 0x20
        with pytest.raises(PeerError, match="caller ID"):
            parse(bytes(broken))


def test_cut_anywhere_is_told() -> None:
    for n in range(len(ACCEPTED)):
        with pytest.raises(PeerError):
            parse(ACCEPTED[:n])


def test_bad_fields_are_told() -> None:
    for caller in (CallerId(number="1" * 21), CallerId(name="x" * 51), CallerId(stamp="1122")):
        with pytest.raises(UsageError, match="caller ID"):
            build_mdmf(caller)
    with pytest.raises(UsageError, match="stamp"):
        build_sdmf(CallerId(number="1"))
    with pytest.raises(UsageError, match="DTMF"):
        build_dtmf(CallerId(number="+44"))


@given(st.binary(max_size=300))
def test_garbage_never_raises_anything_else(data: bytes) -> None:
    for message in (data, data + bytes([-sum(data) & 0xFF])):
        try:
            parse(message)
        except PeerError:
            pass


@given(st.text(max_size=40))
def test_garbage_digits(text: str) -> None:
    try:
        parse_dtmf(text)
    except PeerError:
        pass


@given(
    st.text("0123456789", max_size=20),
    st.text(max_size=60),
    st.sampled_from(["", "12312359"]),
)
def test_what_is_built_is_parsed(number: str, name: str, stamp: str) -> None:
    caller = CallerId(number=number, name=name, stamp=stamp)
    try:
        message = build_mdmf(caller)
    except GatewayError:
        return
    back = parse(message)
    assert back.number == number
    assert back.stamp == stamp


def test_dtmf_caller_id() -> None:
    assert build_dtmf(CallerId(number="5551234")) == "A5551234C"
    assert build_dtmf(CallerId(number="5551234"), start="D", end="#") == "D5551234#"
    assert parse_dtmf("D5551234#") == CallerId(number="5551234")
    assert parse_dtmf("A5551234") == CallerId(number="5551234")
    assert parse_dtmf("B10C").reason == "P"
    assert parse_dtmf(build_dtmf(CallerId())).reason == "O"
    with pytest.raises(PeerError):
        parse_dtmf("5551234C")
