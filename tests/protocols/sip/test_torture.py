"""RFC 4475 and RFC 5118: what the agent answers to each torture message."""

from __future__ import annotations

import re
from typing import Any

import pytest

from gateway.protocols.sip.agent import SipAgent, SipConfig
from gateway.protocols.sip.events import CloseConnection, Invited, RequestReceived
from gateway.protocols.sip.gate import admit_all
from gateway.protocols.sip.message import StreamFramer
from gateway.protocols.sip.registrar import Registrar

from .corpora import expected, octets
from .network import SDP

CASES = [(c, n) for c in ("rfc4475", "rfc5118") for n in sorted(expected(c))]
if not CASES:
    absent = pytest.mark.skip("corpora are not here")
    CASES = [pytest.param("", "", marks=absent)]  # type: ignore[list-item]
FRAMING = ("ncl", "mcl01", "clerr")
"""Over a stream these break the framing: closing is the answer."""


class Server:
    """An agent that answers calls and registers everybody."""

    def __init__(self) -> None:
        self.agent = SipAgent(SipConfig(host="192.0.2.200"), admit_all)
        self.registrar = Registrar()
        self.sent: list[tuple[bytes, str, int]] = []
        self.closed = False
        self.invited = 0

    def drain(self) -> None:
        while (event := self.agent.next_event()) is not None:
            match event:
                case Invited():
                    self.invited += 1
                    self.agent.ring(event.session, 0.0)
                    self.agent.answer(event.session, SDP, 0.0)
                case RequestReceived() if event.message.method == "REGISTER":
                    status, headers = self.registrar.process(event.message, event.flow, 0.0)
                    self.agent.respond(event.request, status, 0.0, headers=headers)
                case RequestReceived():
                    self.agent.respond(event.request, 200, 0.0)
                case CloseConnection():
                    self.closed = True
        while (send := self.agent.next_send()) is not None:
            self.sent.append((send.data, send.flow.host, send.flow.port))

    def codes(self) -> list[int]:
        found = [re.match(rb"SIP/2\.0 (\d{3})", data) for data, _, _ in self.sent]
        assert all(found), "nothing but responses is sent"
        return [int(m[1]) for m in found if m]


def judge(name: str, case: dict[str, Any], codes: list[int], closed: bool) -> None:
    final = [code for code in codes if code >= 200] or codes
    if case["kind"] == "response" or case["verdict"] == "drop":
        assert not codes
        return
    if closed and not codes and name in FRAMING:
        return
    if not final:
        assert "silent drop" in case["also"] or (closed and name in FRAMING)
        return
    assert not set(final) & {code for code in case["never"] if isinstance(code, int)}
    wanted = set(case["codes"]) | {code for code in case["also"] if isinstance(code, int)}
    if wanted:
        assert set(final) & wanted, (codes, wanted)
    else:
        assert 400 not in final


@pytest.mark.parametrize(("corpus", "name"), CASES)
def test_udp(corpus: str, name: str) -> None:
    server, case = Server(), expected(corpus)[name]
    server.agent.receive_datagram(
        octets(corpus, name), ("192.0.2.77", 5060), ("192.0.2.200", 5060), "udp", 0.0
    )
    server.drain()
    judge(name, case, server.codes(), False)
    for data, host, port in server.sent:
        assert host == "192.0.2.77", "replies go to the source, whatever the message says"
        assert port == (5060 if case["has_rport"] else case["reply_port"])
        assert b"received=[" not in data.split(b"\r\n")[1]


@pytest.mark.parametrize(("corpus", "name"), CASES)
def test_stream(corpus: str, name: str) -> None:
    server, case = Server(), expected(corpus)[name]
    server.agent.connection_made(1, ("192.0.2.77", 5060), ("192.0.2.200", 5060), "tcp", 0.0)
    for octet in octets(corpus, name):
        server.agent.receive_stream(1, bytes([octet]), 0.0)
        server.drain()
    if name in ("clerr", "baddn"):
        # Content-Length beyond the end; a file without the empty line: no stream can know.
        assert not server.codes()
        server.agent.tick(21.0)
        server.drain()
        assert server.closed, "a message that never completes closes the stream"
        return
    judge(name, case, server.codes(), server.closed)


@pytest.mark.skipif(not expected("rfc4475"), reason="corpora are not here")
class TestDetails:
    """What expected.json says in words."""

    def answer(self, name: str) -> tuple[Server, bytes]:
        server = Server()
        server.agent.receive_datagram(
            octets("rfc4475", name), ("192.0.2.77", 5060), ("192.0.2.200", 5060), "udp", 0.0
        )
        server.drain()
        return server, server.sent[-1][0]

    def test_unsupported_lists_require_only(self) -> None:
        _, data = self.answer("bext01")
        assert b"Unsupported: nothingSupportsThis, nothingSupportsThisEither\r\n" in data

    def test_allow_and_nul_in_quotes(self) -> None:
        _, data = self.answer("intmeth")
        assert b"\r\nAllow: " in data
        assert b'To: "BEL:\\\x07 NUL:\\\x00 DEL:\\\x7f" <sip:1_unusual' in data

    def test_all_vias_are_echoed(self) -> None:
        _, data = self.answer("longreq")
        assert len(re.findall(rb"(?m)^Via: ", data)) == 34
        _, data = self.answer("transports")
        assert b"SIP/2.0/UNKNOWN t4.example.com" in data

    def test_one_transaction_for_two_requests_in_a_datagram(self) -> None:
        server, _ = self.answer("dblreq")
        assert len(server.sent) == 1
        assert server.invited == 0

    def test_two_contacts_that_differ_in_nuls(self) -> None:
        _, data = self.answer("escnull")
        assert data.count(b"Contact: <sip:%00") == 2

    def test_contact_parameters_stay_where_they_were(self) -> None:
        _, data = self.answer("cparam01")
        assert b"Contact: <sip:+19725552222@gw1.example.net>;unknownparam;expires=" in data
        _, data = self.answer("cparam02")
        assert b"Contact: <sip:+19725552222@gw1.example.net;unknownparam>;expires=" in data
        _, data = self.answer("regescrt")
        assert b"<sip:user@example.com?Route=%3Csip:sip.example.com%3E>" in data

    def test_415_says_what_is_accepted(self) -> None:
        _, data = self.answer("invut")
        assert b"\r\nAccept: application/sdp\r\n" in data

    def test_names_are_read_through_white_space(self) -> None:
        framer = StreamFramer()
        (message,) = framer.feed(octets("rfc4475", "wsinv"))
        assert message.to.tag == "1918181833n"
        assert message.from_.display == 'J Rosenberg \\"'
        assert message.number("max-forwards") == 68
        assert message.cseq.number == 9
        assert len(message.values("via")) == 3
        assert message.via.branch == "390skdjuw"
        assert message.addresses("contact")[0].params["q"] == "0.33"
        assert message.get("unknownheaderwithunusualvalue") == ";;,,;;,;"

    def test_escapes_are_undone_once(self) -> None:
        framer = StreamFramer()
        (message,) = framer.feed(octets("rfc4475", "esc01"))
        assert message.uri.user == "sips:user@example.com"  # type: ignore[union-attr]
        contact = message.addresses("contact")[0].uri
        assert contact.params == {"lr": "", "name": "value%41"}
