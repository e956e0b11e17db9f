"""Calls to outside: telephones at all their contacts, trunks at one server after the other."""

from __future__ import annotations

from typing import Final

from gateway.adapters.sip.book import Book
from gateway.adapters.sip.config import Diverting, Phone, SrtpMode, SrtpOver, Trunk
from gateway.adapters.sip.diverting import diversions, outward
from gateway.adapters.sip.identity import (
    AUTO_ANSWER,
    Caller,
    asserted,
    dialled,
    e164,
    from_value,
    half_of,
    urgency,
)
from gateway.adapters.sip.legs import Leg
from gateway.adapters.sip.natting import hidden, rebind, unreachable
from gateway.adapters.sip.precedence import resource_priority
from gateway.core.actions import Dial
from gateway.core.causes import Cause
from gateway.core.events import LegEnded
from gateway.errors import DeviceError, PeerError, UsageError
from gateway.protocols.sip.headers import parse_name_addr
from gateway.protocols.sip.registrar import Binding, one_flow_each
from gateway.protocols.sip.sessionid import session_id
from gateway.protocols.sip.transaction import Flow
from gateway.protocols.sip.uri import parse_uri

_PHONE_SILENT_S: Final = 8.0
MOST_HOPS: Final = 70
"""Through so many exchanges a call or text goes at most (RFC 3261 section 8.1.1.6)."""


class Outbound(Book):
    """Whom we call."""

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

    def _afresh(self, binding: Binding) -> Flow:
        """The way to a phone whose connection is gone: its Contact (or Path) says port and
        transport, but not another host. Those who trust our address, such as carriers, would take
        the call for ours."""
        hop = parse_name_addr(binding.path[0]).uri if binding.path else parse_uri(binding.contact)
        return self.agent.core.flow_to(hop)._replace(host=binding.flow.host)

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

    def _is_private(self, binding: Binding) -> bool:
        """Whether what we send to a contact goes over TLS."""
        try:
            flow = binding.flow if self._stands(binding.flow) else self._afresh(binding)
        except PeerError:
            return False
        return flow.transport == "tls"

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
