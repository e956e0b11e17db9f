"""Referrals: calls that a far end has connected to somebody else, or takes over itself.

REFER (RFC 3515), Replaces (RFC 3891), Referred-By (RFC 3892). What becomes of a transfer is the
switchboard's business, whose word is passed on: it leads to any network, not to SIP alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

from gateway.adapters.base import Host
from gateway.adapters.sip.config import SipSection
from gateway.adapters.sip.identity import number_of
from gateway.adapters.sip.legs import Leg
from gateway.core.actions import ReportTransfer
from gateway.core.causes import to_sip
from gateway.core.events import TransferRequested
from gateway.errors import UsageError
from gateway.protocols.sip.agent import SipAgent
from gateway.protocols.sip.events import Invited, Referred
from gateway.protocols.sip.message import Header
from gateway.protocols.sip.uri import make_uri

_MOST: Final = 1000


class Referrals:
    """The transfers of one adapter's legs; `Calls` tells it of them."""

    def __init__(
        self, config: SipSection, host: Host, of_session: Callable[[int], Leg | None]
    ) -> None:
        self._config, self._host, self._of_session = config, host, of_session
        self._referrers: dict[str, Leg] = {}
        """Legs whose far end had its call transferred, by trace."""
        self._hung_up: dict[str, int] = {}
        """Transfers that legs asked for which are over."""
        self.picked_up: Callable[[str, str], str] = lambda replaces, user: ""
        """The leg that a Replaces header names by its lamp, for that phone; empty: none."""
        self.may_call: Callable[[str, str], bool] = lambda user, called: True
        """Whether a phone or trunk may have a number called for its partner."""

    def referred(self, agent: SipAgent, event: Referred) -> None:
        """A far end wants its partner to be connected to somebody else."""
        now = self._host.now()
        leg = self._of_session(event.session or 0)
        if leg is None or not leg.connected or leg.refer is not None:
            # Only somebody who is in a call of ours may ask for another.
            agent.respond(event.request, 403, now)
            return
        replaced = self._named(agent, event.replaces) if event.replaces else None
        if event.replaces and replaced is None:
            agent.respond(event.request, 481, now)
            return
        target = number_of(event.target.uri)
        # To name an endpoint would be to go round the routes.
        if "/" in target or not (replaced or self.may_call(leg.user, target)):
            self._host.count("transfers_refused")
            agent.respond(event.request, 403, now)
            return
        leg.refer = agent.accept_refer(event.request, now)
        self._referrers[leg.trace] = leg
        self._host.emit(
            TransferRequested(
                leg=leg.id,
                target=target,
                replaces=replaced.id if replaced else "",
            )
        )

    def _named(self, agent: SipAgent, replaces: str) -> Leg | None:
        """The leg of a dialog of ours, which the far end may know by its tags the other way
        round."""
        call_id, *params = replaces.split(";")
        named = dict(param.strip().split("=", 1) for param in params if "=" in param)
        tags = named.get("to-tag", ""), named.get("from-tag", "")
        # Both, for they alone are secret: many telephones count their Call-IDs.
        for key in ((call_id.strip(), *tags), (call_id.strip(), *reversed(tags))):
            if all(key) and key in agent.core.dialogs:
                return self._of_session(getattr(agent.core.dialogs[key], "id", 0))
        return None

    def report(self, agent: SipAgent, leg: Leg | None, action: ReportTransfer) -> None:
        """Tell who asked for a transfer how it goes (RFC 3515 section 2.4.4), in a dialog that may
        have no call any more."""
        refer = leg.refer if leg is not None else self._hung_up.get(action.leg)
        if refer is None:
            return
        status = {"ringing": 180, "answered": 200}.get(action.outcome, to_sip(action.cause))
        if status >= 200:
            self._hung_up.pop(action.leg, None)
            if leg is not None:
                leg.refer = None
        try:
            agent.notify_refer(refer, status, self._host.now())
        except UsageError:
            self._host.count("too_late")

    def released(self, agent: SipAgent, leg: Leg) -> None:
        """We end a leg: nobody will answer any more whom its far end could be told of."""
        if leg.refer is not None:
            refer, leg.refer = leg.refer, None
            with contextlib.suppress(UsageError):
                agent.notify_refer(refer, 487, self._host.now())

    def ended(self, leg: Leg) -> None:
        """A leg is over."""
        if self._referrers.get(leg.trace) is leg:
            del self._referrers[leg.trace]
        if leg.refer is not None:
            self._hung_up[leg.id] = leg.refer
            if len(self._hung_up) > _MOST:
                del self._hung_up[next(iter(self._hung_up))]

    def referred_by(self, trace: str, host: str) -> list[Header]:
        """Who has the call transferred to where we call now (RFC 3892): by the number that we know
        him by, not by what he says of himself; nothing of one who does not want to be shown."""
        leg = self._referrers.get(trace)
        if leg is None or leg.hidden:
            return []
        phone = self._config.phones.get(leg.user)
        number = (phone.number if phone else "") or leg.user
        return [("Referred-By", f"<{make_uri(host, number)}>")]

    def place_of(self, event: Invited) -> str | None:
        """The leg whose place a call wants to take (RFC 3891): empty when it wants none, None
        when there is none such that it may have."""
        if not event.replacing:
            return ""
        leg = self._of_session(event.replaces or 0)
        if leg is not None:
            return leg.id
        return self.picked_up(event.replacing, event.identity) or None
