"""Registration, messages, subscriptions and the door, between two agents."""

from __future__ import annotations

from typing import TypeVar

import pytest

from gateway.errors import UsageError
from gateway.protocols.sip.agent import SipAgent, SipConfig
from gateway.protocols.sip.auth import Authenticated, Credentials, DigestServer, ha1
from gateway.protocols.sip.events import (
    Ended,
    Event,
    Notified,
    Registered,
    RegistrationFailed,
    RequestReceived,
    ResponseReceived,
    Subscribed,
    SubscriptionEnded,
    Unregistered,
)
from gateway.protocols.sip.gate import Admit, Drop, Refuse, Verdict, admit_all
from gateway.protocols.sip.message import (
    Request,
    encode,
    parse_datagram,
    response_headers,
    status_line,
)
from gateway.protocols.sip.registrar import Registrar, one_flow_each
from gateway.protocols.sip.transaction import Flow

from .network import Network, Phone

E = TypeVar("E", bound=Event)
AOR = "sip:bob@pbx.test"


def of(phone: Phone, kind: type[E]) -> list[E]:
    return [e for e in phone.events if isinstance(e, kind)]


class Server(Phone):
    """Registers who knows the password, and answers other requests 200."""

    def __init__(self) -> None:
        self.registrar = Registrar(min_expires=60)
        self.digest = DigestServer("pbx.test", self.lookup, nonce_lifetime=100.0)
        super().__init__(
            "192.0.2.2", gate=self.gate, handler=lambda phone, event, now: self.handle(event, now)
        )

    @staticmethod
    def lookup(user: str, realm: str, algorithm: str) -> str | None:
        return ha1(algorithm, user, realm, "secret") if user == "bob" else None

    def gate(self, request: Request, flow: Flow, now: float) -> Verdict:
        if request.method == "PUBLISH":
            return Drop()
        if request.method != "REGISTER":
            return Admit("anyone")
        found = self.digest.check(request, now)
        if isinstance(found, Authenticated):
            return Admit(found.username)
        return Refuse(found.status, found.headers)

    def handle(self, event: Event, now: float) -> None:
        if not isinstance(event, RequestReceived):
            return
        if event.message.method == "REGISTER":
            status, headers = self.registrar.process(event.message, event.flow, now)
            self.agent.respond(event.request, status, now, headers=headers)
        elif event.message.method == "SUBSCRIBE":
            token = self.agent.accept_subscription(event.request, 600, now)
            self.agent.notify(token, "text/plain", b"first", now)
        else:
            self.agent.respond(event.request, 200, now)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def client() -> Phone:
    return Phone("192.0.2.1")


def register(client: Phone, network: Network, expires: int = 600) -> int:
    return client.agent.register(
        "sip:192.0.2.2",
        AOR,
        network.now,
        credentials=Credentials("bob", "secret"),
        expires=expires,
        contact_user="bob",
    )


def test_registration_lives_and_ends(server: Server, client: Phone) -> None:
    network = Network(client, server)
    token = register(client, network)
    network.run(1)
    (done,) = of(client, Registered)
    assert (done.token, done.expires) == (token, 600)
    (binding,) = server.registrar.lookup(AOR, network.now)
    assert binding.contact == "sip:bob@192.0.2.1:5060"
    network.run(3000)
    assert len(of(client, Registered)) == 7, "refreshed each 480 s, over stale nonces"
    assert not of(client, RegistrationFailed)
    assert len(server.registrar.lookup(AOR, network.now)) == 1
    client.agent.unregister(token, network.now)
    network.run(64)
    assert of(client, Unregistered)
    assert not server.registrar.lookup(AOR, network.now)
    assert len(client.agent.core.timers) == 0
    with pytest.raises(UsageError):
        client.agent.unregister(token, network.now)


def test_a_contact_that_is_gone_shortens_nothing(client: Phone) -> None:
    """A border that writes Contacts anew may list what it has removed: each second a REGISTER."""

    def take(phone: Phone, event: Event, now: float) -> None:
        assert isinstance(event, RequestReceived)
        shown = ("Contact", "<sip:gw@192.0.2.9:1024>, <sip:old@192.0.2.9:1025>;expires=0")
        phone.agent.respond(event.request, 200, now, headers=[shown, ("Expires", "300")])

    network = Network(client, Phone("192.0.2.2", handler=take))
    register(client, network)
    network.run(200)
    assert [event.expires for event in of(client, Registered)] == [300]


def test_interval_too_brief_is_raised(server: Server, client: Phone) -> None:
    network = Network(client, server)
    register(client, network, expires=30)
    network.run(1)
    assert of(client, Registered)[0].expires == 60


def test_registrar_out_of_reach_and_back(server: Server, client: Phone) -> None:
    network = Network(client, server)
    network.lose = lambda data: True
    register(client, network)
    network.run(300)
    waits = [e.retry_in for e in of(client, RegistrationFailed)]
    assert len(waits) >= 3
    assert all(w is not None and w > 20 for w in waits)
    network.lose = lambda data: False
    network.run(400)
    assert of(client, Registered)


def test_registrar_rules() -> None:
    registrar = Registrar(max_contacts=2)
    flow = Flow("udp", "192.0.2.1", 5060)

    def put(contacts: list[str], cseq: int, expires: str = "100", call: str = "c") -> int:
        headers = {
            "to": [f"<{AOR}>"],
            "call-id": [call],
            "cseq": [f"{cseq} REGISTER"],
            "expires": [expires],
        }
        if contacts:
            headers["contact"] = contacts
        return registrar.process(Request("REGISTER", "sip:pbx.test", headers), flow, 0.0)[0]

    assert put(["<sip:a@h>;q=0.5, <sip:b@h>"], 1) == 200
    assert [b.contact for b in registrar.lookup(AOR, 0.0)] == ["sip:b@h", "sip:a@h"]
    assert put(["<sip:a@h>;expires=0"], 1) == 500, "a copy that comes late"
    assert put(["<sip:c@h>"], 2) == 403, "too many, and nothing is changed"
    assert len(registrar.lookup(AOR, 0.0)) == 2
    assert put(["<sip:a@h>;expires=0"], 3) == 200
    assert put(["*"], 4) == 400
    assert put(["*"], 4, "0") == 200
    assert not registrar.lookup(AOR, 0.0)
    assert put(["<sip:a@h>;expires=20"], 5) == 423
    assert put(["<sip:a@h>"], 6) == 200
    assert not registrar.lookup(AOR, 101.0)
    assert registrar.expire(101.0) == [AOR]


def test_flows_of_a_phone_replace_each_other() -> None:
    """RFC 5626: instance and reg-id say which binding it is, whatever the address."""
    registrar = Registrar(flow_timer=25)
    flow = Flow("tcp", "192.0.2.1", 40000, 7)

    def put(contact: str, cseq: int, call: str, *lines: tuple[str, str]) -> list[tuple[str, str]]:
        headers = {
            "via": ["SIP/2.0/TCP 192.0.2.1;branch=z9hG4bKa"], "to": [f"<{AOR}>"],
            "call-id": [call], "cseq": [f"{cseq} REGISTER"], "expires": ["100"],
            "contact": [contact], "supported": ["path, outbound"], **{n: [v] for n, v in lines},
        }  # fmt: skip
        status, found = registrar.process(Request("REGISTER", "sip:h", headers), flow, float(cseq))
        assert status == 200
        return found

    me = ';+sip.instance="<urn:uuid:1>"'
    said = put(f"<sip:a@192.0.2.1:1>{me};reg-id=1", 1, "c")
    assert ("Require", "outbound") in said
    assert ("Flow-Timer", "25") in said
    put(f"<sip:a@192.0.2.1:2>{me};reg-id=1", 2, "other")
    assert [b.contact for b in registrar.lookup(AOR, 3.0)] == ["sip:a@192.0.2.1:2"]
    put(f"<sip:a@192.0.2.1:3>{me};reg-id=2", 3, "c")
    put("<sip:b@192.0.2.9>", 4, "d")
    both = registrar.lookup(AOR, 5.0)
    assert len(both) == 3
    # Called over one flow, the latest; the other phone rings as well.
    assert [b.contact for b in one_flow_each(both)] == ["sip:a@192.0.2.1:3", "sip:b@192.0.2.9"]
    # A proxy that adds no Path owns the flow, so it says nothing about the phone.
    via = ("via", "SIP/2.0/TCP p;branch=z9hG4bKb, SIP/2.0/TCP 192.0.2.1;branch=z9hG4bKa")
    assert ("Require", "outbound") not in put(f"<sip:a@192.0.2.1:4>{me};reg-id=1", 5, "e", via)


def test_message_and_options(server: Server, client: Phone) -> None:
    network = Network(client, server)
    a = client.agent.message("sip:x@192.0.2.2", "Grüße", network.now)
    b = client.agent.options("sip:x@192.0.2.2", network.now)
    network.run(64)
    found = {e.token: e.response.status for e in of(client, ResponseReceived)}
    assert found == {a: 200, b: 200}
    (received,) = of(server, RequestReceived)
    assert received.message.body.decode() == "Grüße"
    assert received.identity == "anyone"
    assert not server.agent.core.servers
    with pytest.raises(UsageError):
        server.agent.respond(received.request, 200, network.now)


def test_request_without_answer_times_out(client: Phone) -> None:
    network = Network(client)
    client.agent.options("sip:x@192.0.2.2", network.now)
    network.run(33)
    (event,) = of(client, ResponseReceived)
    assert (event.response.status, event.response.synthetic) == (408, True)
    times = [round(t - 1000, 3) for t, *_ in network.log]
    assert times == [0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5], "timer E"


def test_owner_that_never_answers(client: Phone) -> None:
    silent = Phone("192.0.2.2")
    network = Network(client, silent)
    client.agent.message("sip:x@192.0.2.2", "hello", network.now)
    network.run(70)
    assert len(of(silent, RequestReceived)) == 1
    assert not silent.agent.core.pending
    assert not silent.agent.core.servers
    assert silent.agent.counters["unanswered"] == 1


def test_subscription(server: Server, client: Phone) -> None:
    network = Network(client, server)
    token = client.agent.subscribe("sip:x@192.0.2.2", "presence", network.now, expires=600)
    network.run(1)
    (first,) = of(client, Notified)
    assert (first.token, first.state, first.body) == (token, "active", b"first")
    network.run(1000)
    (refresh, *_) = of(server, Subscribed)
    server.agent.notify(refresh.token, "text/plain", b"second", network.now)
    network.run(1)
    assert of(client, Notified)[-1].body == b"second"
    client.agent.unsubscribe(token, network.now)
    network.run(64)
    assert len(of(client, SubscriptionEnded)) == len(of(server, SubscriptionEnded)) == 1
    for phone in (client, server):
        assert not phone.agent.core.dialogs
        assert not phone.agent.core.subscriptions
        assert len(phone.agent.core.timers) == 0


def test_subscription_refused(client: Phone) -> None:
    def refuses(phone: Phone, event: Event, now: float) -> None:
        if isinstance(event, RequestReceived):
            phone.agent.respond(event.request, 489, now)

    other = Phone("192.0.2.2", handler=refuses)
    network = Network(client, other)
    client.agent.subscribe("sip:x@192.0.2.2", "nonsense", network.now)
    network.run(1)
    assert of(client, SubscriptionEnded)[0].status == 489


def reply_to(server: Server, text: str) -> str:
    head = (
        f"{text} SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.9;branch=z9hG4bK{len(text)}\r\n"
        "From: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\nCall-ID: x\r\n"
        f"CSeq: 1 {text.split()[0]}\r\n"
    )
    server.agent.receive_datagram(head.encode() + b"\r\n", ("192.0.2.9", 5060), ("", 0), "udp", 0.0)
    send = server.agent.next_send()
    return send.data.decode().split("\r\n")[0] if send else ""


def test_the_door(server: Server) -> None:
    assert reply_to(server, "PUBLISH sip:x@y") == ""
    assert server.agent.counters["dropped"] == 1
    assert reply_to(server, "REGISTER sip:x@y").startswith("SIP/2.0 401")
    assert not server.agent.core.servers, "challenges keep no state"
    assert reply_to(server, "BYE sip:x@y").startswith("SIP/2.0 481")
    assert reply_to(server, "NEWMETHOD sip:x@y").startswith("SIP/2.0 501")
    assert reply_to(server, "OPTIONS mailto:x@y").startswith("SIP/2.0 416")
    assert reply_to(server, "CANCEL sip:x@y").startswith("SIP/2.0 481")


def test_405_names_what_is_served() -> None:
    phone = Phone("192.0.2.2", methods=("INVITE", "ACK", "CANCEL", "BYE"))
    network = Network(phone)
    text = (
        b"MESSAGE sip:x@y SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.9;branch=z9hG4bKq\r\n"
        b"From: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\nCall-ID: x\r\nCSeq: 1 MESSAGE\r\n\r\n"
    )
    phone.agent.receive_datagram(text, ("192.0.2.9", 5060), ("", 0), "udp", network.now)
    network.pump()
    response = parse_datagram(phone.sent[0])
    assert phone.sent[0].startswith(b"SIP/2.0 405")
    assert response.tokens("allow") == ["INVITE", "ACK", "CANCEL", "BYE"]


@pytest.mark.parametrize("status", [200, 486])
def test_responses_over_a_stream_are_told(status: int) -> None:
    agent = SipAgent(SipConfig(host="192.0.2.1"), admit_all)
    agent.connection_made(7, ("192.0.2.9", 5060), ("192.0.2.1", 40000), "tcp", 0.0)
    flow = Flow("tcp", "192.0.2.9", 5060, 7, ("192.0.2.1", 40000))
    token = agent.options("sip:192.0.2.9", 0.0, flow=flow)
    session = agent.invite("sip:bob@192.0.2.9", b"", 0.0, flow=flow)
    while send := agent.next_send():
        if send.data.startswith(b"ACK"):
            continue
        request = parse_datagram(send.data)
        lines = response_headers(request, "t")
        kind = status if request.cseq.method == "OPTIONS" else 486
        agent.receive_stream(7, encode(status_line(kind), lines), 0.1)
    told, ended = agent.next_event(), agent.next_event()
    assert isinstance(told, ResponseReceived)
    assert (told.token, told.response.status) == (token, status)
    assert isinstance(ended, Ended)
    assert (ended.session, ended.status) == (session, 486)
    assert not agent.core.clients
