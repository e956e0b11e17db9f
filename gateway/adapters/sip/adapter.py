"""The SIP adapter: our own agent between sockets and the bus.

Phones register here with digest and call each other and everything else; trunks are other
exchanges, registered with or known by address. A phone with several contacts rings at all of them,
the first to answer has the call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from gateway.adapters.base import Adapter, Host
from gateway.adapters.sip.audio import Audio
from gateway.adapters.sip.config import DtmfMode, SipSection
from gateway.adapters.sip.door import Door
from gateway.adapters.sip.phones import Phones
from gateway.adapters.sip.trunks import Trunks
from gateway.adapters.sip.wires import Wires
from gateway.core.actions import (
    Answer,
    Dial,
    Hangup,
    Hold,
    Progress,
    Retrieve,
    Ring,
    SendDigits,
    SendMessage,
)
from gateway.core.causes import Cause, from_q850, from_sip, to_q850, to_sip
from gateway.core.endpoints import Endpoint
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
    MessageReceived,
    TransferRequested,
)
from gateway.errors import DeviceError, PeerError, UsageError
from gateway.protocols.sip import events as sip
from gateway.protocols.sip.agent import SipAgent
from gateway.protocols.sip.core import SipConfig
from gateway.protocols.sip.events import How
from gateway.protocols.sip.headers import format_name_addr, format_reason
from gateway.protocols.sip.message import Header
from gateway.protocols.sip.registrar import Binding
from gateway.protocols.sip.uri import make_uri, unescape

# Every maker has its own way to say "answer by yourself"; they do not disturb each other.
_AUTO_ANSWER: tuple[Header, ...] = (
    ("Call-Info", "<sip:intercom>;answer-after=0"),
    ("Alert-Info", "<http://intercom>;info=alert-autoanswer;delay=0"),
    ("Answer-Mode", "Auto"),
)
_HOW = {
    How.TIMEOUT: Cause.NO_RESPONSE,
    How.UNREACHABLE: Cause.OUT_OF_ORDER,
    How.NO_ACK: Cause.TIMER_EXPIRED,
    How.EXPIRED: Cause.TIMER_EXPIRED,
    How.GONE: Cause.TEMPORARY_FAILURE,
    How.FAILED: Cause.PROTOCOL_ERROR,
    How.CANCELLED: Cause.CANCELLED,
    How.REPLACED: Cause.NORMAL,
}


@dataclass(slots=True, eq=False)
class _Leg:
    id: str
    endpoint: str
    audio: Audio
    inbound: bool
    sessions: list[int] = field(default_factory=list)
    """More than one while several contacts of a phone ring."""
    offer: bytes | None = None
    """The caller's offer, until it is answered."""
    answer: bytes = b""
    """Our answer to it: the same in 183 and 200."""
    connected: bool = False
    early: bool = False
    held: bool = False
    over: bool = False
    dtmf: DtmfMode = DtmfMode.AUTO
    cause: Cause = Cause.NORMAL
    detail: str = ""
    refer: int | None = None
    """A transfer that the far end asked for and wants news of."""


class Sip(Adapter):
    """Phones and trunks over SIP."""

    kind = "sip"
    Config = SipSection

    def __init__(self, name: str, config: SipSection, host: Host) -> None:
        super().__init__(name, config, host)
        self._door = Door(config, host.count, host.log)
        self._phones = Phones(name, config, host)
        self._trunks = Trunks(name, config, host, self._door)
        self._wires = Wires(config, host, self._pump)
        self._agent: SipAgent | None = None
        self._legs: dict[str, _Leg] = {}
        self._by_session: dict[int, _Leg] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._pumping = False

    def endpoints(self) -> Iterable[Endpoint]:
        for user in self.config.phones:
            yield self._phones.endpoint(user)
        for trunk in self.config.trunks:
            yield self._trunks.endpoint(trunk)

    @property
    def ports(self) -> dict[str, int]:
        """Listening port by transport, once `run` has opened them."""
        return self._wires.ports

    @property
    def agent(self) -> SipAgent:
        """The running agent. Raises `DeviceError` while the adapter is not open."""
        if self._agent is None:
            raise DeviceError("SIP is not open")
        return self._agent

    async def run(self) -> None:
        try:
            await self._wires.open()
            self._agent = self._wires.agent = SipAgent(
                SipConfig(
                    host=self.config.public_ip or "127.0.0.1",
                    ports=self._wires.ports,
                    session_expires=self.config.session_expires_s,
                ),
                self._door,
                self._wires.advertise,
            )
            now = self.host.now()
            self._phones.load(now)
            self._phones.announce_all(now)
            for trunk in self.config.trunks:
                self.host.create_task(
                    self._trunks.watch(trunk, self._agent, self._pump), name=f"trunk {trunk}"
                )
            self.host.ready()
            while True:
                await asyncio.sleep(5.0)
                self._phones.announce_all(self.host.now())
        finally:
            await self._stop()

    async def _stop(self) -> None:
        if self._agent is not None:
            for leg in list(self._legs.values()):
                leg.cause, leg.detail = Cause.SHUTDOWN, "the gateway stops"
                self._release(leg, Cause.SHUTDOWN, leg.detail)
                self._end(leg)
            self._trunks.stop(self._agent, self.host.now())
            self._pump()
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._agent = self._wires.agent = None
        self._by_session.clear()
        self._wires.close()

    # Driving the agent

    def _pump(self) -> None:
        """Carry out what the agent wants: events first, then octets, then the next alarm clock."""
        if self._pumping or self._agent is None:
            return
        agent, self._pumping = self._agent, True
        try:
            while True:
                event = agent.next_event()
                if event is not None:
                    self._happened(event)
                    continue
                send = agent.next_send()
                if send is None:
                    break
                self._wires.send(send)
        finally:
            self._pumping = False
        due = agent.next_timeout()
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if due is not None:
            wait = max(0.0, due - self.host.now())
            self._timer = asyncio.get_running_loop().call_later(wait, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._agent:
            self._agent.tick(self.host.now())
            self._pump()

    def _happened(self, event: sip.Event) -> None:
        match event:
            case sip.Invited():
                self._invited(event)
            case sip.RequestReceived():
                self._requested(event)
            case sip.Registered() | sip.RegistrationFailed() | sip.ResponseReceived():
                self._trunks.took(event)
            case sip.CloseConnection(connection=connection):
                self._wires.hang_up(connection)
            case sip.Referred():
                self._referred(event)
            case _:
                leg = self._by_session.get(getattr(event, "session", 0) or 0)
                if leg is not None and not leg.over:
                    self._moved(leg, event)

    def _moved(self, leg: _Leg, event: sip.Event) -> None:
        match event:
            case sip.Progress():
                self._progressed(leg, event)
            case sip.Answered():
                self._answered(leg, event)
            case sip.Acked(body=body):
                if body and leg.offer is None and leg.audio.choice is None:
                    self._accept(leg, body)
            case sip.ReofferReceived():
                self._reoffered(leg, event)
            case sip.ReofferAnswered(body=body, session=session, answer_needed=needed):
                if body and needed:
                    self._answer_offer(leg, session, body)
                elif body:
                    self._accept(leg, body)
                    self._note_hold(leg)
            case sip.DtmfReceived(digit="!"):
                self.host.emit(LegFlashed(leg=leg.id))
            case sip.DtmfReceived(digit=digit, duration_ms=duration):
                self.host.emit(
                    DigitPressed(leg=leg.id, digit=digit, duration_ms=duration, via="info")
                )
            case sip.Ended():
                self._ended(leg, event)
            case _:
                pass

    # Calls from outside

    def _audio(self, leg: str, peer: str) -> Audio:
        return Audio(
            self.host,
            leg,
            self._wires.bind_towards(peer),
            shown_ip=self._wires.source_towards(peer),
            codecs=self.config.codecs,
            media_timeout_s=self.config.media_timeout_s,
            country=self.config.country,
        )

    def _invited(self, event: sip.Invited) -> None:
        now, request = self.host.now(), event.request
        if not event.identity:
            self.agent.reject(event.session, 403, now)
            return
        endpoint = f"{self.name}/{event.identity}"
        leg = _Leg(
            id=self.host.new_leg(endpoint),
            endpoint=endpoint,
            audio=self._audio("", event.flow.host),
            inbound=True,
            sessions=[event.session],
            offer=event.offer,
        )
        leg.audio = self._audio(leg.id, event.flow.host)
        phone = self.config.phones.get(event.identity)
        trunk = self.config.trunks.get(event.identity)
        leg.dtmf = phone.dtmf if phone else trunk.dtmf if trunk else DtmfMode.AUTO
        self._legs[leg.id] = leg
        self._by_session[event.session] = leg
        caller = request.from_
        self.host.emit(
            LegOffered(
                leg=leg.id,
                endpoint=endpoint,
                called=unescape(request.uri.user),
                calling=(phone.number if phone else "") or unescape(caller.uri.user),
                display=caller.display[:80],
                trace=self.host.new_trace(),
                demanded_at=now,
            )
        )
        if event.offer is not None:
            # Look at the offer before anybody's telephone rings for a call that cannot be heard.
            try:
                leg.answer = leg.audio.answer(event.offer) or b""
            except PeerError as error:
                self._refuse(leg, 400, Cause.PROTOCOL_ERROR, f"SDP: {error}")
            except DeviceError as error:
                self._refuse(leg, 503, Cause.RESOURCE_UNAVAILABLE, str(error))
            else:
                if not leg.answer:
                    self._refuse(leg, 488, Cause.NOT_ACCEPTABLE, "no codec in common")

    def _refuse(self, leg: _Leg, status: int, cause: Cause, detail: str) -> None:
        self.agent.reject(leg.sessions[0], status, self.host.now())
        leg.cause, leg.detail = cause, detail
        self._end(leg)

    def ring(self, action: Ring) -> None:
        leg = self._legs.get(action.leg)
        if leg and leg.inbound and not leg.connected and not leg.early:
            self.agent.ring(leg.sessions[0], self.host.now())
            self._pump()

    def progress(self, action: Progress) -> None:
        leg = self._legs.get(action.leg)
        if leg and leg.inbound and not leg.connected and leg.answer:
            leg.early = True
            self.agent.ring(leg.sessions[0], self.host.now(), 183, leg.answer)
            self._pump()

    def answer(self, action: Answer) -> None:
        leg = self._legs.get(action.leg)
        if leg is None or not leg.inbound or leg.connected:
            return
        try:
            body = leg.answer or leg.audio.offer()
        except DeviceError as error:
            self._refuse(leg, 503, Cause.RESOURCE_UNAVAILABLE, str(error))
            self._pump()
            return
        leg.connected = True
        self.agent.answer(leg.sessions[0], body, self.host.now())
        self.host.emit(LegAnswered(leg=leg.id))
        self._pump()

    # Calls to outside

    def dial(self, action: Dial) -> None:
        user = action.endpoint.partition("/")[2]
        leg = _Leg(
            id=action.leg,
            endpoint=action.endpoint,
            audio=self._audio(action.leg, "127.0.0.1"),
            inbound=False,
        )
        self._legs[leg.id] = leg
        try:
            if user in self.config.trunks:
                self._dial_trunk(leg, user, action)
            elif user in self.config.phones:
                self._dial_phone(leg, user, action)
            else:
                raise DeviceError(f"there is no phone or trunk {user!r}")
        except (DeviceError, UsageError):
            self._legs.pop(leg.id, None)
            for session in leg.sessions:
                self._by_session.pop(session, None)
            raise
        self._pump()

    def _dial_phone(self, leg: _Leg, user: str, action: Dial) -> None:
        phone = self.config.phones[user]
        leg.dtmf = phone.dtmf
        bindings = self._phones.bindings(user, self.host.now())
        if not bindings:
            leg.cause, leg.detail = Cause.ABSENT, "not registered"
            self._end(leg)
            return
        leg.audio = self._audio(leg.id, bindings[0].flow.host)
        offer = leg.audio.offer()
        headers = list(_AUTO_ANSWER) if action.auto_answer else []
        for binding in bindings:
            self._invite(leg, action, offer, headers, binding=binding)

    def _dial_trunk(self, leg: _Leg, name: str, action: Dial) -> None:
        trunk = self.config.trunks[name]
        leg.dtmf = trunk.dtmf
        peers = sorted(self._door.peers.get(name, ()))
        if not peers:
            raise DeviceError(f"{trunk.peer} cannot be resolved")
        leg.audio = self._audio(leg.id, peers[0])
        self._invite(leg, action, leg.audio.offer(), [], trunk=name)

    def _invite(
        self,
        leg: _Leg,
        action: Dial,
        offer: bytes,
        headers: list[Header],
        *,
        binding: Binding | None = None,
        trunk: str = "",
    ) -> None:
        calling = action.calling
        timeout = None
        if binding is not None:
            target, flow, routes = binding.contact, binding.flow, binding.path
            credentials = None
        else:
            config = self.config.trunks[trunk]
            target = self._trunks.target(trunk, action.number)
            flow, routes = None, []
            credentials = self._trunks.credentials(trunk)
            calling = config.number or (config.user if config.register else calling)
            timeout = config.no_response_s
        host = self._wires.source_towards(flow.host if flow else self._peer_of(trunk))
        from_ = format_name_addr(make_uri(host, calling or "anonymous"), _plain(action.display))
        session = self.agent.invite(
            target,
            offer,
            self.host.now(),
            from_=from_,
            flow=flow,
            routes=routes,
            # The trace in the form of RFC 7989: what we began can be found in the peer's log.
            headers=[*headers, ("Session-ID", _session_id(action.trace))],
            credentials=credentials,
            timeout=timeout,
        )
        leg.sessions.append(session)
        self._by_session[session] = leg

    def _peer_of(self, trunk: str) -> str:
        return next(iter(sorted(self._door.peers.get(trunk, ()))), "127.0.0.1")

    def _progressed(self, leg: _Leg, event: sip.Progress) -> None:
        if event.body and len(leg.sessions) == 1:
            if event.answer_needed:
                self._answer_offer(leg, event.session, event.body)
            elif self._accept(leg, event.body) and not leg.early:
                leg.early = True
                self.host.emit(LegProgressed(leg=leg.id))
        if event.status == 180:
            self.host.emit(LegRinging(leg=leg.id))

    def _answered(self, leg: _Leg, event: sip.Answered) -> None:
        now = self.host.now()
        for other in leg.sessions:
            if other != event.session:
                self._by_session.pop(other, None)
                self.agent.hangup(other, now, headers=[_reason(Cause.ANSWERED_ELSEWHERE)])
        leg.sessions = [event.session]
        if event.answer_needed:
            self._answer_offer(leg, event.session, event.body or b"")
        elif event.body and not self._accept(leg, event.body):
            self._release(leg, Cause.NOT_ACCEPTABLE, "the answer took no audio")
            return
        leg.connected = True
        self.host.emit(LegAnswered(leg=leg.id))
        self._note_hold(leg)

    # Offers and answers on the way

    def _accept(self, leg: _Leg, body: bytes) -> bool:
        try:
            return leg.audio.accept(body)
        except PeerError as error:
            self.host.count("sdp_refused")
            self.host.log.info("answer not understood", leg=leg.id, error=str(error))
            return False

    def _answer_offer(self, leg: _Leg, session: int, offer: bytes) -> None:
        try:
            body = leg.audio.answer(offer)
        except (PeerError, DeviceError) as error:
            self.host.log.info("offer not understood", leg=leg.id, error=str(error))
            body = None
        if body is None:
            self._release(leg, Cause.NOT_ACCEPTABLE, "no codec in common")
            return
        self.agent.answer_offer(session, body, self.host.now())

    def _reoffered(self, leg: _Leg, event: sip.ReofferReceived) -> None:
        now = self.host.now()
        try:
            body = leg.audio.answer(event.offer) if event.offer else leg.audio.offer()
        except PeerError:
            self.agent.reject_offer(event.session, 400, now)
            return
        if body is None:
            self.agent.reject_offer(event.session, 488, now)
            return
        self.agent.answer_offer(event.session, body, now)
        self._note_hold(leg)

    def _note_hold(self, leg: _Leg) -> None:
        if leg.connected and leg.audio.remote_hold != leg.held:
            leg.held = not leg.held
            self.host.emit(LegHeld(leg=leg.id) if leg.held else LegRetrieved(leg=leg.id))

    def hold(self, action: Hold) -> None:
        self._change(action.leg, held=True)

    def retrieve(self, action: Retrieve) -> None:
        self._change(action.leg, held=False)

    def _change(self, leg_id: str, *, held: bool) -> None:
        leg = self._legs.get(leg_id)
        if leg and leg.connected:
            self.agent.reoffer(leg.sessions[0], leg.audio.hold(held), self.host.now())
            self._pump()

    def send_digits(self, action: SendDigits) -> None:
        leg = self._legs.get(action.leg)
        if leg is None or not leg.connected:
            return
        if leg.dtmf is DtmfMode.INFO:
            for digit in action.digits:
                self.agent.dtmf(leg.sessions[0], digit, self.host.now())
            self._pump()
        elif leg.audio.stream:
            leg.audio.stream.send_digits(action.digits)

    # Transfer

    def _referred(self, event: sip.Referred) -> None:
        now = self.host.now()
        leg = self._by_session.get(event.session or 0)
        if leg is None or not leg.connected:
            # Only somebody who is in a call of ours may ask for another.
            self.agent.respond(event.request, 403, now)
            return
        replaced = self._leg_replaced(event.replaces) if event.replaces else None
        if event.replaces and replaced is None:
            self.agent.respond(event.request, 481, now)
            return
        leg.refer = self.agent.accept_refer(event.request, now)
        self.host.emit(
            TransferRequested(
                leg=leg.id,
                target=unescape(event.target.uri.user),
                replaces=replaced.id if replaced else "",
            )
        )

    def _leg_replaced(self, replaces: str) -> _Leg | None:
        call_id, *params = replaces.split(";")
        tags = {param.partition("=")[2] for param in params}
        for key, user in self.agent.core.dialogs.items():
            session = getattr(user, "id", 0)
            if call_id.strip() in key and tags <= set(key):
                return self._by_session.get(session)
        return None

    # The end

    def hangup(self, action: Hangup) -> None:
        leg = self._legs.get(action.leg)
        if leg is not None and not leg.over:
            self._release(leg, action.cause, action.detail)
            self._pump()

    def _release(self, leg: _Leg, cause: Cause, detail: str) -> None:
        """End all sessions of a leg; the agent tells when each is over."""
        now = self.host.now()
        leg.cause, leg.detail = cause, detail
        if leg.refer is not None:
            self.agent.notify_refer(leg.refer, 200, now)
            leg.refer = None
        for session in list(leg.sessions):
            self.agent.hangup(session, now, to_sip(cause), headers=[_reason(cause)])
        if not leg.sessions:
            self._end(leg)

    def _ended(self, leg: _Leg, event: sip.Ended) -> None:
        self._by_session.pop(event.session, None)
        if event.session in leg.sessions:
            leg.sessions.remove(event.session)
        if event.how is not How.LOCAL:
            leg.cause, leg.detail = _why(event)
        if not leg.sessions:
            self._end(leg)

    def _end(self, leg: _Leg) -> None:
        """Exactly once for each leg."""
        if leg.over:
            return
        leg.over = True
        for session in leg.sessions:
            self._by_session.pop(session, None)
        self._legs.pop(leg.id, None)
        self.host.emit(LegEnded(leg=leg.id, cause=leg.cause, detail=leg.detail))

    def safe_state(self) -> None:
        """A telephone network has no outputs that could do harm."""

    # Requests outside of calls

    def _requested(self, event: sip.RequestReceived) -> None:
        now, request = self.host.now(), event.message
        if request.method == "REGISTER" and event.identity in self.config.phones:
            status, headers = self._phones.register(event.identity, request, event.flow, now)
            self.agent.respond(event.request, status, now, headers=headers)
        elif request.method == "MESSAGE" and event.identity:
            self.agent.respond(event.request, 202, now)
            self.host.emit(
                MessageReceived(
                    endpoint=f"{self.name}/{event.identity}",
                    sender=unescape(request.from_.uri.user),
                    recipient=unescape(request.uri.user),
                    text=request.body.decode("utf-8", "replace")[:4096],
                    trace=self.host.new_trace(),
                )
            )
        elif request.method == "SUBSCRIBE":
            self.agent.respond(event.request, 489, now)
        elif request.method == "REGISTER":
            self.agent.respond(event.request, 403, now)
        else:
            self.agent.respond(event.request, 501, now)

    def send_message(self, action: SendMessage) -> None:
        user = action.endpoint.partition("/")[2]
        now = self.host.now()
        if user in self.config.trunks:
            self.agent.message(
                self._trunks.target(user, action.recipient),
                action.text,
                now,
                credentials=self._trunks.credentials(user),
            )
        else:
            bindings = self._phones.bindings(user, now)
            if not bindings:
                raise DeviceError(f"{action.endpoint} is not registered")
            for binding in bindings:
                self.agent.message(binding.contact, action.text, now, flow=binding.flow)
        self._pump()


def _reason(cause: Cause) -> Header:
    """Why, in Q.850 (RFC 3326)."""
    return ("Reason", format_reason("Q.850", to_q850(cause), cause.value))


def _why(event: sip.Ended) -> tuple[Cause, str]:
    """Our word for how a session ended, and the peer's words."""
    for reason in event.reasons:
        if reason.protocol.lower() == "q.850" and reason.cause is not None:
            return from_q850(reason.cause), f"{event.how.value}: Q.850 {reason.cause} {reason.text}"
    if event.how is How.REJECTED:
        words = getattr(event.message, "reason", "")
        return from_sip(event.status), f"{event.status} {words}".strip()
    if event.how is How.BYE:
        return Cause.NORMAL, "BYE"
    return _HOW.get(event.how, Cause.NORMAL), event.how.value


def _plain(display: str) -> str:
    return "".join(sign for sign in display if sign.isprintable())[:80]


def _session_id(trace: str) -> str:
    return f"{trace.replace('-', '').lower():0<32.32};remote={'0' * 32}"
