"""Session-ID (RFC 7989) outside of calls: each message has both halves, and keeps them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocols.sip.events import Event, Referred, RequestReceived
from gateway.protocols.sip.message import Request, parse_datagram
from gateway.protocols.sip.sessionid import half_for, session_id, session_id_of

from .network import Network, Phone

NIL = "0" * 32
FORM = re.compile(rb"\r\nSession-ID: ([0-9a-f]{32});remote=([0-9a-f]{32})\r\n")


def serve(phone: Phone, event: Event, now: float) -> None:
    """Take whatever comes."""
    match event:
        case RequestReceived(message=Request(method="SUBSCRIBE")):
            token = phone.agent.accept_subscription(event.request, 600, now)
            phone.agent.notify(token, "text/plain", b"state", now)
        case RequestReceived():
            expires = [("Expires", "600")]
            phone.agent.respond(event.request, 200, now, headers=expires)
        case Referred():
            phone.agent.accept_refer(event.request, now)


def halves(network: Network) -> list[tuple[str, str, str]]:
    """Sender, own half and the other's of each message, in order."""
    told = []
    for _, sender, _, data in network.log:
        found = FORM.search(data)
        assert found, data.decode()
        told.append((sender, found[1].decode(), found[2].decode()))
    return told


@pytest.mark.parametrize(
    ("method", "n_messages"), [("register", 4), ("subscribe", 8), ("options", 2), ("message", 2)]
)
def test_each_message_has_both_halves(method: str, n_messages: int) -> None:
    a, b = Phone("192.0.2.1"), Phone("192.0.2.2", handler=serve)
    network = Network(a, b)
    agent, target = a.agent, "sip:bob@192.0.2.2"
    match method:
        case "register":
            token = agent.register(target, "sip:bob@pbx.test", network.now, expires=600)
            network.run(10)
            agent.unregister(token, network.now)
        case "subscribe":
            token = agent.subscribe(target, "presence", network.now)
            network.run(10)
            agent.unsubscribe(token, network.now)
        case "options":
            agent.options(target, network.now)
        case _:
            agent.message(target, "hello", network.now)
    network.run(5)
    told = halves(network)
    assert len(told) == n_messages
    ours = {half for sender, half, _ in told if sender == a.host}
    theirs = {half for sender, half, _ in told if sender == b.host}
    assert len(ours) == len(theirs) == 1
    assert ours != theirs
    # The first request cannot know the other half; everything after the first answer does.
    assert told[0][2] == NIL
    known = {a.host: theirs.pop(), b.host: ours.pop()}
    assert [other for sender, _, other in told[1:]] == [known[sender] for sender, _, _ in told[1:]]


def test_a_session_of_one_of_ours_has_another_id_than_the_next() -> None:
    a, b = Phone("192.0.2.1"), Phone("192.0.2.2", handler=serve)
    network = Network(a, b)
    for _ in range(3):
        a.agent.options("sip:bob@192.0.2.2", network.now)
        network.run(1)
    assert len({half for sender, half, _ in halves(network) if sender == a.host}) == 3


def test_who_does_not_speak_of_it_is_not_told() -> None:
    b = Phone("192.0.2.2", handler=serve)
    lines = (
        "OPTIONS sip:b@192.0.2.2 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKa\r\n"
        "From: <sip:a@b>;tag=1\r\nTo: <sip:b@b>\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\n{}\r\n"
    )
    for extra, told in (("", False), (f"Session-ID: {'a' * 32};remote={NIL}\r\n", True)):
        data = lines.format(extra).encode()
        b.agent.receive_datagram(data, ("192.0.2.1", 5060), ("192.0.2.2", 5060), "udp", 1.0)
        send = b.agent.next_send()
        assert send is not None
        assert (b"Session-ID" in send.data) is told
        assert not told or f";remote={'a' * 32}".encode() in send.data


@given(st.binary(max_size=80))
def test_garbage_is_no_half(value: bytes) -> None:
    line = re.sub(rb"[\r\n]", b" ", value)
    data = (
        b"OPTIONS sip:b@192.0.2.2 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKa\r\n"
        b"From: <sip:a@b>;tag=1\r\nTo: <sip:b@b>\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\n"
        b"Session-ID: " + line + b"\r\n\r\n"
    )
    message = parse_datagram(data)
    assert isinstance(message, Request)
    assert re.fullmatch(r"([0-9a-f]{32})?", session_id_of(message))


def test_the_form_of_rfc_7989() -> None:
    assert session_id("ab" * 16) == ("Session-ID", f"{'ab' * 16};remote={NIL}")
    assert half_for("x@host", b"secret") != half_for("x@host", b"other")
