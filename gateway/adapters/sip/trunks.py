"""Trunks: registered or known by address, watched by OPTIONS."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.adapters.base import Host
from gateway.adapters.sip.config import SipSection, Trunk
from gateway.adapters.sip.door import Door
from gateway.adapters.sip.identity import clean
from gateway.adapters.sip.phones import Probe
from gateway.adapters.sip.wires import resolve
from gateway.core.endpoints import Condition, Endpoint
from gateway.protocols.sip.agent import SipAgent
from gateway.protocols.sip.auth import Credentials
from gateway.protocols.sip.events import Registered, RegistrationFailed, ResponseReceived
from gateway.protocols.sip.uri import Uri, make_uri, parse_uri

_RESOLVE_S: Final = 60.0
"""A peer's name may move: look it up again this often."""
_DOWN_S: Final = 5.0
"""Probe a peer that is down this often, if `keepalive_s` is longer."""


@dataclass(slots=True)
class _State:
    probe: Probe
    registration: int | None = None
    registered: bool = False
    refused: bool = False
    """The registrar does not want us: asking more often would not help."""
    probe_at: float = 0.0
    condition: Condition = Condition.UNKNOWN
    reason: str = "not heard from yet"
    agent: str = ""


class Trunks:
    """The trunks of one adapter and how they stand."""

    def __init__(self, name: str, config: SipSection, host: Host, door: Door) -> None:
        self._name, self._config, self._host, self._door = name, config, host, door
        self._states = {trunk: _State(Probe()) for trunk in config.trunks}
        self._by_token: dict[int, str] = {}
        self._agent: SipAgent | None = None

    def endpoint(self, name: str) -> Endpoint:
        """A trunk as an endpoint."""
        trunk, state = self._config.trunks[name], self._states[name]
        detail = {"peer": trunk.peer}
        if trunk.register:
            detail["registered"] = "yes" if state.registered else "no"
        if state.agent:
            detail["agent"] = state.agent
        if state.probe.rtt_ms:
            detail["rtt_ms"] = f"{state.probe.rtt_ms:g}"
        return Endpoint(
            id=f"{self._name}/{name}",
            label=trunk.label,
            takes_number=True,
            capacity=trunk.calls,
            condition=state.condition,
            reason=state.reason if state.condition is not Condition.UP else "",
            detail=detail,
        )

    def target(self, name: str, number: str) -> str:
        """The URI of a number at a trunk."""
        peer = self._peer(name)
        transport = f";transport={peer.transport}" if peer.transport not in ("", "udp") else ""
        return make_uri(peer.host, number, peer.port) + transport

    def credentials(self, name: str) -> Credentials | None:
        """What we prove ourselves with; None when the trunk has no account."""
        trunk = self._config.trunks[name]
        if not trunk.user or not trunk.password:
            return None
        return Credentials(trunk.user, trunk.password.reveal(), trunk.realm)

    def host(self, name: str) -> str:
        """The peer's host as it is configured: the domain of its addresses."""
        return self._peer(name).host

    def address(self, name: str) -> str:
        """An address of the peer; empty while its name is not resolved."""
        return min(self._door.peers.get(name, ()), default="")

    def _peer(self, name: str) -> Uri:
        return parse_uri(self._config.trunks[name].peer)

    def announce(self, name: str) -> None:
        """Tell the bus how the trunk stands."""
        self._host.set_endpoint(self.endpoint(name))

    async def watch(self, name: str, agent: SipAgent, pump: Callable[[], None]) -> None:
        """Resolve, register and probe one trunk until cancelled."""
        self._agent = agent
        trunk, state = self._config.trunks[name], self._states[name]
        peer = self._peer(name)
        if not trunk.register and not trunk.keepalive_s:
            # Nobody tells us how it stands: it counts as there, a failed call says otherwise.
            self._set(name, Condition.UP, "")
        self.announce(name)
        resolve_at = 0.0
        state.probe_at = 0.0
        while True:
            now = self._host.now()
            if now >= resolve_at:
                addresses = await resolve(peer.host)
                resolve_at = now + (_RESOLVE_S if addresses else _DOWN_S)
                if addresses:
                    self._door.peers[name] = frozenset(addresses)
                elif name not in self._door.peers:
                    self._set(name, Condition.DOWN, f"{peer.host} cannot be resolved")
            if name in self._door.peers:
                if trunk.register and state.registration is None:
                    self._register(name, trunk, agent)
                if trunk.keepalive_s and not state.probe.token and now >= state.probe_at:
                    self._probe(name, trunk, agent)
            pump()
            await asyncio.sleep(min(1.0, trunk.keepalive_s or 1.0))

    def _probe(self, name: str, trunk: Trunk, agent: SipAgent) -> None:
        state, now = self._states[name], self._host.now()
        up = state.condition is Condition.UP
        state.probe_at = now + (trunk.keepalive_s if up else min(trunk.keepalive_s, _DOWN_S))
        state.probe.sent_at = now
        state.probe.token = agent.options(self.target(name, ""), now, timeout=trunk.no_response_s)
        self._by_token[state.probe.token] = name

    def _register(self, name: str, trunk: Trunk, agent: SipAgent) -> None:
        state, peer = self._states[name], self._peer(name)
        state.registration = agent.register(
            self.target(name, ""),
            make_uri(peer.host, trunk.user),
            self._host.now(),
            credentials=self.credentials(name),
            expires=trunk.expires_s,
            contact_user=trunk.user,
        )
        self._by_token[state.registration] = name

    def stop(self, agent: SipAgent, now: float) -> None:
        """Take our registrations back."""
        for state in self._states.values():
            if state.registration is not None and state.registered:
                agent.unregister(state.registration, now)
            state.registration = None
            state.registered = state.refused = False
            state.probe = Probe()
            state.condition, state.reason = Condition.UNKNOWN, "not heard from yet"
        self._by_token.clear()
        self._agent = None

    def silent(self, name: str) -> None:
        """A call got no answer at all: down, until the next probe says otherwise."""
        state = self._states.get(name)
        if state is not None and self._config.trunks[name].keepalive_s:
            self._set(name, Condition.DOWN, "no answer to a call")
            state.probe_at = self._host.now() + min(1.0, self._config.trunks[name].keepalive_s)

    def took(self, event: Registered | RegistrationFailed | ResponseReceived) -> bool:
        """News about a registration or probe; False when it is none of ours."""
        name = self._by_token.get(event.token)
        if name is None:
            return False
        match event:
            case Registered():
                self._states[name].registered = True
                self._states[name].refused = False
                self._set(name, Condition.UP, "")
            case RegistrationFailed():
                self._not_registered(name, event)
            case ResponseReceived():
                self._answered(name, event)
        return True

    def _not_registered(self, name: str, event: RegistrationFailed) -> None:
        state, status, words = self._states[name], event.status, event.response.reason
        state.registered = False
        if event.response.synthetic:
            state.refused = False
            self._set(name, Condition.DOWN, "no answer to REGISTER")
        else:
            state.refused = status not in (408, 500, 503, 504)
            self._set(name, Condition.DOWN, f"registration refused: {status} {words}")

    def _answered(self, name: str, event: ResponseReceived) -> None:
        """An OPTIONS is over. Any answer, even a refusal, says that the peer is there; only a 503
        says that it cannot work."""
        state, trunk, response = self._states[name], self._config.trunks[name], event.response
        del self._by_token[event.token]
        state.probe.token = 0
        if response.synthetic or response.status == 503:
            status = "" if response.synthetic else f" but {response.status} {response.reason}"
            self._set(name, Condition.DOWN, f"no answer to OPTIONS{status}")
            return
        state.probe.answered(self._host.now())
        state.agent = clean(response.get("server") or response.get("user-agent") or "", 80)
        if not trunk.register or state.registered:
            self._set(name, Condition.UP, "")
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
