"""PUBLISH (RFC 3903) and what presence documents say."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import PeerError
from gateway.protocols.sip.message import Request, parse_datagram
from gateway.protocols.sip.packages import presence
from gateway.protocols.sip.publication import PIDF, Presence, Publications, read_presence

OPEN = presence("sip:a@b", reachable=True, notes=["back at five"], activities=["meeting"])
CLOSED = presence("sip:a@b", reachable=False)


def publish(body: bytes = b"", *lines: str, event: str = "presence", kind: str = PIDF) -> Request:
    text = [
        "PUBLISH sip:a@b SIP/2.0", "Via: SIP/2.0/UDP h;branch=z9hG4bK1", "From: <sip:a@b>;tag=1",
        "To: <sip:a@b>", "Call-ID: c", "CSeq: 1 PUBLISH", f"Event: {event}", *lines,
        *([f"Content-Type: {kind}"] if body else []), f"Content-Length: {len(body)}",
    ]  # fmt: skip
    message = parse_datagram("\r\n".join(text).encode() + b"\r\n\r\n" + body)
    assert isinstance(message, Request)
    return message


@pytest.fixture
def kept() -> Publications:
    numbers = itertools.count(1)
    return Publications(lambda: f"e{next(numbers)}", min_expires=60, max_expires=600, max_each=2)


def test_a_publication_from_first_to_last(kept: Publications) -> None:
    assert kept.process("a", publish(OPEN, "Expires: 3600"), 0.0) == (
        200,
        [("SIP-ETag", "e1"), ("Expires", "600")],
    )
    assert kept.states("a", 1.0) == [Presence(True, "back at five", ("meeting",))]
    # A refresh has no body and keeps the state; each has a tag of its own, good once.
    status, headers = kept.process("a", publish(b"", "SIP-If-Match: e1", "Expires: 100"), 500.0)
    assert (status, dict(headers)["SIP-ETag"]) == (200, "e2")
    assert kept.states("a", 599.0)[0].note == "back at five"
    assert kept.process("a", publish(b"", "SIP-If-Match: e1"), 510.0) == (412, [])
    assert kept.process("a", publish(CLOSED, "SIP-If-Match: e2", "Expires: 60"), 520.0)[0] == 200
    assert kept.states("a", 521.0) == [Presence(False)]
    assert kept.expire(579.0) == []
    assert kept.expire(581.0) == ["a"]
    assert kept.states("a", 581.0) == []
    assert kept.process("a", publish(OPEN), 600.0)[0] == 200
    assert kept.process("a", publish(b"", "SIP-If-Match: e4", "Expires: 0"), 601.0)[0] == 200
    assert kept.states("a", 601.0) == []
    assert kept.process("a", publish(b"", "SIP-If-Match: e3"), 602.0)[0] == 412


@pytest.mark.parametrize(
    ("request_", "status", "header"),
    [
        (publish(OPEN, event="dialog"), 489, ("Allow-Events", "presence")),
        (publish(OPEN, "SIP-If-Match: unknown"), 412, None),
        (publish(OPEN, "Expires: 5"), 423, ("Min-Expires", "60")),
        (publish(b"x", kind="text/plain"), 415, ("Accept", PIDF)),
        (publish(), 400, None),
        (publish(b"<no/>"), 400, None),
        (publish(b"<presence"), 400, None),
        (publish(b"x" * 20_000), 413, None),
    ],
)
def test_what_is_refused_changes_nothing(
    kept: Publications, request_: Request, status: int, header: tuple[str, str] | None
) -> None:
    assert kept.process("a", request_, 0.0) == (status, [header] if header else [])
    assert kept.states("a", 0.0) == []


def test_publishers_of_one_entity_are_bounded(kept: Publications) -> None:
    for _ in range(5):
        kept.process("a", publish(OPEN), 0.0)
    assert len(kept.states("a", 1.0)) == 2


def test_a_document_of_baresip() -> None:
    told = read_presence(
        b'<?xml version="1.0" encoding="UTF-8" standalone="no"?>\r\n'
        b'<presence xmlns="urn:ietf:params:xml:ns:pidf"\r\n'
        b'    xmlns:dm="urn:ietf:params:xml:ns:pidf:data-model"\r\n'
        b'    xmlns:rpid="urn:ietf:params:xml:ns:pidf:rpid"\r\n    entity="sip:a@b">\r\n'
        b'  <dm:person id="p4159"><rpid:activities/></dm:person>\r\n  <tuple id="t4109">\r\n'
        b"    <status>\r\n      <basic>open</basic>\r\n    </status>\r\n"
        b"    <contact>sip:a@b</contact>\r\n  </tuple>\r\n</presence>\r\n"
    )
    assert told == Presence(True)


def test_entities_are_not_expanded() -> None:
    bomb = b'<!DOCTYPE p [<!ENTITY a "aaaaaaaaaa">]><presence xmlns="urn:ietf:params:xml:ns:pidf"/>'
    with pytest.raises(PeerError, match="DOCTYPE"):
        read_presence(bomb)
    deep = b'<presence xmlns="urn:ietf:params:xml:ns:pidf">' + b"<a>" * 600
    with pytest.raises(PeerError, match="too many"):
        read_presence(deep)


@given(st.binary(max_size=300))
def test_garbage(body: bytes) -> None:
    with pytest.raises(PeerError):
        read_presence(body)


@given(st.binary(max_size=12), st.integers(0, len(OPEN)), st.integers(0, 8))
def test_damaged_documents(junk: bytes, at: int, cut: int) -> None:
    try:
        told = read_presence(OPEN[:at] + junk + OPEN[at + cut :])
    except PeerError:
        return
    assert told.is_open in (None, True, False)
    assert told.note.isprintable()
