"""a=crypto (RFC 4568): the RFC's own examples, what is refused, and garbage."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import PeerError, UsageError
from gateway.protocols.sdp_crypto import KEY_OCTETS, choose, line, parse

KEY = "d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj"
OTHER = "YUJDZGVmZ2hpSktMbW9QUXJzVHVWd3l6MTIzNDU2"


def test_examples_of_the_rfc() -> None:
    # RFC 4568 section 4.1 and 5.1.
    found = parse(f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}|2^20|1:32")
    assert (found.tag, found.suite, len(found.key)) == (1, "AES_CM_128_HMAC_SHA1_80", 30)
    assert (found.lifetime, found.mki) == (1 << 20, (1, 32))
    assert "MKI" in found.refusal
    found = parse(f"2 AES_CM_128_HMAC_SHA1_32 inline:{OTHER}|1:4")
    assert (found.lifetime, found.mki) == (None, (1, 4))
    assert not parse(f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}|1048576").refusal
    # RFC 4568 section 6.3.7: a hint that may be ignored; the others may not be.
    assert not parse(f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY} WSH=128").refusal
    assert "KDR=1" in parse(f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY} WSH=128 KDR=1").refusal
    assert parse(f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY} UNENCRYPTED_SRTP").refusal


def test_the_first_usable_line_is_chosen() -> None:
    lines = [
        "1 F8_128_HMAC_SHA1_80 inline:AAAA",
        f"2 AES_CM_128_HMAC_SHA1_80 inline:{KEY}|2^31|1:1",
        f"3 AES_CM_128_HMAC_SHA1_32 inline:{KEY}|2^31",
        f"4 AES_CM_128_HMAC_SHA1_80 inline:{KEY}",
    ]
    found, why = choose(lines, KEY_OCTETS)
    assert found is not None
    assert (found.tag, why) == (3, "")
    found, why = choose(lines[:2], KEY_OCTETS)
    assert found is None
    assert "F8_128" in why
    assert "MKI" in why
    found, why = choose(lines[2:], {"AEAD_AES_128_GCM"})
    assert found is None
    assert "not available" in why


@pytest.mark.parametrize(
    "value",
    [
        "",
        "1",
        "x AES_CM_128_HMAC_SHA1_80 inline:" + KEY,
        "1 AES_CM_128_HMAC_SHA1_80 uri:" + KEY,
        "1 AES_CM_128_HMAC_SHA1_80 inline:" + KEY[:-4],
        "1 AES_CM_128_HMAC_SHA1_80 inline:*" + KEY[1:],
        f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}|2^49",
        f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}|0",
        f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}|1:200",
        f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}|1:4|2^20",
        f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}|1:4;inline:{OTHER}|2:4",
        "1 AEAD_AES_256_GCM inline:" + KEY,
        "1 AES_CM_128_HMAC_SHA1_80 inline:" + "A" * 2000,
    ],
)
def test_what_cannot_be_used_is_refused_without_showing_a_key(value: str) -> None:
    with pytest.raises(PeerError) as refused:
        parse(value)
    assert KEY not in str(refused.value)
    assert OTHER not in str(refused.value)


@pytest.mark.parametrize("suite", KEY_OCTETS)
def test_what_we_write_is_read_back(suite: str) -> None:
    key = bytes(range(KEY_OCTETS[suite]))
    found = parse(line(7, suite, key))
    assert (found.tag, found.suite, found.key) == (7, suite, key)
    assert line(7, suite, key).rpartition(":")[2] not in repr(found)
    with pytest.raises(UsageError):
        line(1, suite, key[1:])


_PIECES = st.lists(
    st.sampled_from(
        ["1", " ", "AES_CM_128_HMAC_SHA1_80", "inline:", KEY, "|", "2^", "20", ":", ";", "=",
         "WSH=1", "\0", "\u0664", "KDR=0"]
    )
    | st.text(max_size=6),
    max_size=14,
).map("".join)  # fmt: skip


@given(_PIECES | st.text(max_size=200))
def test_garbage_is_refused(value: str) -> None:
    with contextlib.suppress(PeerError):
        found = parse(value)
        assert len(found.key) == KEY_OCTETS[found.suite]
    choose([value] * 3, KEY_OCTETS)
