"""Whole calls between two agents: how they begin, end and fail (RFC 3261)."""

from __future__ import annotations

import gc

import pytest

from gateway.errors import UsageError
from gateway.protocols.sip.agent import SipAgent, SipConfig
from gateway.protocols.sip.auth import Authenticated, Credentials, DigestServer, ha1
from gateway.protocols.sip.core import ClientRequest
from gateway.protocols.sip.events import (
    Acked,
    Answered,
    DtmfReceived,
    Ended,
    Event,
    How,
    InfoReceived,
    Invited,
    Progress,
    ResponseReceived,
)
from gateway.protocols.sip.gate import Admit, Refuse, Verdict, admit_all
from gateway.protocols.sip.message import Request, Response, parse_datagram
from gateway.protocols.sip.session import Session
from gateway.protocols.sip.transaction import Flow, Transaction

from .calling import OTHER, call, clean, count, one, pair, picks_up, rings, sent
from .network import SDP, Network, Phone

_OF_A_CALL = (Session, ClientRequest, Transaction)


def test_a_call_from_start_to_end() -> None:
    a, b, network = pair()
    session = call(a, network)
    assert one(a, Progress).status == 180
    assert one(a, Answered).body == SDP
    assert one(b, Invited).offer == SDP
    assert one(b, Acked).body is None
    a.agent.hangup(session, network.now, headers=[("Reason", "Q.850;cause=16")])
    network.run(64)
    assert one(a, Ended).how is How.LOCAL
    ended = one(b, Ended)
    assert ended.how is How.BYE
    assert ended.reasons[0].protocol == "Q.850"
    assert ended.reasons[0].cause == 16
    clean(a, b)
    with pytest.raises(UsageError, match="no session"):
        a.agent.hangup(session, network.now)


def test_the_caller_hears_within_200_ms() -> None:
    _, quick, network = pair(rings)
    _, slow, other = pair(None)
    for wire in (network, other):
        a = wire.phones["192.0.2.1"]
        call(a, wire, seconds=0.19)
    assert not sent(slow, b"SIP/2.0 100"), "something better may still come"
    for wire in (network, other):
        wire.run(0.3)
    assert not sent(quick, b"SIP/2.0 100"), "180 has told it"
    [trying] = sent(slow, b"SIP/2.0 100")
    assert b";tag=" not in trying.partition(b"To:")[2].partition(b"\r\n")[0]
    assert len([data for _, _, _, data in other.log if data.startswith(b"INVITE")]) == 1


def test_a_copy_of_the_invite_hears_what_the_first_heard() -> None:
    a, b, network = pair(None)
    network.lose = lambda data: data.startswith(b"SIP/2.0 100")
    call(a, network, seconds=0.9)
    assert len(sent(a, b"INVITE")) == len(sent(b, b"SIP/2.0 100")) == 2


def test_callee_hangs_up() -> None:
    a, b, network = pair()
    call(a, network)
    b.agent.hangup(one(b, Invited).session, network.now)
    network.run(64)
    assert one(a, Ended).how is How.BYE
    clean(a, b)


def test_refused() -> None:
    def busy(phone: Phone, event: Event, now: float) -> None:
        if isinstance(event, Invited):
            phone.agent.reject(event.session, 486, now, headers=[("Retry-After", "9")])

    a, b, network = pair(busy)
    call(a, network, seconds=64)
    ended = one(a, Ended)
    assert (ended.how, ended.status) == (How.REJECTED, 486)
    assert ended.message is not None
    assert ended.message.get("retry-after") == "9"
    clean(a, b)


def test_cancelled_while_ringing() -> None:
    a, b, network = pair(rings)
    session = call(a, network)
    a.agent.hangup(session, network.now, headers=[("Reason", 'SIP;cause=200;text="elsewhere"')])
    network.run(64)
    assert one(a, Ended).how is How.CANCELLED
    ended = one(b, Ended)
    assert (ended.how, ended.status) == (How.CANCELLED, 487)
    assert ended.reasons[0].text == "elsewhere"
    clean(a, b)


def test_cancel_waits_for_a_provisional_response() -> None:
    a, b, network = pair(rings)
    network.delay = 0.2
    session = a.agent.invite("sip:bob@192.0.2.2", SDP, network.now)
    a.agent.hangup(session, network.now)
    network.run(0.3)
    assert not sent(a, b"CANCEL")
    network.run(64)
    assert len(sent(a, b"CANCEL")) == 1
    assert one(a, Ended).how is How.CANCELLED
    clean(a, b)


def test_cancel_crosses_the_answer() -> None:
    a, b, network = pair(rings)
    session = call(a, network)
    b.agent.answer(one(b, Invited).session, SDP, network.now)
    a.agent.hangup(session, network.now)
    network.run(64)
    assert count(a, Answered) == 0
    assert one(a, Ended).how is How.CANCELLED
    assert one(b, Ended).how is How.BYE
    assert len(sent(a, b"ACK")) == 1
    assert len(sent(a, b"BYE")) == 1
    clean(a, b)


def test_nobody_there() -> None:
    a, b, network = pair()
    network.lose = lambda data: True
    call(a, network, seconds=70)
    ended = one(a, Ended)
    assert (ended.how, ended.status) == (How.TIMEOUT, 408)
    assert len(sent(a, b"INVITE")) == 7, "timer A: 0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5 s"
    times = [round(t - 1000, 3) for t, *_ in network.log]
    assert times == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    clean(a, b)


def test_a_shorter_timer_b() -> None:
    a, _, network = pair()
    network.lose = lambda data: True
    a.agent.invite("sip:bob@192.0.2.2", SDP, network.now, timeout=4.0)
    network.run(4.1)
    assert one(a, Ended).how is How.TIMEOUT


def test_transport_error() -> None:
    a, _, network = pair()
    session = a.agent.invite("sip:bob@192.0.2.2", SDP, network.now)
    send = a.agent.next_send()
    assert send is not None
    a.agent.transport_failed(send.token, network.now)
    event = a.agent.next_event()
    assert isinstance(event, Ended)
    assert (event.session, event.how) == (session, How.UNREACHABLE)
    clean(a)


def test_2xx_is_repeated_until_the_ack() -> None:
    a, b, network = pair()
    lost = 3

    def lose(data: bytes) -> bool:
        nonlocal lost
        if data.startswith(b"ACK") and lost:
            lost -= 1
            return True
        return False

    network.lose = lose
    call(a, network, seconds=10)
    assert len(sent(b, b"SIP/2.0 200")) == 4
    assert len(sent(a, b"ACK")) == 4
    assert count(a, Answered) == count(b, Acked) == 1


def test_2xx_never_acknowledged() -> None:
    a, b, network = pair()
    network.lose = lambda data: data.startswith(b"ACK")
    call(a, network, seconds=100)
    assert one(b, Ended).how is How.NO_ACK
    assert one(a, Ended).how is How.BYE
    clean(a, b)


@pytest.mark.parametrize("acknowledged", [True, False])
def test_what_is_over_does_not_wait_for_the_collector(acknowledged: bool) -> None:
    gc.collect()
    others = [each for each in gc.get_objects() if isinstance(each, _OF_A_CALL)]
    gc.disable()
    try:
        a, b, network = pair()
        if not acknowledged:
            network.lose = lambda data: data.startswith(b"ACK")
        session = call(a, network, seconds=20)
        # As the gateway does: Session-ID.
        a.agent.keep_headers(session, [("Session-ID", "0" * 32)])
        network.run(80)
        if acknowledged:
            a.agent.hangup(session, network.now)
        network.run(100)
        clean(a, b)
        left = [each for each in gc.get_objects() if isinstance(each, _OF_A_CALL)]
    finally:
        gc.enable()
    assert len(left) == len(others), left


def test_hangup_before_the_ack_waits_for_it() -> None:
    a, b, network = pair(None)
    network.lose = lambda data: data.startswith(b"ACK")
    call(a, network)
    session = one(b, Invited).session
    b.agent.answer(session, SDP, network.now)
    b.agent.hangup(session, network.now)
    network.run(0.1)
    assert not sent(b, b"BYE")
    network.lose = lambda data: False
    network.run(64)
    assert one(b, Ended).how is How.LOCAL
    assert one(a, Ended).how is How.BYE
    clean(a, b)


def test_offer_in_the_answer() -> None:
    a, b, network = pair()
    session = call(a, network, body=b"")
    answered = one(a, Answered)
    assert answered.answer_needed
    assert answered.body == SDP
    assert not sent(a, b"ACK")
    a.agent.answer_offer(session, OTHER, network.now)
    network.run(1)
    assert one(b, Acked).body == OTHER
    a.agent.hangup(session, network.now)
    network.run(64)
    clean(a, b)


def test_hangup_instead_of_an_answer_still_acknowledges() -> None:
    a, b, network = pair()
    session = call(a, network, body=b"")
    a.agent.hangup(session, network.now)
    network.run(64)
    assert len(sent(a, b"ACK")) >= 1
    assert one(b, Ended).how is How.BYE
    clean(a, b)


def test_digits_and_info() -> None:
    a, b, network = pair()
    session = call(a, network)
    token = a.agent.dtmf(session, "#", network.now, 250)
    network.run(1)
    digit = one(b, DtmfReceived)
    assert (digit.digit, digit.duration_ms) == ("#", 250)
    response = one(a, ResponseReceived)
    assert (response.token, response.response.status) == (token, 200)
    a.agent.info(session, "application/x-alarm", b"\x01\x02", network.now)
    network.run(1)
    assert one(b, InfoReceived).body == b"\x01\x02"
    with pytest.raises(UsageError, match="DTMF"):
        a.agent.dtmf(session, "x", network.now)


class Door:
    """Admits bob with a password."""

    def __init__(self, algorithm: str, proxy: bool) -> None:
        self.digest = DigestServer("pbx", self.lookup, algorithms=[algorithm], proxy=proxy)

    @staticmethod
    def lookup(user: str, realm: str, algorithm: str) -> str | None:
        return ha1(algorithm, user, realm, "secret") if user == "bob" else None

    def __call__(self, request: Request, flow: Flow, now: float) -> Verdict:
        found = self.digest.check(request, now)
        if isinstance(found, Authenticated):
            return Admit(found.username)
        return Refuse(found.status, found.headers)


@pytest.mark.parametrize("proxy", [False, True])
@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
def test_call_with_digest(algorithm: str, proxy: bool) -> None:
    a = Phone("192.0.2.1")
    b = Phone("192.0.2.2", gate=Door(algorithm, proxy), handler=picks_up)
    network = Network(a, b)
    good = Credentials("bob", "secret")
    session = a.agent.invite("sip:x@192.0.2.2", SDP, network.now, credentials=good)
    network.run(1)
    assert one(b, Invited).identity == "bob"
    a.agent.hangup(session, network.now)
    network.run(64)
    clean(a, b)
    bad = Credentials("bob", "wrong")
    a.agent.invite("sip:x@192.0.2.2", SDP, network.now, credentials=bad)
    network.run(64)
    ended = a.of(Ended)[-1]
    assert isinstance(ended, Ended)
    assert ended.status == (407 if proxy else 401)
    assert count(b, Invited) == 1
    assert len(sent(a, b"INVITE")) == 4, "a wrong password is not tried again"


def test_a_peer_that_challenges_us_learns_nothing() -> None:
    """An incoming call whose BYE is challenged gets no credentials of ours (digest leak)."""
    a, b, network = pair()
    call(a, network)
    b.agent.hangup(one(b, Invited).session, network.now)
    bye = parse_datagram(sent_now(b))
    assert isinstance(bye, Request)
    challenge = a.agent.core.response(
        bye, 407, [("Proxy-Authenticate", 'Digest realm="pbx", nonce="1", qop="auth"')]
    )
    b.agent.receive_datagram(challenge, ("192.0.2.1", 5060), ("192.0.2.2", 5060), "udp", 1001.0)
    assert b.agent.next_send() is None


def sent_now(phone: Phone) -> bytes:
    send = phone.agent.next_send()
    assert send is not None
    return send.data


def respond(
    agent: SipAgent, invite: bytes, status: int, tag: str, now: float, body: bytes = b""
) -> None:
    request = parse_datagram(invite)
    assert isinstance(request, Request)
    headers = [("Contact", f"<sip:{tag}@192.0.2.9>")]
    if body:
        headers.append(("Content-Type", "application/sdp"))
    data = agent.core.response(request, status, headers, body, to_tag=tag)
    agent.receive_datagram(data, ("192.0.2.9", 5060), ("192.0.2.1", 5060), "udp", now)


def test_two_forks_answer() -> None:
    agent = SipAgent(SipConfig(host="192.0.2.1"), admit_all)
    session = agent.invite("sip:x@192.0.2.9", SDP, 0.0)
    invite = agent.next_send()
    assert invite is not None
    for tag in ("one", "two"):
        respond(agent, invite.data, 180, tag, 0.1)
    respond(agent, invite.data, 200, "two", 0.2, SDP)
    respond(agent, invite.data, 200, "one", 0.3, SDP)
    respond(agent, invite.data, 200, "two", 0.4, SDP)
    events = []
    while (event := agent.next_event()) is not None:
        events.append(event)
    assert [type(e) for e in events] == [Progress, Progress, Answered]
    out = []
    while (send := agent.next_send()) is not None:
        out.append(send.data)
    lines = [data.split(b" SIP/2.0\r\n")[0] for data in out]
    assert lines == [
        b"ACK sip:two@192.0.2.9",
        b"ACK sip:one@192.0.2.9",
        b"BYE sip:one@192.0.2.9",
        b"ACK sip:two@192.0.2.9",
    ]
    assert list(agent.core.sessions) == [session]


P1, P2, TARGET = "<sip:p1.test;lr>", "<sip:p2.test;lr>", "<sip:t@192.0.2.9>"


def test_route_set_loose_and_strict() -> None:
    for route, line, routes in (
        (f"{P1}, {P2}", "ACK sip:t@192.0.2.9", [P2, P1]),
        (f"{P1}, <sip:p2.test>", "ACK sip:p2.test", [P1, TARGET]),
    ):
        agent = SipAgent(SipConfig(host="192.0.2.1"), admit_all)
        agent.invite("sip:x@192.0.2.9", SDP, 0.0)
        send = agent.next_send()
        assert send is not None
        request = parse_datagram(send.data)
        assert isinstance(request, Request)
        headers = [("Record-Route", route), ("Contact", "<sip:t@192.0.2.9>")]
        data = agent.core.response(request, 200, headers, to_tag="t")
        agent.receive_datagram(data, ("192.0.2.9", 5060), ("", 0), "udp", 0.1)
        ack = agent.next_send()
        assert ack is not None
        parsed = parse_datagram(ack.data)
        assert isinstance(parsed, Request)
        assert f"{parsed.method} {parsed.target}" == line
        assert parsed.all("route") == routes
        assert ack.flow.host == "p2.test"
        assert ack.flow.port == 0, "a name without port is for the resolver"


def test_merged_request() -> None:
    a, b, network = pair(rings)
    call(a, network)
    copy = sent(a, b"INVITE")[0].replace(b";branch=z9hG4bK", b";branch=z9hG4bKother")
    b.agent.receive_datagram(copy, ("192.0.2.8", 5060), ("", 0), "udp", network.now)
    assert sent_now(b).startswith(b"SIP/2.0 482")


def test_a_phone_behind_a_nat() -> None:
    """Via shows a private address: requests in the dialog go back to where it came from."""
    a, b, network = pair()
    a.agent.invite("sip:bob@192.0.2.2", SDP, network.now)
    send = a.agent.next_send()
    assert send is not None
    head, _, body = send.data.partition(b"\r\n\r\n")
    data = head.replace(b"192.0.2.1", b"10.0.0.1") + b"\r\n\r\n" + body
    b.agent.receive_datagram(data, ("203.0.113.7", 40000), ("192.0.2.2", 5060), "udp", network.now)
    event = b.agent.next_event()
    assert isinstance(event, Invited)
    picks_up(b, event, network.now)
    ok = parse_datagram([s.data for s in iter(b.agent.next_send, None)][-1])
    assert isinstance(ok, Response)
    assert ok.via.params["received"] == "203.0.113.7"
    assert ok.via.params["rport"] == "40000"
    ack = (
        "ACK sip:x SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKack\r\n"
        f"From: {ok.get('from')}\r\nTo: {ok.get('to')}\r\nCall-ID: {ok.call_id}\r\n"
        "CSeq: 1 ACK\r\n\r\n"
    ).encode()
    ack = ack.replace(b"ACK sip:x", b"ACK sip:x@192.0.2.2")
    b.agent.receive_datagram(ack, ("203.0.113.7", 40000), ("192.0.2.2", 5060), "udp", network.now)
    b.agent.hangup(event.session, network.now)
    bye = b.agent.next_send()
    assert bye is not None
    assert bye.data.startswith(b"BYE sip:gateway@10.0.0.1")
    assert (bye.flow.host, bye.flow.port) == ("203.0.113.7", 40000)


def test_headers_cannot_be_injected() -> None:
    a, b, network = pair(rings)
    with pytest.raises(UsageError, match="CR or LF"):
        a.agent.invite("sip:b@192.0.2.2", SDP, 0.0, headers=[("X", "a\r\nEvil: 1")])
    assert not a.agent.core.sessions
    with pytest.raises(UsageError):
        a.agent.invite("sip:b@192.0.2.2\r\nEvil: 1", SDP, 0.0)
    call(a, network)
    with pytest.raises(UsageError, match="CR or LF"):
        b.agent.ring(one(b, Invited).session, 0.0, reason="a\r\nEvil: 1")


def test_overload_is_answered_without_state() -> None:
    a, b, network = pair(rings)
    b.agent.core.config = SipConfig(host="192.0.2.2", max_sessions=3)
    for _ in range(5):
        a.agent.invite("sip:bob@192.0.2.2", SDP, network.now)
    network.run(1)
    assert count(b, Invited) == 3
    refused = [e for e in a.events if isinstance(e, Ended)]
    assert [e.status for e in refused] == [503, 503]
    assert refused[0].message is not None
    assert refused[0].message.get("retry-after") == "5"


def test_streams_carry_a_call() -> None:
    a = SipAgent(SipConfig(host="192.0.2.1"), admit_all)
    b = SipAgent(SipConfig(host="192.0.2.2"), admit_all)
    session = a.invite("sip:bob@192.0.2.2;transport=tcp", SDP, 0.0)
    first = a.next_send()
    assert first is not None
    assert (first.flow.transport, first.flow.connection) == ("tcp", 0)
    a.connection_made(7, ("192.0.2.2", 5060), ("192.0.2.1", 41000), "tcp", 0.0)
    b.connection_made(3, ("192.0.2.1", 41000), ("192.0.2.2", 5060), "tcp", 0.0)
    b.receive_stream(3, first.data, 0.0)
    events: list[Event] = []

    def settle() -> None:
        busy = True
        while busy:
            busy = False
            for agent, peer, connection in ((a, b, 3), (b, a, 7)):
                while (event := agent.next_event()) is not None:
                    events.append(event)
                    if isinstance(event, Invited):
                        agent.answer(event.session, SDP, 0.0)
                while (send := agent.next_send()) is not None:
                    busy = True
                    assert send.flow.transport == "tcp"
                    peer.receive_stream(connection, send.data, 0.0)

    settle()
    assert [type(e) for e in events] == [Invited, Answered, Acked]
    invited = events[0]
    assert isinstance(invited, Invited)
    b.hangup(invited.session, 0.0)
    bye = b.next_send()
    assert bye is not None
    assert bye.flow.connection == 3, "the connection of the call is used again"
    a.receive_stream(7, bye.data, 0.0)
    settle()
    assert {type(e) for e in events[3:]} == {Ended}
    assert session not in a.core.sessions


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Contact: <sip:gateway@192.0.2.1:5060>", b"Contact: <mailto:a@b>"),
        (b"Max-Forwards", b"Record-Route: <tel:1>\r\nMax-Forwards"),
        (b"Session-Expires: 1800", b"Session-Expires: soon"),
        (b"Contact: <sip:gateway@192.0.2.1:5060>", b"Contact: nonsense"),
    ],
)
def test_a_dialog_that_could_not_be_answered_is_not_begun(old: bytes, new: bytes) -> None:
    a, b, network = pair()
    a.agent.invite("sip:bob@192.0.2.2", SDP, network.now)
    data = sent_now(a)
    assert old in data
    b.agent.receive_datagram(
        data.replace(old, new), ("192.0.2.1", 5060), ("", 0), "udp", network.now
    )
    assert sent_now(b).startswith(b"SIP/2.0 400")
    assert b.agent.next_event() is None
    clean(b)


def test_an_answer_without_a_usable_contact_fails_the_call() -> None:
    agent = SipAgent(SipConfig(host="192.0.2.1"), admit_all)
    agent.invite("sip:x@192.0.2.9", SDP, 0.0)
    invite = parse_datagram(s.data if (s := agent.next_send()) else b"")
    assert isinstance(invite, Request)
    data = agent.core.response(invite, 200, [("Contact", "<tel:1>")], to_tag="t")
    agent.receive_datagram(data, ("192.0.2.9", 5060), ("", 0), "udp", 0.1)
    event = agent.next_event()
    assert isinstance(event, Ended)
    assert event.how is How.FAILED


def test_headers_of_a_session_are_kept() -> None:
    a, _, network = pair()
    session = call(a, network)
    a.agent.keep_headers(session, [("Session-ID", "ab;remote=cd")])
    a.agent.dtmf(session, "1", network.now)
    a.agent.hangup(session, network.now)
    network.run(1)
    for start in (b"INFO", b"BYE"):
        assert b"Session-ID: ab;remote=cd\r\n" in sent(a, start)[0]
