"""The legs of one adapter: what all of them have, and how each ends."""

from __future__ import annotations

from collections import Counter
from typing import Final

from gateway.adapters.base import Host
from gateway.adapters.sip.audio import Audio
from gateway.adapters.sip.config import DtmfMode, Phone, SipSection, SrtpOver, Trunk
from gateway.adapters.sip.fraud import Watchman
from gateway.adapters.sip.identity import reason
from gateway.adapters.sip.keying import Keying
from gateway.adapters.sip.legs import Leg
from gateway.adapters.sip.phones import Phones
from gateway.adapters.sip.precedence import preemption
from gateway.adapters.sip.referrals import Referrals
from gateway.adapters.sip.trunks import Trunks
from gateway.adapters.sip.wires import Wires
from gateway.core.causes import Cause, to_sip
from gateway.core.events import LegEnded
from gateway.errors import DeviceError
from gateway.media.streams import StreamOptions
from gateway.protocols.sip.agent import SipAgent
from gateway.protocols.sip.message import Header, Request, Response
from gateway.protocols.sip.sessionid import session_id, session_id_of

RETRY_AFTER_S: Final = 30
"""When a caller that is refused for lack of something may try again."""


class Book:
    """Legs, by every name that they are known by."""

    def __init__(
        self,
        name: str,
        config: SipSection,
        host: Host,
        phones: Phones,
        trunks: Trunks,
        wires: Wires,
    ) -> None:
        self._name, self._config, self._host = name, config, host
        self._phones, self._trunks, self._wires = phones, trunks, wires
        self._watchman = Watchman(name, config.fraud, host)
        self.guessed = self._watchman.guessed
        self._agent: SipAgent | None = None
        self._legs: dict[str, Leg] = {}
        self._busy: Counter[str] = Counter()
        """How many legs each phone or trunk has."""
        self._by_session: dict[int, Leg] = {}
        self._options: dict[int, StreamOptions] = {}
        self.referrals = Referrals(config, host, self.of_session)
        self.referrals.may_call = self.may_call
        self._by_trace: dict[str, Leg] = {}
        """Legs that came in, for the hops of those that go on from them."""

    def use(self, agent: SipAgent | None) -> None:
        """Serve with an agent; None: not at all."""
        self._agent = agent

    def beat(self, now: float) -> None:
        """About once a second."""
        self._watchman.beat(now)

    @property
    def agent(self) -> SipAgent:
        """Raises `DeviceError` while the adapter is not open."""
        if self._agent is None:
            raise DeviceError("SIP is not open")
        return self._agent

    def of_session(self, session: int) -> Leg | None:
        """The leg that a session of the agent belongs to."""
        return self._by_session.get(session)

    def may_text(self, user: str, number: str) -> bool:
        """Whether somebody may write to a number. To others than our own telephones it may cost
        money, and counts as a call of his account, or of the trunk that he comes by."""
        if user in self._config.trunks:
            return self._trunks.takes(user, "in")
        if any(phone.number == number for phone in self._config.phones.values()):
            return True
        return self.may_call(user, number)

    def may_call(self, user: str, called: str) -> bool:
        """Whether somebody may have others call a number, by a transfer or by sending a call on;
        that counts as a call of his account."""
        if user not in self._config.phones:
            return True
        now = self._host.now()
        if not self._watchman.admits(user, now):
            self._host.count("fraud_blocked")
            return False
        self._watchman.began(user, called, now)
        return True

    def _audio(self, leg: str, who: Phone | Trunk, peer: str, *, private: bool) -> Audio:
        return Audio(
            self._host,
            leg,
            peer,
            self._wires.towards,
            self._wires.hides,
            codecs=who.codecs or self._config.codecs,
            keying=Keying(
                who.srtp,
                private=private or self._config.srtp_over is SrtpOver.ANY,
                suites=self._config.srtp_suites,
            ),
            media_timeout_s=self._config.media_timeout_s,
            options=self._shaping(who),
            follow=self._config.follow_media,
            events=who.dtmf is not DtmfMode.INBAND,
            reports=self._config.rtcp_xr,
            noise=self._config.comfort_noise,
        )

    def _shaping(self, who: Phone | Trunk) -> StreamOptions:
        """What a phone or trunk wants of its streams: the same in all its calls."""
        known = self._options.get(id(who))
        if known is None:
            known = StreamOptions(
                country=self._config.country,
                digits_beside=who.dtmf is DtmfMode.INFO,
                **who.shaping,
            )
            # The configuration keeps `who` as long as this is kept.
            self._options[id(who)] = known
        return known

    def _identify(self, leg: Leg, session: int, heard: str = "") -> None:
        """Put both halves of the Session-ID into what we send from now on (RFC 7989 section 6)."""
        leg.peer_half = heard
        known = self.agent.core.sessions.get(session)
        if known is None:
            return  # ended by what came right behind
        self._host.tie(leg.id, known.call_id)
        self.agent.keep_headers(session, [session_id(leg.half, heard)])

    def _heard_half(self, leg: Leg, session: int, message: Request | Response) -> None:
        """The peer's half may come late, and may change when it hands the call on."""
        heard = session_id_of(message)
        if heard not in ("", leg.peer_half):
            self._identify(leg, session, heard)

    def hangup(self, leg_id: str, cause: Cause, detail: str) -> None:
        """End a leg in whatever state."""
        leg = self._legs.get(leg_id)
        if leg is not None:
            self._release(leg, cause, detail)

    def _release(self, leg: Leg, cause: Cause, detail: str) -> None:
        """End all sessions of a leg."""
        self.referrals.released(self.agent, leg)
        leg.cause, leg.detail = cause, detail
        status, headers = to_sip(cause), [reason(cause), *preemption(cause)]
        if status == 503 and leg.inbound and not leg.connected:
            headers.append(("Retry-After", str(RETRY_AFTER_S)))
        for session in leg.sessions:
            self._hang_up(session, status, headers)
        self._end(leg)

    def _hang_up(self, session: int, status: int, headers: list[Header]) -> None:
        """End a session; one that has ended by itself meanwhile is left alone."""
        if session in self.agent.core.sessions:
            self.agent.hangup(session, self._host.now(), status, headers=headers)

    def _end(self, leg: Leg) -> None:
        """Exactly once for each leg."""
        if leg.over:
            return
        leg.over = True
        if leg.inbound and leg.user in self._config.phones:
            self._watchman.ended(leg.user, leg.called, self._host.now(), leg.cause)
        for session in leg.sessions:
            self._by_session.pop(session, None)
        if self._legs.pop(leg.id, None):
            self._busy[leg.endpoint] -= 1
        if self._by_trace.get(leg.trace) is leg:
            del self._by_trace[leg.trace]
        self.referrals.ended(leg)
        if leg.one_way:
            self._host.emit(leg.paged())
        self._host.emit(
            LegEnded(
                leg=leg.id,
                cause=leg.cause,
                detail=leg.detail,
                redirect=leg.redirect,
                redirect_reason=leg.redirect_reason,
            )
        )

    def end_all(self) -> None:
        """End every leg; the agent says goodbye to the far ends."""
        for leg in list(self._legs.values()):
            self._release(leg, Cause.SHUTDOWN, "the gateway stops")
        self._by_session.clear()
