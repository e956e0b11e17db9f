"""A login step by step, the messages after it, and garbage."""

from __future__ import annotations

import contextlib
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import PeerError
from gateway.protocols.radio.svxreflector import DEAD_S, Datagram, Session, State, Udp

CHALLENGE = bytes(range(20))


def framed(kind: int, fields: bytes = b"") -> bytes:
    return (2 + len(fields)).to_bytes(4, "big") + kind.to_bytes(2, "big") + fields


def text(*words: str) -> bytes:
    found = len(words).to_bytes(2, "big")
    for word in words:
        found += len(word).to_bytes(2, "big") + word.encode()
    return found


def logged_in() -> Session:
    session = Session("GW", "secret", 0.0)
    assert session.outgoing() == bytes.fromhex("00000006 0005 0001 0000")
    session.receive(framed(10, b"\0\x14" + CHALLENGE), 0.1)
    digest = hmac.new(b"secret", CHALLENGE, hashlib.sha1).digest()
    assert session.outgoing() == framed(11, b"\0\2GW\0\x14" + digest)
    session.receive(framed(12), 0.2)
    assert session.state is State.ACCEPTED
    info = framed(100, b"\0\0\0\7" + text("NODEB", "GW") + text("OPUS", "S16"))
    for at in range(len(info)):
        session.receive(info[at : at + 1], 0.3)
    assert session.state is State.UP
    return session


def test_login() -> None:
    session = logged_in()
    assert (session.client_id, session.nodes, session.codecs) == (
        7, ["NODEB", "GW"], ["OPUS", "S16"],
    )  # fmt: skip


def test_nodes_and_talkers() -> None:
    session = logged_in()
    session.receive(framed(102, b"\0\1X") + framed(103, b"\0\2GW") + framed(104, b"\0\1X"), 1.0)
    assert session.nodes == ["NODEB", "X"]
    assert session.talker == "X"
    session.receive(framed(105, b"\0\1X"), 2.0)
    assert session.talker == ""


def test_heartbeats() -> None:
    session = logged_in()
    session.poll(9.0)
    assert session.outgoing() == b""
    session.poll(10.0)
    assert session.outgoing() == framed(1)
    with pytest.raises(PeerError, match="silent"):
        session.poll(0.3 + DEAD_S + 0.1)


def test_refusal() -> None:
    session = Session("GW", "wrong", 0.0)
    with pytest.raises(PeerError, match="Access denied"):
        session.receive(framed(13, b"\0\x0dAccess denied"), 1.0)


def test_a_newer_reflector_comes_down_to_us() -> None:
    session = Session("GW", "secret", 0.0)
    session.outgoing()
    session.receive(framed(6, b"\0\2\0\0"), 0.1)
    assert session.outgoing() == bytes.fromhex("00000006 0005 0001 0000")
    with pytest.raises(PeerError, match="only version"):
        session.receive(framed(6, b"\0\0\0\6"), 0.2)


def test_datagrams() -> None:
    audio = Datagram(Udp.AUDIO, 7, 258, b"abc")
    assert audio.pack() == bytes.fromhex("0065 0007 0102 0003") + b"abc"
    assert Datagram.parse(audio.pack()) == audio
    assert Datagram(Udp.FLUSH, 7, 65536 + 1).pack() == bytes.fromhex("0066 0007 0001")


@given(st.binary(max_size=100))
def test_garbage_datagrams(data: bytes) -> None:
    with contextlib.suppress(PeerError):
        Datagram.parse(data)


@given(st.lists(st.tuples(st.integers(0, 120), st.binary(max_size=60)), max_size=10), st.booleans())
def test_garbage_messages(messages: list[tuple[int, bytes]], up: bool) -> None:
    session = logged_in() if up else Session("GW", "secret", 0.0)
    with contextlib.suppress(PeerError):
        for kind, fields in messages:
            session.receive(framed(kind, fields), 1.0)


@given(st.lists(st.binary(max_size=100), max_size=10))
def test_garbage_octets(portions: list[bytes]) -> None:
    session = Session("GW", "secret", 0.0)
    with contextlib.suppress(PeerError):
        for data in portions:
            session.receive(data, 1.0)
