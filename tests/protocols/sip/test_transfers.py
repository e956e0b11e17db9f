"""Calls that are handed on: REFER (RFC 3515) and Replaces (RFC 3891)."""

from __future__ import annotations

from gateway.protocols.sip.events import (
    Ended,
    Event,
    How,
    Invited,
    ReferProgress,
    Referred,
)

from .calling import call, clean, one, pair, picks_up
from .network import SDP, Network, Phone


def test_blind_transfer_is_reported() -> None:
    def transferee(phone: Phone, event: Event, now: float) -> None:
        picks_up(phone, event, now)
        if isinstance(event, Referred):
            token = phone.agent.accept_refer(event.request, now)
            assert token is not None
            phone.agent.notify_refer(token, 180, now)
            phone.agent.notify_refer(token, 200, now)

    a, b, network = pair(transferee)
    session = call(a, network)
    token = a.agent.refer(session, "sip:carol@192.0.2.3", network.now)
    network.run(1)
    referred = one(b, Referred)
    assert referred.target.uri.user == "carol"
    news = [(e.token, e.status, e.final) for e in a.events if isinstance(e, ReferProgress)]
    assert news == [(token, 100, False), (token, 180, False), (token, 200, True)]
    a.agent.hangup(session, network.now)
    network.run(64)
    clean(a, b)


def test_transfer_refused() -> None:
    def refuses(phone: Phone, event: Event, now: float) -> None:
        picks_up(phone, event, now)
        if isinstance(event, Referred):
            phone.agent.respond(event.request, 603, now)

    a, _, network = pair(refuses)
    session = call(a, network)
    a.agent.refer(session, "sip:carol@192.0.2.3", network.now)
    network.run(1)
    news = one(a, ReferProgress)
    assert (news.status, news.refused) == (603, True)


def test_attended_transfer_replaces_the_call() -> None:
    a, b, c = (Phone(f"192.0.2.{n}", handler=picks_up) for n in (1, 2, 3))
    network = Network(a, b, c)
    first = a.agent.invite("sip:bob@192.0.2.2", SDP, network.now)
    second = a.agent.invite("sip:carol@192.0.2.3", SDP, network.now)
    network.run(1)
    a.agent.refer(first, "sip:carol@192.0.2.3", network.now, replaces=second)
    network.run(1)
    referred = one(b, Referred)
    assert referred.replaces
    b.agent.accept_refer(referred.request, network.now)
    third = b.agent.invite(
        "sip:carol@192.0.2.3", SDP, network.now, headers=[("Replaces", referred.replaces)]
    )
    network.run(1)
    invited = [e for e in c.events if isinstance(e, Invited)]
    assert invited[1].replaces == invited[0].session
    assert one(c, Ended).how is How.REPLACED
    assert one(a, Ended).session == second
    assert third in b.agent.core.sessions


def test_replaces_of_an_unknown_call() -> None:
    a, b, network = pair()
    a.agent.invite(
        "sip:bob@192.0.2.2",
        SDP,
        network.now,
        headers=[("Replaces", "nothing;to-tag=1;from-tag=2")],
    )
    network.run(1)
    assert one(a, Ended).status == 481
    assert not b.events
