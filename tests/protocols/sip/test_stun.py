"""STUN keep-alives: vectors of RFC 5769, and garbage."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.protocols.sip.stun import answer, is_stun

TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")


def request(*attributes: bytes) -> bytes:
    body = b"".join(attributes)
    return b"\x00\x01" + len(body).to_bytes(2, "big") + b"\x21\x12\xa4\x42" + TRANSACTION + body


def test_the_mapped_addresses_of_the_standard() -> None:
    """RFC 5769 sections 2.2 and 2.3."""
    assert is_stun(request())
    for host, attribute in (
        ("192.0.2.1", "002000080001a147e112a643"),
        (
            "2001:db8:1234:5678:11:2233:4455:6677",
            "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9",
        ),
    ):
        found = answer(request(), host, 32853)
        assert found[:2] == b"\x01\x01"
        assert found[4:20] == request()[4:20]
        assert found[20:].hex() == attribute
        assert len(found) == 20 + int.from_bytes(found[2:4], "big")


def test_what_we_must_understand_and_do_not_is_refused() -> None:
    priority = bytes.fromhex("002400046e0001ff")
    software = bytes.fromhex("8022000474657374")
    assert answer(request(software), "192.0.2.1", 5060)[:2] == b"\x01\x01"
    refused = answer(request(priority), "192.0.2.1", 5060)
    assert refused[:2] == b"\x01\x11"
    assert refused[20:28] == bytes.fromhex("0009000400000414")
    assert bytes.fromhex("000a00020024") in refused


def test_responses_and_odd_lengths_are_not_answered() -> None:
    assert answer(b"\x01\x01" + request()[2:], "192.0.2.1", 1) == b""
    assert answer(request() + b"\0", "192.0.2.1", 1) == b""
    assert answer(request(b"\x80\x22\x00\xff"), "192.0.2.1", 1) == b""


@given(st.binary(max_size=200))
def test_garbage(data: bytes) -> None:
    for octets in (data, request(data), request(data + bytes(-len(data) % 4))):
        if is_stun(octets):
            found = answer(octets, "192.0.2.1", 5060)
            assert len(found) <= len(octets) + 24
