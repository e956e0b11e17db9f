"""Messages: reading, framing, writing, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import PeerError, UsageError
from gateway.protocols.sip.agent import SipAgent, SipConfig
from gateway.protocols.sip.events import Invited
from gateway.protocols.sip.gate import admit_all
from gateway.protocols.sip.headers import parse_auth, parse_name_addr, parse_reasons, parse_via
from gateway.protocols.sip.message import (
    BadMessage,
    Limits,
    Request,
    StreamFramer,
    encode,
    parse_datagram,
)
from gateway.protocols.sip.uri import escape_user, make_uri, parse_uri, same_uri

from .corpora import CORPORA
from .network import SDP

INVITE = (
    b"INVITE sip:bob@192.0.2.2 SIP/2.0\r\n"
    b"v: SIP/2.0/UDP 192.0.2.1:5070;branch=z9hG4bK1;rport\r\n"
    b'f: "A, \\"B\\" <x>" <sip:alice@192.0.2.1;lr>;tag=1\r\n'
    b"t: <sip:bob@192.0.2.2>\r\n"
    b"i: call-1\r\n"
    b"CSeq: 7\r\n\tINVITE\r\n"
    b"Max-Forwards: 70\r\n"
    b"m: <sip:alice@192.0.2.1:5070>;q=0.5,\r\n <sip:a@[2001:db8::1]:5062>\r\n"
    b"k: 100rel, timer\r\n"
    b"c: application/sdp\r\n"
    b"l: " + str(len(SDP)).encode() + b"\r\n\r\n" + SDP
)

RFC3666_ERRATA = {
    "2.1-F10": "Content-Length is too large",
    "2.4-F9": "Content-Length is too large",
    "3.3-F2": "Content-Length is too large",
    "3.3-F3": "Content-Length is too large",
    "3.7-F3": "Content-Length is too large",
    "4.2-F2": "Content-Length is too large",
    "4.2-F3": "Content-Length is too large",
    "4.2-F6": "Content-Length is too large",
    "2.3-F14": "address without scheme",
    "2.3-F16": "address without scheme",
    "2.3-F5": "unbalanced angle bracket",
    "3.2-F3": "address without scheme",
    "3.2-F7": "address without scheme",
    "3.2-F8": "address without scheme",
    "3.5-F3": "address without scheme",
    "3.5-F6": "address without scheme",
    "3.5-F8": "address without scheme",
    "3.6-F3": "address without scheme",
    "3.6-F6": "address without scheme",
    "3.3-F12": "no From",
    "3.4-F2": "empty address",
}
"""Messages of the RFC that break RFC 3261 as printed."""


def look_at(message: object) -> None:
    """Type every header field that has a type."""
    assert hasattr(message, "via")
    for name in ("via", "from_", "to", "cseq", "call_id"):
        getattr(message, name)
    for key in ("contact", "route", "record-route"):
        message.addresses(key)  # type: ignore[attr-defined]
    if isinstance(message, Request):
        _ = message.uri


def test_compact_folded_quoted() -> None:
    found = parse_datagram(INVITE)
    assert isinstance(found, Request)
    assert found.from_.display == 'A, "B" <x>'
    assert found.from_.uri.params == {"lr": ""}
    assert found.from_.tag == "1"
    assert found.cseq == (7, "INVITE")
    first, second = found.addresses("contact")
    assert (first.uri.port, first.params["q"]) == (5070, "0.5")
    assert (second.uri.host, second.uri.port) == ("2001:db8::1", 5062)
    assert found.tokens("supported") == ["100rel", "timer"]
    assert found.sdp == SDP


@pytest.mark.parametrize("path", sorted((CORPORA / "rfc3666").glob("*.sip")), ids=lambda p: p.stem)
def test_rfc_3666(path) -> None:  # type: ignore[no-untyped-def]
    if path.stem in RFC3666_ERRATA:
        with pytest.raises(PeerError):
            look_at(parse_datagram(path.read_bytes()))
    else:
        look_at(parse_datagram(path.read_bytes()))


def test_lf_only_datagram() -> None:
    head, _, body = INVITE.partition(b"\r\n\r\n")
    found = parse_datagram(head.replace(b"\r\n", b"\n") + b"\n\n" + body)
    assert found.headers == parse_datagram(INVITE).headers
    with pytest.raises(BadMessage, match="bare"):
        parse_datagram(INVITE.replace(b"i: call-1", b"i: call-1\nX: smuggled"))
    with pytest.raises(BadMessage, match="bare"):
        parse_datagram(INVITE.replace(b"i: call-1", b"i: call-1\rX: smuggled"))


@pytest.mark.parametrize("step", [1, 2, 3, 7, 50])
def test_stream_in_pieces(step: int) -> None:
    framer = StreamFramer()
    stream = b"\r\n\r\n" + INVITE + b"\r\n" + INVITE + b"\r\n\r\n" + INVITE
    found = []
    for at in range(0, len(stream), step):
        found += list(framer.feed(stream[at : at + step]))
    assert [m.body for m in found] == [SDP] * 3
    assert framer.pings == 2
    assert not framer.incomplete


def test_stream_split_at_every_octet() -> None:
    for at in range(len(INVITE)):
        framer = StreamFramer()
        found = [*framer.feed(INVITE[:at]), *framer.feed(INVITE[at:])]
        assert len(found) == 1
        assert found[0].headers == parse_datagram(INVITE).headers


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40,
        b"INVITE sip:x SIP/2.0\r\n" + b"X: y\r\n" * 20000,
        b"X" * 70000,
        INVITE.replace(b"l: ", b"l: 99999"),
        INVITE.replace(b"l: ", b"l: -"),
        INVITE.replace(b"k: 100rel", b"l: 5\r\nk: 100rel"),
    ],
)
def test_stream_refused(data: bytes) -> None:
    framer = StreamFramer()

    def feed() -> None:
        for at in range(0, len(data), 1000):
            list(framer.feed(data[at : at + 1000]))

    with pytest.raises(BadMessage):
        feed()


def test_limits() -> None:
    limits = Limits(head=300, body=10, lines=5)
    with pytest.raises(BadMessage) as error:
        parse_datagram(INVITE + b"", Limits(body=10))
    assert error.value.status == 513
    assert error.value.request is not None
    with pytest.raises(BadMessage):
        parse_datagram(INVITE, limits)


def test_encode_refuses_line_ends() -> None:
    for value in ("a\r\nb", "a\nb", "a\rb"):
        with pytest.raises(UsageError):
            encode("SIP/2.0 200 OK", [("X", value)])


def test_uris() -> None:
    uri = parse_uri("sips:al%69ce:pw@[2001:DB8::1]:5061;Transport=TCP;lr?a=b")
    assert (uri.scheme, uri.user, uri.password) == ("sips", "alice", "pw")
    assert (uri.host, uri.port, uri.transport, uri.loose) == ("2001:db8::1", 5061, "tls", True)
    assert uri.headers == "a=b"
    tel = parse_uri("tel:+1-201-555-0123;phone-context=x")
    assert (tel.user, tel.params) == ("+1-201-555-0123", {"phone-context": "x"})
    assert make_uri("2001:db8::1", "a b@c", 5060) == "sip:a%20b%40c@[2001:db8::1]:5060"


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtLanTa.CoM;Transport=tcp", True),
        ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5", True),
        ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;newparam=5", True),
        ("sip:alice@atlanta.com", "sip:ALICE@atlanta.com", False),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060", False),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp", False),
        ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting", False),
        ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off", False),
    ],
)
def test_rfc_3261_section_19_1_4(a: str, b: str, same: bool) -> None:
    assert same_uri(parse_uri(a), parse_uri(b)) is same


@given(st.text(max_size=60))
def test_user_parts_survive(user: str) -> None:
    try:
        user.encode("utf-8")
    except UnicodeEncodeError:
        return
    if user:
        assert ":" in user or parse_uri(f"sip:{escape_user(user)}@h").user == user


@given(st.text(max_size=200))
def test_header_values_raise_only_peer_error(text: str) -> None:
    for parser in (parse_uri, parse_name_addr, parse_via, parse_auth):
        for value in (text, "<sip:" + text, "SIP/2.0/UDP h;" + text, "sip:a@b;" + text):
            try:
                parser(value)
            except PeerError:
                pass
    parse_reasons([text, "SIP;" + text])


def agent() -> SipAgent:
    return SipAgent(SipConfig(host="192.0.2.2"), admit_all)


def drain(under_test: SipAgent) -> list[bytes]:
    while (event := under_test.next_event()) is not None:
        if isinstance(event, Invited):
            under_test.ring(event.session, 0.0)
            under_test.reject(event.session, 486, 0.0)
    return [send.data for send in iter(under_test.next_send, None)]


@given(st.binary(max_size=300))
def test_agent_takes_any_datagram(data: bytes) -> None:
    under_test = agent()
    under_test.receive_datagram(data, ("192.0.2.1", 1), ("", 0), "udp", 0.0)
    drain(under_test)


LINES = INVITE.partition(b"\r\n\r\n")[0].split(b"\r\n")


@settings(max_examples=500)
@given(st.data())
def test_agent_takes_any_mutation(data: st.DataObject) -> None:
    octets = bytearray(INVITE)
    if data.draw(st.booleans()):
        lines = data.draw(st.lists(st.sampled_from(LINES[1:]), max_size=14))
        octets = bytearray(b"\r\n".join([LINES[0], *lines]) + b"\r\n\r\n" + SDP)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(octets) - 1))
        octets[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        if not octets:
            return
    for method in (b"INVITE", b"ACK", b"BYE", b"REGISTER", b"REFER", b"SUBSCRIBE"):
        under_test = agent()
        changed = bytes(octets).replace(b"INVITE", method)
        under_test.receive_datagram(changed, ("192.0.2.1", 1), ("", 0), "udp", 0.0)
        replies = drain(under_test)
        assert not changed.startswith(b"ACK ") or not replies, "an ACK is never answered"
        for reply in replies:
            if reply.startswith(b"SIP/2.0"):
                parse_datagram(reply)
        under_test.tick(100.0)
        drain(under_test)


@settings(max_examples=100)
@given(st.binary(max_size=200), st.integers(1, 20))
def test_agent_takes_any_stream(data: bytes, step: int) -> None:
    under_test = agent()
    under_test.connection_made(1, ("192.0.2.1", 1), ("", 0), "tcp", 0.0)
    for text in (INVITE, data, INVITE):
        for at in range(0, len(text), step):
            under_test.receive_stream(1, text[at : at + step], 0.0)
    drain(under_test)
    under_test.connection_lost(1, 0.0)
