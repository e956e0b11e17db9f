"""Two agents that call each other, and what was heard and left behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from gateway.protocols.sip.events import (
    Event,
    Invited,
)

from .network import SDP, Network, Phone

OTHER = SDP.replace(b"4000", b"5000")
E = TypeVar("E", bound=Event)


def one(phone: Phone, kind: type[E]) -> E:
    (event,) = [e for e in phone.events if isinstance(e, kind)]
    return event


def count(phone: Phone, kind: type[Event]) -> int:
    return len(phone.of(kind))


def sent(phone: Phone, start: bytes) -> list[bytes]:
    return [data for data in phone.sent if data.startswith(start)]


def picks_up(phone: Phone, event: Event, now: float) -> None:
    if isinstance(event, Invited):
        phone.agent.ring(event.session, now)
        phone.agent.answer(event.session, SDP, now)


def rings(phone: Phone, event: Event, now: float) -> None:
    if isinstance(event, Invited):
        phone.agent.ring(event.session, now)


def pair(
    handler: Callable[[Phone, Event, float], None] | None = picks_up, **config: Any
) -> tuple[Phone, Phone, Network]:
    a, b = Phone("192.0.2.1", **config), Phone("192.0.2.2", handler=handler, **config)
    return a, b, Network(a, b)


def call(a: Phone, network: Network, body: bytes = SDP, seconds: float = 1.0) -> int:
    session = a.agent.invite("sip:bob@192.0.2.2", body, network.now)
    network.run(seconds)
    return session


def clean(*phones: Phone) -> None:
    """Nothing is left behind."""
    for phone in phones:
        core = phone.agent.core
        assert not core.sessions
        assert not core.dialogs
        assert not core.clients
        assert not core.servers
        assert not core.merged
        assert not core.invited
        assert not core.pending
        assert len(core.timers) == 0
