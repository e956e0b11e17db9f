"""Requests that do not fit into a datagram (RFC 3261 section 18.1.1)."""

from __future__ import annotations

from gateway.protocols.sip.agent import SipAgent
from gateway.protocols.sip.core import NO_STREAMS, Send, SipConfig
from gateway.protocols.sip.events import ResponseReceived
from gateway.protocols.sip.gate import admit_all
from gateway.protocols.sip.message import Request, parse_datagram
from gateway.protocols.sip.transaction import Flow

LARGE = "x" * 1400


def sent(agent: SipAgent) -> tuple[Send, Request]:
    send = agent.next_send()
    assert send is not None
    message = parse_datagram(send.data)
    assert isinstance(message, Request)
    return send, message


def test_large_requests_go_over_tcp_and_back_to_udp_where_there_is_none() -> None:
    agent = SipAgent(SipConfig(host="192.0.2.1"), admit_all)
    agent.message("sip:a@192.0.2.9", "short", 0.0)
    assert sent(agent)[0].flow.transport == "udp"
    token = agent.message("sip:a@192.0.2.9", LARGE, 0.0)
    send, request = sent(agent)
    assert send.flow == Flow("tcp", "192.0.2.9", 5060)
    assert request.via.transport == "tcp"
    agent.transport_failed(send.token, 1.0)
    send, request = sent(agent)
    assert send.flow.transport == request.via.transport == "udp"
    assert agent.next_event() is None
    # The next one does not knock again, until the host may have learnt TCP.
    agent.message("sip:a@192.0.2.9", LARGE, 2.0)
    assert sent(agent)[0].flow.transport == "udp"
    agent.message("sip:a@192.0.2.8", LARGE, 2.0)
    assert sent(agent)[0].flow.transport == "tcp"
    agent.message("sip:a@192.0.2.9", LARGE, 2.0 + NO_STREAMS)
    assert sent(agent)[0].flow.transport == "tcp"
    # And UDP failing too is the end.
    agent.transport_failed(send.token, 3.0)
    event = agent.next_event()
    assert isinstance(event, ResponseReceived)
    assert (event.token, event.response.status) == (token, 503)


def test_the_way_through_a_nat_is_kept() -> None:
    agent = SipAgent(SipConfig(host="192.0.2.1"), admit_all)
    heard = Flow("udp", "192.0.2.9", 40000, 0, ("192.0.2.1", 5060))
    agent.message("sip:a@10.0.0.1", LARGE, 0.0, flow=heard)
    assert sent(agent)[0].flow == heard
