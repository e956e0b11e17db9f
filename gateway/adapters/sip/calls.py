"""Calls: legs between the bus and the sessions of the agent.

A leg is over as soon as one side says so; the agent finishes the rest of the signalling (CANCEL,
BYE, their answers) by itself. A phone with several contacts rings at all of them, the first to
answer has the call.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from gateway.adapters.base import Host
from gateway.adapters.sip.audio import Audio
from gateway.adapters.sip.config import (
    Diverting,
    DtmfMode,
    Phone,
    SipSection,
    SrtpMode,
    SrtpOver,
    Trunk,
)
from gateway.adapters.sip.diverting import believed, diversions, outward, sent_on
from gateway.adapters.sip.fraud import Watchman
from gateway.adapters.sip.identity import (
    AUTO_ANSWER,
    Caller,
    asserted,
    called_of,
    caller_of,
    dialled,
    e164,
    from_value,
    half_of,
    private,
    reason,
    urgency,
    wants_auto_answer,
)
from gateway.adapters.sip.keying import Keying
from gateway.adapters.sip.legs import SILENT, Leg
from gateway.adapters.sip.natting import hidden, rebind, unreachable
from gateway.adapters.sip.phones import Phones
from gateway.adapters.sip.precedence import (
    accepted,
    granted,
    preemption,
    resource_priority,
)
from gateway.adapters.sip.referrals import Referrals
from gateway.adapters.sip.trunks import Trunks
from gateway.adapters.sip.wires import Wires
from gateway.core.actions import Dial, ReportTransfer
from gateway.core.causes import Cause, to_sip
from gateway.core.events import (
    DigitPressed,
    LegAnswered,
    LegEnded,
    LegFlashed,
    LegHeld,
    LegOffered,
    LegProgressed,
    LegRetrieved,
    LegRinging,
)
from gateway.core.ids import trace_of
from gateway.errors import DeviceError, PeerError, UsageError
from gateway.media.streams import StreamOptions
from gateway.protocols.sdp import Direction
from gateway.protocols.sip import events as sip
from gateway.protocols.sip.agent import SipAgent
from gateway.protocols.sip.headers import parse_name_addr
from gateway.protocols.sip.message import Header, Request, Response
from gateway.protocols.sip.registrar import Binding, one_flow_each
from gateway.protocols.sip.sessionid import session_id, session_id_of
from gateway.protocols.sip.transaction import Flow
from gateway.protocols.sip.uri import parse_uri

RETRY_AFTER_S: Final = 30
"""When a caller that is refused for lack of something may try again."""
_PHONE_SILENT_S: Final = 8.0
_MOST_OF_A_PHONE: Final = 100
"""Calls that a telephone may have begun at a time: what its `calls` can be at most."""
MOST_HOPS: Final = 70
"""Through so many exchanges a call or text goes at most (RFC 3261 section 8.1.1.6)."""


class Calls:
    """The legs of one adapter. Driven by the bus's actions and the agent's events; the caller
    pumps the agent afterwards."""

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

    def end_all(self) -> None:
        """End every leg; the agent says goodbye to the far ends."""
        for leg in list(self._legs.values()):
            self._release(leg, Cause.SHUTDOWN, "the gateway stops")
        self._by_session.clear()

    @property
    def agent(self) -> SipAgent:
        """Raises `DeviceError` while the adapter is not open."""
        if self._agent is None:
            raise DeviceError("SIP is not open")
        return self._agent

    def of_session(self, session: int) -> Leg | None:
        """The leg that a session of the agent belongs to."""
        return self._by_session.get(session)

    # From outside

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

    def invited(self, event: sip.Invited) -> None:
        """Somebody calls."""
        now, request, name = self._host.now(), event.request, event.identity
        phone, trunk = self._config.phones.get(name), self._config.trunks.get(name)
        who = phone or trunk
        if who is None:
            self.agent.reject(event.session, 403, now)
            return
        endpoint = f"{self._name}/{name}"
        if not self._has_room(name, trunk):
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

    def _has_room(self, name: str, trunk: Trunk | None) -> bool:
        """Whether a trunk or telephone may bring one more call."""
        n_busy = self._busy[f"{self._name}/{name}"]
        if trunk is None:
            return n_busy < _MOST_OF_A_PHONE
        return n_busy < trunk.calls and self._trunks.takes(name, "in")

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

    # To outside

    def dial(self, action: Dial) -> None:
        """Call a phone or a trunk. Raises `DeviceError` when it cannot be reached at all."""
        user = action.endpoint.partition("/")[2]
        # Without counting on, a loop between two exchanges would never end (RFC 7332).
        came_in = self._by_trace.get(action.trace)
        hops = came_in.hops - 1 if came_in else MOST_HOPS
        if hops < 1:
            cause, detail = Cause.EXCHANGE_ROUTING_ERROR, "no hops left: a loop of routes"
            self._host.emit(LegEnded(leg=action.leg, cause=cause, detail=detail))
        elif user in self._config.trunks:
            self._dial_trunk(user, action, hops)
        elif user in self._config.phones:
            self._dial_phone(user, action, hops)
        else:
            raise DeviceError(f"there is no phone or trunk {user!r}")

    def _stands(self, flow: Flow) -> bool:
        """Whether something can be sent over a flow: its connection is open, if it needs one."""
        return not flow.reliable or flow.connection in self.agent.core.connections

    def _begin(
        self, action: Dial, who: Phone | Trunk, peer: str, *, private: bool
    ) -> tuple[Leg, bytes]:
        leg = Leg(
            id=action.leg,
            endpoint=action.endpoint,
            audio=self._audio(action.leg, who, peer, private=private),
            inbound=False,
            trace=action.trace,
            half=half_of(action.trace),
            one_way=action.one_way,
            dtmf=who.dtmf,
        )
        offer = leg.audio.offer()
        self._legs[leg.id] = leg
        self._busy[leg.endpoint] += 1
        return leg, offer

    def _begun(self, leg: Leg, session: int) -> None:
        leg.sessions.append(session)
        self._by_session[session] = leg
        self._identify(leg, session)

    def _afresh(self, binding: Binding) -> Flow:
        """The way to a phone whose connection is gone: its Contact (or Path) says port and
        transport, but not another host. Those who trust our address, such as carriers, would take
        the call for ours."""
        hop = parse_name_addr(binding.path[0]).uri if binding.path else parse_uri(binding.contact)
        return self.agent.core.flow_to(hop)._replace(host=binding.flow.host)

    def _is_private(self, binding: Binding) -> bool:
        """Whether what we send to a contact goes over TLS."""
        if self._stands(binding.flow):
            return binding.flow.transport == "tls"
        return parse_uri(binding.contact).transport == "tls"

    def _dial_phone(self, user: str, action: Dial, hops: int) -> None:
        phone, now = self._config.phones[user], self._host.now()
        # A flow that broke is no way any more (RFC 5626 section 5.3); others begin anew.
        bindings = one_flow_each(
            [
                binding
                for binding in self._phones.reachable(user, now)
                if not binding.outbound or self._stands(binding.flow)
            ]
        )
        if not bindings:
            detail = "not registered"
            self._host.emit(LegEnded(leg=action.leg, cause=Cause.ABSENT, detail=detail))
            return
        private = [binding for binding in bindings if self._is_private(binding)]
        if phone.srtp is SrtpMode.REQUIRED and self._config.srtp_over is SrtpOver.TLS and private:
            bindings = private
        # One offer goes to all of them, and its keys with it.
        leg, offer = self._begin(
            action, phone, bindings[0].flow.host, private=len(private) == len(bindings)
        )
        leg.audio.behind_nat = any(hidden(binding) for binding in bindings)
        headers = [session_id(leg.half), *urgency(action.priority)]
        if action.auto_answer and phone.auto_answer:
            headers += AUTO_ANSWER
        caller = Caller(action.calling, action.display)
        failed = ""
        for binding in bindings:
            # The connection it registered over may be gone since: then its contact says where.
            flow = binding.flow
            alive = self._stands(flow)
            host = self._wires.source_towards(flow.host)
            try:
                session = self.agent.invite(
                    binding.contact,
                    offer,
                    now,
                    from_=from_value(host, caller),
                    flow=flow if alive else self._afresh(binding),
                    routes=binding.path,
                    headers=[
                        *headers,
                        *self.referrals.referred_by(action.trace, host),
                        *diversions(host, action.diverted, Diverting.DIVERSION),
                    ],
                    timeout=_PHONE_SILENT_S,
                    max_forwards=hops,
                    pinned=alive and unreachable(binding),
                )
            except (PeerError, UsageError) as error:
                failed = str(error)
            else:
                self._begun(leg, session)
        if not leg.sessions:
            leg.cause, leg.detail = Cause.OUT_OF_ORDER, failed
            self._end(leg)

    def _dial_trunk(self, name: str, action: Dial, hops: int) -> None:
        trunk = self._config.trunks[name]
        flows = self._trunks.flows(name)
        if not flows:
            raise DeviceError(f"{trunk.proxy or trunk.peer} cannot be resolved")
        if not self._trunks.takes(name, "out"):
            self._host.count("calls_refused")
            detail = f"more than {trunk.calls_per_s:g} calls a second"
            self._host.emit(LegEnded(leg=action.leg, cause=Cause.CONGESTION, detail=detail))
            return
        peer = flows[0].host
        private = all(flow.transport == "tls" for flow in flows)
        leg, offer = self._begin(action, trunk, peer, private=private)
        # With an account the address is the peer's, else ours.
        host = self._trunks.host(name) if trunk.user else self._wires.source_towards(peer)
        calling = trunk.number or e164(action.calling, trunk.numbers)
        known = shown = Caller(calling, action.display)
        if action.hidden:
            shown = Caller("", action.display)
            known = self._behind(action.trace, trunk) if trunk.tells_hidden else shown
        account = Caller(trunk.user, action.display) if trunk.register and shown.number else shown
        from_ = from_value(host, shown if trunk.number else account)
        target = self._trunks.target(name, dialled(action.number, trunk.numbers))
        headers = [
            session_id(leg.half),
            *asserted(host, known, trunk.identity, hidden=action.hidden),
            *urgency(action.priority),
            *resource_priority(action.priority, trunk.precedence),
            *self.referrals.referred_by(action.trace, host),
            *diversions(host, outward(action.diverted, trunk), trunk.diversion, target),
        ]

        def call(flow: Flow) -> int:
            return self.agent.invite(
                target,
                offer,
                self._host.now(),
                from_=from_,
                flow=flow,
                routes=self._trunks.routes(name),
                headers=headers,
                credentials=self._trunks.credentials(name),
                timeout=trunk.no_response_s,
                max_forwards=hops,
            )

        leg.call, leg.flows = call, flows
        self._call_next(leg)

    def _behind(self, trace: str, trunk: Trunk) -> Caller:
        """Who it is that does not want to be shown, as the trunk alone may know."""
        leg = self._by_trace.get(trace)
        phone = self._config.phones.get(leg.user) if leg is not None else None
        own = phone.number if phone is not None else ""
        return Caller(trunk.number or e164(own, trunk.numbers), "")

    def _call_next(self, leg: Leg) -> None:
        """Call a trunk's next server."""
        assert leg.call is not None
        leg.flow = leg.flows.pop(0)
        try:
            session = leg.call(leg.flow)
        except UsageError as error:
            leg.cause, leg.detail = Cause.OUT_OF_ORDER, str(error)
            self._end(leg)
        else:
            self._begun(leg, session)

    def rebound(self, user: str, changes: list[tuple[Flow, Flow]]) -> None:
        """A phone registered anew from behind another port of its NAT."""
        endpoint = f"{self._name}/{user}"
        for leg in self._legs.values():
            if leg.endpoint == endpoint:
                rebind(self.agent, leg.sessions, changes)

    # What the agent tells

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

    # During a call

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

    # Transfer

    def referred(self, event: sip.Referred) -> None:
        """A far end wants its partner to be connected to somebody else."""
        self.referrals.referred(self.agent, event)

    def report_transfer(self, action: ReportTransfer) -> None:
        """Tell who asked for a transfer how it goes."""
        self.referrals.report(self.agent, self._legs.get(action.leg), action)

    # The end

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
            self._trunks.silent(leg.user, leg.flow)
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


def _is_away(event: sip.Ended) -> bool:
    """Whether a server is not there, or says that it cannot work."""
    return event.how in SILENT or (event.how is sip.How.REJECTED and event.status == 503)
