"""A call that changes: offers in every place, hold, glare, UPDATE, 100rel, session timers."""

from __future__ import annotations

from gateway.protocols.sip.events import (
    Acked,
    Answered,
    Ended,
    Event,
    How,
    Invited,
    Progress,
    ReofferAnswered,
    ReofferFailed,
    ReofferReceived,
)

from .calling import OTHER, call, clean, count, one, pair, picks_up, sent
from .network import SDP, Network, Phone


def holds(phone: Phone, event: Event, now: float) -> None:
    picks_up(phone, event, now)
    if isinstance(event, ReofferReceived):
        phone.agent.answer_offer(event.session, OTHER, now)


def test_hold_by_reinvite() -> None:
    a, b, network = pair(holds)
    session = call(a, network)
    hold = SDP + b"a=sendonly\r\n"
    a.agent.reoffer(session, hold, network.now)
    network.run(1)
    assert one(b, ReofferReceived).offer == hold
    assert one(a, ReofferAnswered).body == OTHER
    a.agent.reoffer(session, b"", network.now)
    network.run(1)
    answered = a.of(ReofferAnswered)[-1]
    assert isinstance(answered, ReofferAnswered)
    assert answered.answer_needed
    a.agent.answer_offer(session, SDP, network.now)
    network.run(1)
    assert one(b, ReofferAnswered).body == SDP
    a.agent.hangup(session, network.now)
    network.run(64)
    clean(a, b)


def test_reinvite_refused_leaves_the_call() -> None:
    def refuses(phone: Phone, event: Event, now: float) -> None:
        picks_up(phone, event, now)
        if isinstance(event, ReofferReceived):
            phone.agent.reject_offer(event.session, 488, now)

    a, b, network = pair(refuses)
    session = call(a, network)
    a.agent.reoffer(session, OTHER, network.now)
    network.run(1)
    assert one(a, ReofferFailed).status == 488
    a.agent.hangup(session, network.now)
    network.run(64)
    assert one(b, Ended).how is How.BYE
    clean(a, b)


def test_a_change_that_comes_too_early_is_asked_for_again() -> None:
    """RFC 3261 section 14.2: 500 with Retry-After, from a peer that is not done with the last."""
    answers = [
        lambda phone, session, now: phone.agent.reject_offer(
            session, 500, now, headers=[("Retry-After", "0")]
        ),
        lambda phone, session, now: phone.agent.answer_offer(session, OTHER, now),
    ]

    def busy(phone: Phone, event: Event, now: float) -> None:
        picks_up(phone, event, now)
        if isinstance(event, ReofferReceived):
            answers.pop(0)(phone, event.session, now)

    a, b, network = pair(busy)
    session = call(a, network)
    a.agent.reoffer(session, OTHER, network.now)
    network.run(0.5)
    assert len(answers) == 1  # not at once, whatever it says
    network.run(1)
    assert not answers
    assert not count(a, ReofferFailed)
    assert one(a, ReofferAnswered).body == OTHER
    a.agent.hangup(session, network.now)
    network.run(64)
    clean(a, b)


def test_glare_resolves() -> None:
    def both(phone: Phone, event: Event, now: float) -> None:
        holds(phone, event, now)

    a, b, network = pair(both)
    a.handler = both
    session = call(a, network)
    a.agent.reoffer(session, SDP + b"a=sendonly\r\n", network.now)
    b.agent.reoffer(one(b, Invited).session, SDP + b"a=inactive\r\n", network.now)
    network.run(10)
    assert sent(a, b"SIP/2.0 491")
    assert sent(b, b"SIP/2.0 491")
    assert count(a, ReofferAnswered) == count(b, ReofferAnswered) == 1
    assert not count(a, ReofferFailed)
    a.agent.hangup(session, network.now)
    network.run(64)
    clean(a, b)


def test_what_is_asked_for_after_glare_replaces_what_waited() -> None:
    """A hold that crossed the peer's change must not come after the end of the hold."""
    a, b, network = pair(holds)
    a.handler = holds
    session = call(a, network)
    a.agent.reoffer(session, SDP + b"a=sendonly\r\n", network.now)
    b.agent.reoffer(one(b, Invited).session, SDP + b"a=inactive\r\n", network.now)
    network.run(0.1)
    assert sent(a, b"SIP/2.0 491")
    assert sent(b, b"SIP/2.0 491")
    back = SDP + b"a=sendrecv\r\n"
    a.agent.reoffer(session, back, network.now)
    network.run(20)
    assert [e.offer for e in b.of(ReofferReceived) if isinstance(e, ReofferReceived)] == [back]
    a.agent.hangup(session, network.now)
    network.run(64)
    clean(a, b)


def test_a_change_left_unanswered_is_refused() -> None:
    a, b, network = pair()
    session = call(a, network)
    a.agent.reoffer(session, OTHER, network.now)
    network.run(40)
    assert one(a, ReofferFailed).status == 500
    assert b.agent.counters["unanswered"] == 1
    assert session in a.agent.core.sessions


def test_reliable_early_media() -> None:
    def early(phone: Phone, event: Event, now: float) -> None:
        if isinstance(event, Invited):
            phone.agent.ring(event.session, now, 183, SDP)
            phone.agent.ring(event.session, now, 180, reliable=True)
            phone.agent.answer(event.session, b"", now)

    a, b, network = pair(early)
    lost = 2

    def lose(data: bytes) -> bool:
        nonlocal lost
        if data.startswith(b"SIP/2.0 183") and lost:
            lost -= 1
            return True
        return False

    network.lose = lose
    call(a, network, seconds=10)
    assert [e.status for e in a.of(Progress) if isinstance(e, Progress)] == [183]
    assert len(sent(a, b"PRACK")) == 1
    assert len(sent(b, b"SIP/2.0 183")) == 3
    assert one(a, Answered).body is None, "the answer was in the 183"
    assert count(b, Acked) == 1


def test_reliable_response_never_acknowledged() -> None:
    def early(phone: Phone, event: Event, now: float) -> None:
        if isinstance(event, Invited):
            phone.agent.ring(event.session, now, 183, SDP)

    a, b, network = pair(early)
    network.lose = lambda data: data.startswith(b"PRACK")
    call(a, network, seconds=100)
    assert one(b, Ended).how is How.NO_ACK
    ended = one(a, Ended)
    assert (ended.how, ended.status) == (How.REJECTED, 504)
    clean(a, b)


def test_offer_in_a_reliable_response() -> None:
    def early(phone: Phone, event: Event, now: float) -> None:
        if isinstance(event, Invited):
            phone.agent.ring(event.session, now, 183, SDP)

    a, b, network = pair(early)
    session = call(a, network, body=b"")
    assert one(a, Progress).answer_needed
    a.agent.answer_offer(session, OTHER, network.now)
    network.run(1)
    assert one(b, ReofferAnswered).body == OTHER
    b.agent.answer(one(b, Invited).session, b"", network.now)
    network.run(1)
    assert not one(a, Answered).answer_needed
    a.agent.hangup(session, network.now)
    network.run(64)
    clean(a, b)


def test_update_before_the_answer() -> None:
    def early(phone: Phone, event: Event, now: float) -> None:
        if isinstance(event, Invited):
            phone.agent.ring(event.session, now, 183, SDP)
        if isinstance(event, ReofferReceived):
            phone.agent.answer_offer(event.session, SDP, now)

    a, b, network = pair(early)
    session = call(a, network)
    a.agent.reoffer(session, OTHER, network.now)
    network.run(1)
    assert one(b, ReofferReceived).method == "UPDATE"
    assert one(a, ReofferAnswered).body == SDP
    a.agent.hangup(session, network.now)
    network.run(64)
    clean(a, b)


def test_session_timer_refreshes() -> None:
    a, b, network = pair(session_expires=100, min_se=90)
    call(a, network)
    network.run(1000)
    assert len(a.agent.core.sessions) == len(b.agent.core.sessions) == 1
    assert len(sent(a, b"UPDATE")) in (19, 20)
    assert not sent(b, b"UPDATE")
    assert not count(a, ReofferAnswered)


def test_session_timer_ends_the_call_of_a_dead_peer() -> None:
    a, b, network = pair(session_expires=100, min_se=90)
    call(a, network)
    network.lose = lambda data: True
    network.run(150)
    assert one(a, Ended).how in (How.EXPIRED, How.GONE)
    ended = one(b, Ended)
    assert ended.how is How.EXPIRED
    network.run(64)
    clean(a, b)


def test_interval_too_small_is_raised() -> None:
    a = Phone("192.0.2.1", session_expires=90)
    b = Phone("192.0.2.2", handler=picks_up, min_se=300)
    network = Network(a, b)
    call(a, network)
    assert len(sent(b, b"SIP/2.0 422")) == 1
    assert b"Session-Expires: 300" in sent(a, b"INVITE")[-1]
    assert count(a, Answered) == 1


def test_update_before_the_first_answer_is_refused() -> None:
    def early(phone: Phone, event: Event, now: float) -> None:
        if isinstance(event, Invited):
            phone.agent.ring(event.session, now, reliable=True)

    a, _, network = pair(early)
    session = call(a, network)
    # Our own agent does not offer while its offer is open; a peer may.
    a.agent.core.sessions[session].offering = False
    a.agent.reoffer(session, OTHER, network.now)
    network.run(1)
    assert one(a, ReofferFailed).status == 500
