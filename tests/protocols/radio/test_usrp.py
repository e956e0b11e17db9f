"""USRP frames: a published vector, and garbage."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import PeerError
from gateway.protocols.radio.usrp import Frame, Type

VECTOR = bytes.fromhex("55535250000000010000000000000001000000000000000000000000 00000000")


def test_vector() -> None:
    assert Frame(1, True, Type.VOICE).pack() == VECTOR
    assert Frame.parse(VECTOR + bytes(320)) == Frame(1, True, Type.VOICE, 0, bytes(320))


@pytest.mark.parametrize("word", ["00000002", "02000000"])
def test_both_byte_orders_of_the_type(word: str) -> None:
    data = VECTOR[:20] + bytes.fromhex(word) + VECTOR[24:] + b"INFO:{}"
    assert Frame.parse(data).type is Type.TEXT


@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from(Type), st.binary(max_size=50))
def test_round_trip(number: int, keyup: bool, kind: Type, payload: bytes) -> None:
    frame = Frame(number, keyup, kind, 7, bytes(320) if kind is Type.VOICE else payload)
    assert Frame.parse(frame.pack()) == frame


@given(st.binary(max_size=400), st.booleans())
def test_garbage(data: bytes, head: bool) -> None:
    with contextlib.suppress(PeerError):
        Frame.parse((b"USRP" if head else b"") + data)
