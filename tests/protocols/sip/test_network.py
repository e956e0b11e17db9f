"""Calls over a network that loses, repeats and reorders: each completes exactly once."""

from __future__ import annotations

import pytest

from gateway.protocols.sip.events import Acked, Answered, Ended, Event, How, Invited

from .network import SDP, Network, Phone

N_CALLS = 60


def picks_up(phone: Phone, event: Event, now: float) -> None:
    if isinstance(event, Invited):
        phone.agent.ring(event.session, now)
        phone.agent.answer(event.session, SDP, now)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("loss", "duplicate", "jitter"), [(0.05, 0.02, 0.04), (0.1, 0.05, 0.3), (0.1, 0.1, 1.5)]
)
def test_calls_complete_exactly_once(
    loss: float, duplicate: float, jitter: float, seed: int
) -> None:
    a, b = Phone("192.0.2.1"), Phone("192.0.2.2", handler=picks_up)

    def hangs_up(phone: Phone, event: Event, now: float) -> None:
        if isinstance(event, Answered):
            phone.agent.core.timers.start(
                now + 12.0, lambda at: phone.agent.hangup(event.session, at)
            )

    a.handler = hangs_up
    network = Network(a, b, seed=seed, loss=loss, duplicate=duplicate, delay=0.04, jitter=jitter)
    sessions = set()
    for _ in range(N_CALLS):
        sessions.add(a.agent.invite("sip:bob@192.0.2.2", SDP, network.now))
        network.run(0.05)
    network.run(300)
    answered = [e.session for e in a.events if isinstance(e, Answered)]
    ended = [e for e in a.events if isinstance(e, Ended)]
    assert sorted(answered) == sorted(sessions)
    assert sorted(e.session for e in ended) == sorted(sessions)
    assert {e.how for e in ended} == {How.LOCAL}
    assert len(b.of(Invited)) == len(b.of(Acked)) == len(b.of(Ended)) == N_CALLS
    assert {e.how for e in b.of(Ended) if isinstance(e, Ended)} == {How.BYE}
    for phone in (a, b):
        core = phone.agent.core
        assert not core.sessions
        assert not core.dialogs
        assert not core.clients
        assert not core.servers
        assert len(core.timers) == 0


def test_no_message_is_sent_more_than_seven_times_after_a_suspension() -> None:
    """A process that was stopped does not repeat what it missed: no retransmission storm."""
    a = Phone("192.0.2.1")
    network = Network(a)
    network.lose = lambda data: True
    a.agent.invite("sip:bob@192.0.2.2", SDP, network.now)
    network.run(0.6)
    before = len(a.sent)
    network.now += 20.0
    a.agent.tick(network.now)
    network.pump()
    assert len(a.sent) == before + 1
