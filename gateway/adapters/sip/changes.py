"""Calls that are changed while they stand: offers and answers, hold, digits."""

from __future__ import annotations

from gateway.adapters.sip.book import Book
from gateway.adapters.sip.config import DtmfMode
from gateway.adapters.sip.legs import Leg
from gateway.core.causes import Cause
from gateway.core.events import LegHeld, LegRetrieved
from gateway.errors import DeviceError, PeerError
from gateway.protocols.sdp import Direction
from gateway.protocols.sip import events as sip


class Changes(Book):
    """What either side asks for in the middle of a call."""

    def _accept(self, leg: Leg, body: bytes) -> bool:
        try:
            return leg.audio.accept(body)
        except PeerError as error:
            leg.audio.why = str(error)
            self._host.count("sdp_refused")
            self._host.log.info("answer not understood", leg=leg.id, error=str(error))
            return False

    def _answer_offer(self, leg: Leg, session: int, offer: bytes) -> None:
        try:
            body = leg.audio.answer(offer)
        except (PeerError, DeviceError) as error:
            self._host.count("sdp_refused")
            self._host.log.info("offer not understood", leg=leg.id, error=str(error))
            leg.audio.why, body = str(error), None
        if body is None:
            self._release(leg, Cause.NOT_ACCEPTABLE, leg.audio.why)
            return
        self.agent.answer_offer(session, body, self._host.now())

    def _reoffered(self, leg: Leg, event: sip.ReofferReceived) -> None:
        now = self._host.now()
        self._heard_half(leg, event.session, event.request)
        try:
            body = leg.audio.answer(event.offer) if event.offer else leg.audio.offer()
        except PeerError:
            self._host.count("sdp_refused")
            self.agent.reject_offer(event.session, 400, now)
            return
        except DeviceError:
            self.agent.reject_offer(event.session, 500, now)
            return
        if body is None:
            self.agent.reject_offer(event.session, 488, now, headers=[leg.audio.refusal])
            return
        known = self.agent.core.sessions.get(event.session)
        if event.offer and known is not None and known.waiting:
            # It was written before this answer, and versions only grow (RFC 3264 section 8).
            self.agent.reoffer(event.session, leg.audio.offer(), now)
        self.agent.answer_offer(event.session, body, now)
        self._note_hold(leg)

    def _is_changing(self, session: int) -> bool:
        """Whether an offer of ours is under way: what was answered is what we wanted before."""
        known = self.agent.core.sessions.get(session)
        return known is not None and (known.changing or known.waiting)

    def _note_hold(self, leg: Leg) -> None:
        held, sends = leg.audio.remote_hold, leg.audio.is_sent
        if not leg.connected or held is None:
            return
        if held and (not leg.held or sends is not leg.held_sends):
            leg.held, leg.held_sends = True, sends
            self._host.emit(LegHeld(leg=leg.id, sends=sends))
        elif leg.held and not held:
            leg.held = False
            self._host.emit(LegRetrieved(leg=leg.id))

    def hold(self, leg_id: str, way: Direction | None) -> None:
        """Put the far end on hold, we sending or not, or take it off (None)."""
        leg = self._legs.get(leg_id)
        if leg is None or not leg.connected or leg.audio.hold_way is way:
            return
        peer = self._config.phones.get(leg.user) or self._config.trunks.get(leg.user)
        if peer is not None and not peer.tells_hold:
            return
        self.agent.reoffer(leg.sessions[0], leg.audio.hold(way), self._host.now())

    def send_digits(self, leg_id: str, digits: str) -> None:
        """Send DTMF the way that the peer's configuration says."""
        leg = self._legs.get(leg_id)
        if leg is None or not leg.connected:
            return
        if leg.dtmf is DtmfMode.INFO:
            for digit in digits:
                self.agent.dtmf(leg.sessions[0], digit, self._host.now())
        elif leg.audio.stream:
            leg.audio.stream.send_digits(digits)
