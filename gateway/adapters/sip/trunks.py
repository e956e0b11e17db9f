"""Trunks: registered or known by address, watched by OPTIONS.

A trunk's name may lead to several servers (RFC 3263). Each is watched; calls go to the best one
that answers, and back to a better one as soon as it answers again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from gateway.adapters.base import Host
from gateway.adapters.sip.config import DtmfMode, SipSection, Trunk, first_hop
from gateway.adapters.sip.door import Door
from gateway.adapters.sip.identity import clean
from gateway.adapters.sip.phones import Probe
from gateway.adapters.sip.quota import Quota
from gateway.adapters.sip.wires import Expected, Wires
from gateway.core.endpoints import Condition, Endpoint
from gateway.errors import PeerError
from gateway.protocols.sip.agent import SipAgent
from gateway.protocols.sip.auth import Credentials
from gateway.protocols.sip.events import Registered, RegistrationFailed, ResponseReceived
from gateway.protocols.sip.headers import parse_name_addr
from gateway.protocols.sip.locating import Target
from gateway.protocols.sip.message import Response
from gateway.protocols.sip.names import OPTIONS
from gateway.protocols.sip.transaction import Flow
from gateway.protocols.sip.uri import Uri, host_port, make_uri, parse_uri

_RESOLVE_S: Final = 15.0
"""A peer's name may move: look again this often, which is free while its record's time lasts."""
_DOWN_S: Final = 5.0
"""Probe a peer that is down this often, if `keepalive_s` is longer."""
_AVOID_S: Final = 30.0
"""How long a server that let a call down is avoided where no OPTIONS tell of its return."""
_MOST_ROUTES: Final = 8
_WATCHED: Final = 4
"""Servers of one trunk that are watched and used."""


@dataclass(slots=True, eq=False)
class _Server:
    target: Target
    probe: Probe = field(default_factory=Probe)
    probe_at: float = 0.0
    lost_until: float = 0.0
    """Avoided until then, or until it answers."""
    renew: bool = False
    """It may have been restarted since, and know us no longer."""

    def lost(self, now: float) -> bool:
        return now < self.lost_until

    @property
    def flow(self) -> Flow:
        return Flow(*self.target)


@dataclass(slots=True)
class _State:
    servers: list[_Server] = field(default_factory=list)
    """Best first."""
    current: _Server | None = None
    registration: int | None = None
    registered: bool = False
    refused: bool = False
    """The registrar does not want us: asking more often would not help."""
    condition: Condition = Condition.UNKNOWN
    reason: str = "not heard from yet"
    agent: str = ""
    service: list[str] = field(default_factory=list)
    """The way that its registrar wants our calls to go (RFC 3608)."""
    ways: list[Flow] = field(default_factory=list)
    """Where that begins, if it is neither the peer nor our proxy."""


MESSAGES: Final = "messages"
"""Input of a trunk: how many new messages its mailbox holds."""


class Trunks:
    """The trunks of one adapter and how they stand."""

    def __init__(self, name: str, config: SipSection, host: Host, door: Door, wires: Wires) -> None:
        self._name, self._config, self._host = name, config, host
        self._door, self._wires = door, wires
        self._states = {trunk: _State() for trunk in config.trunks}
        self._by_token: dict[int, tuple[str, _Server | None]] = {}
        self._rates = {
            (trunk, way): Quota(found.calls_per_s, max(1.0, found.calls_per_s))
            for trunk, found in config.trunks.items()
            if found.calls_per_s
            for way in ("in", "out")
        }
        self._agent: SipAgent | None = None

    def endpoint(self, name: str) -> Endpoint:
        """A trunk as an endpoint."""
        trunk, state = self._config.trunks[name], self._states[name]
        detail = {"peer": trunk.peer}
        if trunk.proxy:
            detail["proxy"] = trunk.proxy
        server = state.current
        if server is not None:
            host, port = server.target.host, server.target.port
            detail["address"] = f"{server.target.transport}:{host_port(host, port)}"
        if len(state.servers) > 1:
            down = sum(found.lost_until > 0 for found in state.servers)
            detail["servers"] = f"{len(state.servers) - down} of {len(state.servers)} answer"
        if trunk.register:
            detail["registered"] = "yes" if state.registered else "no"
        if state.agent:
            detail["agent"] = state.agent
        if server is not None and server.probe.rtt_ms:
            detail["rtt_ms"] = f"{server.probe.rtt_ms:g}"
        return Endpoint(
            id=f"{self._name}/{name}",
            label=trunk.label,
            takes_number=True,
            capacity=trunk.calls,
            digits_beside=trunk.dtmf is DtmfMode.INFO,
            inputs=(MESSAGES,) if trunk.messages else (),
            condition=state.condition,
            reason=state.reason if state.condition is not Condition.UP else "",
            detail=detail,
        )

    def target(self, name: str, number: str) -> str:
        """The URI of a number at a trunk."""
        peer = self._peer(name)
        if peer.scheme == "sips":
            return make_uri(peer.host, number, peer.port, scheme="sips")
        transport = f";transport={peer.transport}" if peer.transport not in ("", "udp") else ""
        return make_uri(peer.host, number, peer.port) + transport

    def routes(self, name: str) -> list[str]:
        """Route values of calls and texts: the outbound proxy, if there is one, and what the
        registrar named (RFC 3608 section 6.1)."""
        return [*self._proxy(name), *self._states[name].service]

    def _proxy(self, name: str) -> list[str]:
        trunk = self._config.trunks[name]
        if not trunk.proxy:
            return []
        text = parse_uri(trunk.proxy).text
        return [f"<{text}>" if ";lr" in text else f"<{text};lr>"]

    def credentials(self, name: str) -> Credentials | None:
        """What we prove ourselves with; None when the trunk has no account."""
        trunk = self._config.trunks[name]
        if not trunk.user or not trunk.password:
            return None
        md5 = "MD5" in self._config.digest if trunk.md5 is None else trunk.md5
        return Credentials(trunk.user, trunk.password.reveal(), trunk.realm, allow_md5=md5)

    def host(self, name: str) -> str:
        """The peer's host as it is configured: the domain of its addresses."""
        return self._peer(name).host

    def flows(self, name: str) -> list[Flow]:
        """Ways to the trunk's servers, best first; empty while its name is not resolved."""
        state, now = self._states[name], self._host.now()
        if state.ways:
            return state.ways.copy()
        servers = sorted(state.servers, key=lambda server: server.lost(now))
        return [server.flow for server in servers]

    def has(self, name: str, host: str) -> bool:
        """Whether a host is the trunk's peer, its proxy or one of their servers."""
        hop = first_hop(self._config.trunks[name])
        return host in (hop.host, self.host(name)) or host in self._door.peers.get(name, ())

    def takes(self, name: str, way: str) -> bool:
        """Whether one more call may begin now, ``in`` or ``out``."""
        quota = self._rates.get((name, way))
        return quota is None or not quota.take(name, 1.0, self._host.now())

    def _peer(self, name: str) -> Uri:
        return parse_uri(self._config.trunks[name].peer)

    def announce(self, name: str) -> None:
        """Tell the bus how the trunk stands."""
        self._host.set_endpoint(self.endpoint(name))

    async def watch(self, name: str, agent: SipAgent, pump: Callable[[], None]) -> None:
        """Resolve, register and probe one trunk until cancelled."""
        self._agent = agent
        trunk, state = self._config.trunks[name], self._states[name]
        hop = first_hop(trunk)
        if not trunk.register and not trunk.keepalive_s:
            # Nobody tells us how it stands: it counts as there, a failed call says otherwise.
            self._set(name, Condition.UP, "")
        self.announce(name)
        resolve_at = 0.0
        while True:
            now = self._host.now()
            if now >= resolve_at:
                targets = await self._wires.locator.targets(hop)
                resolve_at = now + (_RESOLVE_S if targets else _DOWN_S)
                if targets:
                    self._found(name, targets[:_WATCHED])
                elif not state.servers:
                    self._set(name, Condition.DOWN, f"{hop.host} cannot be resolved")
                state.ways = await self._begin_of(name, state.service)
            if state.servers:
                if trunk.register and state.registration is None:
                    self._register(name, trunk, agent)
                for server in state.servers if trunk.keepalive_s else ():
                    if not server.probe.token and self._host.now() >= server.probe_at:
                        self._probe(name, trunk, server, agent)
            pump()
            await asyncio.sleep(min(1.0, trunk.keepalive_s or 1.0))

    async def _begin_of(self, name: str, service: list[str]) -> list[Flow]:
        """Where a registrar's way for our calls begins; empty: where the registrar is, too."""
        if not service or self._config.trunks[name].proxy:
            return []
        hop = parse_name_addr(service[0]).uri
        if self.has(name, hop.host):
            return []
        found = await self._wires.locator.targets(hop)
        expected = Expected(hop.host, self._config.trunks[name].tls_verify)
        for target in found:
            # Who is at a trunk's own servers is not for another one's registrar to say.
            known = any(target.host in peers for peers in self._door.peers.values())
            if target.transport == "tls" and not known:
                self._wires.expect(target, expected)
        return [Flow(*target) for target in found]

    async def _follow(self, name: str) -> None:
        state = self._states[name]
        state.ways = await self._begin_of(name, state.service)

    def _found(self, name: str, targets: list[Target]) -> None:
        """DNS says where the trunk's servers are."""
        state, trunk = self._states[name], self._config.trunks[name]
        if [server.target for server in state.servers] == targets:
            return
        known = {server.target: server for server in state.servers}
        state.servers = [known.get(target) or _Server(target) for target in targets]
        self._door.peers[name] = frozenset(target.host for target in targets)
        expected = Expected(trunk.tls_name or first_hop(trunk).host, trunk.tls_verify)
        for target in targets:
            if target.transport == "tls":
                self._wires.expect(target, expected)
        if not trunk.register and not trunk.keepalive_s:
            self._set(name, Condition.UP, "")
        self._choose(name)

    def _choose(self, name: str) -> None:
        """Use the best server that answers; a registration moves along."""
        state, now = self._states[name], self._host.now()
        best = next((s for s in state.servers if not s.lost(now)), None)
        if best is None or best is state.current:
            return
        moved, state.current = state.current is not None, best
        if moved:
            host, port = best.target.host, best.target.port
            self._host.log.info("trunk moved", trunk=name, to=host_port(host, port))
            if state.registration is not None and self._agent:
                self._agent.refresh(state.registration, now, best.flow)
        self.announce(name)

    def _probe(self, name: str, trunk: Trunk, server: _Server, agent: SipAgent) -> None:
        now = self._host.now()
        up = not server.lost_until and self._states[name].condition is Condition.UP
        server.probe_at = now + (trunk.keepalive_s if up else min(trunk.keepalive_s, _DOWN_S))
        server.probe.sent_at = now
        server.probe.token = agent.request(
            OPTIONS,
            self.target(name, ""),
            now,
            flow=server.flow,
            routes=self._proxy(name),
            timeout=trunk.no_response_s,
            contact=True,
            headers=[("Accept", "application/sdp")],
        )
        self._by_token[server.probe.token] = (name, server)

    def _register(self, name: str, trunk: Trunk, agent: SipAgent) -> None:
        state, peer = self._states[name], self._peer(name)
        flow = (state.current or state.servers[0]).flow
        state.registration = agent.register(
            self.target(name, ""),
            make_uri(peer.host, trunk.user, scheme=peer.scheme),
            self._host.now(),
            credentials=self.credentials(name),
            expires=trunk.expires_s,
            contact_user=trunk.user,
            flow=flow,
            routes=self._proxy(name),
        )
        self._by_token[state.registration] = (name, None)

    def stop(self, agent: SipAgent, now: float) -> None:
        """Take our registrations back."""
        for name, state in self._states.items():
            if state.registration is not None and state.registered:
                agent.unregister(state.registration, now)
            self._states[name] = _State()
        self._by_token.clear()
        self._agent = None

    def failed(self, name: str, flow: Flow, status: int) -> None:
        """A call got a 503 from a server, or no answer at all (status 0): avoid it, until its next
        probe says otherwise."""
        state = self._states.get(name)
        if state is None:
            return
        trunk, now = self._config.trunks[name], self._host.now()
        for server in state.servers:
            if server.flow == flow:
                reason = f"{status} to a call" if status else "no answer to a call"
                self._lose(name, server, reason, renew=not status)
                server.probe_at = min(server.probe_at, now + min(1.0, trunk.keepalive_s))

    def _lose(self, name: str, server: _Server, reason: str, *, renew: bool = True) -> None:
        """A server does not answer, or cannot work; the trunk is down when none does."""
        state, trunk, now = self._states[name], self._config.trunks[name], self._host.now()
        server.renew |= renew
        server.lost_until = float("inf") if trunk.keepalive_s else now + _AVOID_S
        if trunk.keepalive_s and all(found.lost(now) for found in state.servers):
            self._set(name, Condition.DOWN, reason)
        else:
            self._choose(name)

    def took(self, event: Registered | RegistrationFailed | ResponseReceived) -> bool:
        """News about a registration or probe; False when it is none of ours."""
        name, server = self._by_token.get(event.token, ("", None))
        if not name:
            return False
        match event:
            case Registered(response=response):
                self._states[name].registered = True
                self._states[name].refused = False
                service = _service_route(response)
                if service != self._states[name].service:
                    self._states[name].service = service
                    self._host.create_task(self._follow(name), name=f"service route of {name}")
                self._set(name, Condition.UP, "")
            case RegistrationFailed():
                self._not_registered(name, event)
            case ResponseReceived() if server is not None:
                self._answered(name, server, event)
        return True

    def _not_registered(self, name: str, event: RegistrationFailed) -> None:
        state, status, words = self._states[name], event.status, event.response.reason
        state.registered = False
        if event.response.synthetic:
            state.refused = False
            self._set(name, Condition.DOWN, "no answer to REGISTER")
            if state.current is not None:
                self._lose(name, state.current, "no answer to REGISTER")
            return
        state.refused = status not in (408, 500, 503, 504)
        reason = f"registration refused: {status} {words}"
        offered = " ".join(
            [*event.response.all("www-authenticate"), *event.response.all("proxy-authenticate")]
        ).upper()
        known = self.credentials(name)
        if known and not known.allow_md5 and offered and "SHA" not in offered:
            reason += "; the peer offers MD5 only, which md5 = true would allow"
        self._set(name, Condition.DOWN, reason)

    def _answered(self, name: str, server: _Server, event: ResponseReceived) -> None:
        """An OPTIONS is over. Any answer, even a refusal, says that the peer is there; only a 503
        says that it cannot work."""
        state, trunk, response = self._states[name], self._config.trunks[name], event.response
        del self._by_token[event.token]
        server.probe.token = 0
        if server not in state.servers:
            return
        if response.synthetic or response.status == 503:
            status = "" if response.synthetic else f" but {response.status} {response.reason}"
            self._lose(name, server, f"no answer to OPTIONS{status}")
            return
        server.probe.answered(self._host.now())
        renew, server.renew, server.lost_until = server.renew, False, 0.0
        state.agent = clean(response.get("server") or response.get("user-agent") or "", 80)
        self._choose(name)
        if not trunk.register or state.registered:
            self._set(name, Condition.UP, "")
            if renew and server is state.current and state.registration is not None and self._agent:
                self._agent.refresh(state.registration, self._host.now())
        elif state.registration is not None and self._agent and not state.refused:
            # It is back: do not let the registration wait out its pause of up to half an hour.
            self._agent.refresh(state.registration, self._host.now())
            self.announce(name)

    def _set(self, name: str, condition: Condition, reason: str) -> None:
        state = self._states[name]
        if (state.condition, state.reason) != (condition, reason):
            if condition is Condition.DOWN:
                self._host.log.warning("trunk down", trunk=name, reason=reason)
            elif state.condition is Condition.DOWN:
                self._host.log.info("trunk up", trunk=name)
        state.condition, state.reason = condition, reason
        self.announce(name)


def _service_route(response: Response) -> list[str]:
    """The way that a registrar names; none if it cannot be gone."""
    try:
        found = [value.strip() for value in response.values("service-route")[:_MOST_ROUTES]]
        for value in found:
            if parse_name_addr(value).uri.scheme not in ("sip", "sips"):
                return []
    except PeerError:
        return []
    return found
