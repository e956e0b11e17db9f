"""Calls: legs between the bus and the sessions of the agent.

A leg is over as soon as one side says so; the agent finishes the rest of the signalling (CANCEL,
BYE, their answers) by itself. A phone with several contacts rings at all of them, the first to
answer has the call.
"""

from __future__ import annotations

from gateway.adapters.sip.diverting import sent_on
from gateway.adapters.sip.identity import reason
from gateway.adapters.sip.inbound import Inbound
from gateway.adapters.sip.legs import SILENT, Leg
from gateway.adapters.sip.outbound import Outbound
from gateway.core.actions import ReportTransfer
from gateway.core.causes import Cause
from gateway.core.events import DigitPressed, LegAnswered, LegFlashed, LegProgressed, LegRinging
from gateway.protocols.sip import events as sip


class Calls(Inbound, Outbound):
    """The legs of one adapter. Driven by the bus's actions and the agent's events; the caller
    pumps the agent afterwards."""

    def moved(self, event: sip.Event) -> None:
        """News about a session."""
        leg = self._by_session.get(getattr(event, "session", 0) or 0)
        if leg is None or leg.over:
            return
        match event:
            case sip.Progress():
                self._progressed(leg, event)
            case sip.Answered():
                self._answered(leg, event)
            case sip.Acked(body=body):
                if leg.audio.choice is None and not (body and self._accept(leg, body)):
                    self._release(leg, Cause.NOT_ACCEPTABLE, "the ACK brought no audio")
            case sip.ReofferReceived():
                self._reoffered(leg, event)
            case sip.ReofferAnswered(body=body, session=session, answer_needed=needed):
                if body and needed:
                    self._answer_offer(leg, session, body)
                elif body and self._accept(leg, body) and not self._is_changing(session):
                    self._note_hold(leg)
            case sip.DtmfReceived(digit="!"):
                self._host.emit(LegFlashed(leg=leg.id))
            case sip.DtmfReceived(digit=digit, duration_ms=duration):
                self._host.emit(
                    DigitPressed(leg=leg.id, digit=digit, duration_ms=duration, via="info")
                )
            case sip.Ended():
                self._ended(leg, event)
            case _:
                pass

    def _progressed(self, leg: Leg, event: sip.Progress) -> None:
        self._heard_half(leg, event.session, event.response)
        if event.body and len(leg.sessions) == 1:
            if event.answer_needed:
                self._answer_offer(leg, event.session, event.body)
            elif self._accept(leg, event.body) and not leg.early:
                leg.early = True
                self._host.emit(LegProgressed(leg=leg.id))
        if event.status == 180 and not leg.rung:
            leg.rung = True
            self._host.emit(LegRinging(leg=leg.id))

    def _answered(self, leg: Leg, event: sip.Answered) -> None:
        others = [session for session in leg.sessions if session != event.session]
        leg.sessions = [event.session]
        for other in others:
            self._by_session.pop(other, None)
            self._hang_up(other, 480, [reason(Cause.ANSWERED_ELSEWHERE)])
        self._heard_half(leg, event.session, event.response)
        if event.answer_needed:
            self._answer_offer(leg, event.session, event.body or b"")
        elif event.body:
            self._accept(leg, event.body)
        if leg.over:
            return
        if leg.audio.choice is None:
            self._release(leg, Cause.NOT_ACCEPTABLE, leg.audio.why or "the answer took no audio")
            return
        leg.connected = True
        self._host.emit(LegAnswered(leg=leg.id))
        self._note_hold(leg)

    def referred(self, event: sip.Referred) -> None:
        """A far end wants its partner to be connected to somebody else."""
        self.referrals.referred(self.agent, event)

    def report_transfer(self, action: ReportTransfer) -> None:
        """Tell who asked for a transfer how it goes."""
        self.referrals.report(self.agent, self._legs.get(action.leg), action)

    def _ended(self, leg: Leg, event: sip.Ended) -> None:
        self._by_session.pop(event.session, None)
        if event.session in leg.sessions:
            leg.sessions.remove(event.session)
        leg.note_end(event)
        phone, trunk = self._config.phones.get(leg.user), self._config.trunks.get(leg.user)
        where, reason_why = sent_on(event, phone, trunk)
        # What one contact says is not lost in the silence of others; the call goes on to one place.
        if where and not leg.redirect and self.may_call(leg.user, where):
            leg.redirect, leg.redirect_reason = where, reason_why
        if leg.flow is not None and not leg.connected and _is_away(event):
            # RFC 3263 section 4.3: the next server may be there.
            self._trunks.failed(leg.user, leg.flow, 0 if event.how in SILENT else event.status)
            if leg.flows and not leg.rung and not leg.early:
                self._host.count("failovers")
                leg.said = False
                self._call_next(leg)
                return
        if event.how is sip.How.REJECTED and event.status >= 600:
            # The person declined: the other telephones need not ring on (RFC 3261 section 16.7).
            for session in leg.sessions:
                self._hang_up(session, 480, [reason(leg.cause)])
            self._end(leg)
        elif not leg.sessions:
            self._end(leg)


def _is_away(event: sip.Ended) -> bool:
    """Whether a server is not there, or says that it cannot work."""
    return event.how in SILENT or (event.how is sip.How.REJECTED and event.status == 503)
