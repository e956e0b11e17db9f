"""Presence that telephones publish of themselves (RFC 3903), for those who watch them."""

from __future__ import annotations

import os
from collections.abc import Callable

from gateway.adapters.base import Host
from gateway.adapters.sip.config import SipSection
from gateway.protocols.sip.agent import SipAgent
from gateway.protocols.sip.events import RequestReceived
from gateway.protocols.sip.message import Header
from gateway.protocols.sip.publication import Presence, Publications


class Publishers:
    """What the phones of one adapter publish; the caller pumps the agent afterwards."""

    def __init__(self, config: SipSection, host: Host, changed: Callable[[str], None]) -> None:
        """`changed` is told of each phone whose published state is another one now."""
        self._config, self._host, self._changed = config, host, changed
        self._published = Publications(
            lambda: os.urandom(8).hex(),
            min_expires=config.min_expires_s,
            max_expires=config.max_expires_s,
            max_each=config.max_contacts,
        )

    def requested(self, agent: SipAgent, event: RequestReceived, now: float) -> None:
        """A PUBLISH: of the phone's own presence and of nobody else's."""
        request, user = event.message, event.identity
        phone = self._config.phones.get(user)
        wanted = request.uri.user.partition(";")[0]
        if phone is None or wanted not in (user, phone.number):
            status, headers = 403, list[Header]()
        else:
            status, headers = self._published.process(user, request, now)
        if status == 200:
            self._changed(user)
        else:
            self._host.count("publications_refused")
        agent.respond(event.request, status, now, headers=headers)

    def beat(self, now: float) -> None:
        """About once a second: what has run out does not hold any more."""
        for user in self._published.expire(now):
            self._changed(user)

    def told(self, user: str, now: float) -> Presence:
        """What a phone said last, from whichever of its places."""
        return next(reversed(self._published.states(user, now)), Presence())
