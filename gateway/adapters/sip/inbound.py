"""Calls from outside: whether they may come in, and how they are rung and answered."""

from __future__ import annotations

from typing import Final

from gateway.adapters.sip.book import RETRY_AFTER_S
from gateway.adapters.sip.changes import Changes
from gateway.adapters.sip.config import Phone, Trunk
from gateway.adapters.sip.diverting import believed
from gateway.adapters.sip.identity import (
    called_of,
    caller_of,
    e164,
    half_of,
    private,
    reason,
    wants_auto_answer,
)
from gateway.adapters.sip.legs import Leg
from gateway.adapters.sip.precedence import accepted, granted
from gateway.core.causes import Cause
from gateway.core.events import LegAnswered, LegOffered
from gateway.core.ids import trace_of
from gateway.errors import DeviceError, PeerError
from gateway.protocols.sip import events as sip
from gateway.protocols.sip.message import Header
from gateway.protocols.sip.sessionid import session_id_of

_ALWAYS_OF_A_PHONE: Final = 100
"""So many calls a telephone may have at a time and begin one more, however few it takes."""


class Inbound(Changes):
    """Who calls us."""

    def invited(self, event: sip.Invited) -> None:
        """Somebody calls."""
        now, request, name = self._host.now(), event.request, event.identity
        phone, trunk = self._config.phones.get(name), self._config.trunks.get(name)
        who = phone or trunk
        if who is None:
            self.agent.reject(event.session, 403, now)
            return
        endpoint = f"{self._name}/{name}"
        if not self._has_room(name, phone, trunk):
            self._host.count("calls_refused")
            later = [("Retry-After", str(RETRY_AFTER_S)), reason(Cause.CONGESTION)]
            self.agent.reject(event.session, 503, now, headers=later)
            return
        if phone is not None and not self._watchman.admits(name, now):
            self._host.count("fraud_blocked")
            self.agent.reject(event.session, 403, now, headers=[reason(Cause.BARRED)])
            return
        priority = granted(request, phone, trunk)
        if priority is None:
            self.agent.reject(event.session, 417, now, headers=[accepted(trunk)])
            return
        replaced = self.referrals.place_of(event)
        if replaced is None:
            self.agent.reject(event.session, 481, now)
            return
        remote = session_id_of(request)
        # A call that somebody traces already goes on under that id.
        known = trace_of(remote)
        trace, leg_id = known or self._host.new_trace(), self._host.new_leg(endpoint)
        caller = caller_of(request, trusted=trunk is not None)
        leg = Leg(
            id=leg_id,
            endpoint=endpoint,
            audio=self._audio(leg_id, who, event.flow.host, private=event.flow.transport == "tls"),
            inbound=True,
            trace=trace,
            hidden=phone is not None and (private(request) or not caller.number),
            half=self.agent.core.half(request) if known else half_of(trace),
            hops=event.max_forwards,
            sessions=[event.session],
            offer=event.offer,
            dtmf=who.dtmf,
            called=called_of(request, trunk.user if trunk else ""),
        )
        self._legs[leg_id] = self._by_trace[trace] = leg
        self._busy[leg.endpoint] += 1
        self._by_session[event.session] = leg
        number = e164(caller.number, trunk.numbers) if trunk else caller.number
        if phone is not None:
            self._watchman.began(name, leg.called, now)
        self._host.emit(
            LegOffered(
                leg=leg_id,
                endpoint=endpoint,
                called=leg.called,
                calling=(phone.number if phone else "") or number or (name if phone else ""),
                display=caller.display,
                hidden=leg.hidden,
                trace=trace,
                demanded_at=now,
                # A caller from outside may not open microphones.
                auto_answer=phone is not None and wants_auto_answer(request),
                priority=priority,
                diverted=believed(request, trunk),
                replaces=replaced,
            )
        )
        if event.session not in self.agent.core.sessions:
            return  # cancelled in the same breath
        self._identify(leg, event.session, remote)
        session = self.agent.core.sessions[event.session]
        leg.audio.behind_nat = session.pinned
        account = self._trunks.credentials(name) if trunk else None
        if account is not None and session.dialog is not None:
            # A forged call must not have us prove ourselves to whom its Contact names.
            _, _, hop = session.dialog.route()
            if session.pinned or self._trunks.has(name, hop.host):
                self.agent.prove(event.session, account)
        if event.offer is None:
            return
        # Look at the offer before anybody's telephone rings for a call that cannot be heard.
        try:
            leg.answer = leg.audio.answer(event.offer) or b""
        except PeerError as error:
            self._refuse(leg, 400, Cause.PROTOCOL_ERROR, f"SDP: {error}")
        except DeviceError as error:
            self._refuse(leg, 503, Cause.RESOURCE_UNAVAILABLE, str(error))
        else:
            if not leg.answer:
                self._refuse(leg, 488, Cause.NOT_ACCEPTABLE, leg.audio.why, leg.audio.refusal)

    def _has_room(self, name: str, phone: Phone | None, trunk: Trunk | None) -> bool:
        """Whether a trunk or telephone may bring one more call."""
        n_busy = self._busy[f"{self._name}/{name}"]
        if phone is not None:
            # An exchange may have registered as a telephone: its `calls` say so.
            return n_busy < max(_ALWAYS_OF_A_PHONE, phone.calls)
        return trunk is None or (n_busy < trunk.calls and self._trunks.takes(name, "in"))

    def _refuse(self, leg: Leg, status: int, cause: Cause, detail: str, *headers: Header) -> None:
        leg.cause, leg.detail = cause, detail
        self._hang_up(leg.sessions[0], status, [reason(cause), *headers])
        self._end(leg)

    def ring(self, leg_id: str) -> None:
        """Tell the caller that the called side alerts."""
        leg = self._legs.get(leg_id)
        if leg and leg.inbound and not leg.connected and not leg.early:
            self.agent.ring(leg.sessions[0], self._host.now())

    def progress(self, leg_id: str) -> None:
        """Open the caller's audio path. A caller who left the offer to us only hears of ringing:
        its audio begins with the answer."""
        leg = self._legs.get(leg_id)
        if leg is None or not leg.inbound or leg.connected:
            return
        if leg.offer is None and self.agent.reliable(leg.sessions[0]):
            # Our offer goes reliably, its answer comes in the PRACK (RFC 3262 section 5).
            try:
                leg.answer = leg.audio.offer()
            except DeviceError as error:
                self._refuse(leg, 503, Cause.RESOURCE_UNAVAILABLE, str(error))
                return
        if leg.answer:
            leg.early = True
            self.agent.ring(leg.sessions[0], self._host.now(), 183, leg.answer)
        else:
            self.agent.ring(leg.sessions[0], self._host.now())

    def answer(self, leg_id: str) -> None:
        """Answer the caller."""
        leg = self._legs.get(leg_id)
        if leg is None or not leg.inbound or leg.connected:
            return
        try:
            body = leg.answer or leg.audio.offer()
        except DeviceError as error:
            self._refuse(leg, 503, Cause.RESOURCE_UNAVAILABLE, str(error))
            return
        self.agent.answer(leg.sessions[0], body, self._host.now())
        leg.connected = True
        self._host.emit(LegAnswered(leg=leg_id))
        self._note_hold(leg)
