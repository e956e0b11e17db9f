"""Trunks: registered or known by address, watched by OPTIONS."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from gateway.adapters.base import Host
from gateway.adapters.sip.config import SipSection, Trunk
from gateway.adapters.sip.door import Door
from gateway.adapters.sip.wires import resolve
from gateway.core.endpoints import Condition, Endpoint
from gateway.protocols.sip.agent import SipAgent
from gateway.protocols.sip.auth import Credentials
from gateway.protocols.sip.events import Registered, RegistrationFailed, ResponseReceived
from gateway.protocols.sip.uri import Uri, make_uri, parse_uri

# A peer's name may move: look it up again this often.
_RESOLVE_S = 60.0


@dataclass(slots=True)
class _State:
    registration: int | None = None
    registered: bool = False
    probe: int | None = None
    condition: Condition = Condition.UNKNOWN
    reason: str = "not heard from yet"
    agent: str = ""


class Trunks:
    """The trunks of one adapter and how they stand."""

    def __init__(self, name: str, config: SipSection, host: Host, door: Door) -> None:
        self._name, self._config, self._host, self._door = name, config, host, door
        self._states = {trunk: _State() for trunk in config.trunks}
        self._by_token: dict[int, str] = {}

    def endpoint(self, name: str) -> Endpoint:
        """A trunk as an endpoint."""
        trunk, state = self._config.trunks[name], self._states[name]
        detail = {"peer": trunk.peer}
        if trunk.register:
            detail["registered"] = "yes" if state.registered else "no"
        if state.agent:
            detail["agent"] = state.agent
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

    def _peer(self, name: str) -> Uri:
        return parse_uri(self._config.trunks[name].peer)

    def announce(self, name: str) -> None:
        """Tell the bus how the trunk stands."""
        self._host.set_endpoint(self.endpoint(name))

    async def watch(self, name: str, agent: SipAgent, pump: Callable[[], None]) -> None:
        """Resolve, register and probe one trunk until cancelled."""
        trunk, state = self._config.trunks[name], self._states[name]
        peer = self._peer(name)
        if not trunk.register and not trunk.keepalive_s:
            # Nobody tells us how it stands: it counts as there, a failed call says otherwise.
            self._set(name, Condition.UP, "")
        self.announce(name)
        wait = min(trunk.keepalive_s or _RESOLVE_S, _RESOLVE_S)
        while True:
            addresses = await resolve(peer.host)
            if addresses:
                self._door.peers[name] = frozenset(addresses)
            elif name not in self._door.peers:
                self._set(name, Condition.DOWN, f"{peer.host} cannot be resolved")
            if addresses and trunk.register and state.registration is None:
                self._register(name, trunk, agent)
            if addresses and trunk.keepalive_s and state.probe is None:
                state.probe = agent.options(
                    self.target(name, ""), self._host.now(), timeout=trunk.no_response_s
                )
                self._by_token[state.probe] = name
            pump()
            await asyncio.sleep(wait)

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
            state.registration = state.probe = None
            state.registered = False
            state.condition, state.reason = Condition.UNKNOWN, "not heard from yet"
        self._by_token.clear()

    def took(self, event: Registered | RegistrationFailed | ResponseReceived) -> bool:
        """News about a registration or probe; False when it is none of ours."""
        name = self._by_token.get(event.token)
        if name is None:
            return False
        state, trunk = self._states[name], self._config.trunks[name]
        match event:
            case Registered():
                state.registered = True
                self._set(name, Condition.UP, "")
            case RegistrationFailed(status=status, response=response):
                state.registered = False
                self._set(name, Condition.DOWN, f"registration refused: {status} {response.reason}")
            case ResponseReceived(response=response):
                del self._by_token[event.token]
                state.probe = None
                state.agent = (response.get("server") or response.get("user-agent") or "")[:80]
                # Any answer, even a refusal, says that it is there; 408 and 503 made by our own
                # agent, or a 503 of its own, say that it is not.
                there = response.status not in (408, 503)
                if not there:
                    self._set(name, Condition.DOWN, f"no answer to OPTIONS ({response.status})")
                elif not trunk.register or state.registered:
                    self._set(name, Condition.UP, "")
        return True

    def _set(self, name: str, condition: Condition, reason: str) -> None:
        state = self._states[name]
        if (state.condition, state.reason) != (condition, reason):
            if condition is Condition.DOWN:
                self._host.log.warning("trunk down", trunk=name, reason=reason)
            elif state.condition is Condition.DOWN:
                self._host.log.info("trunk up", trunk=name)
        state.condition, state.reason = condition, reason
        self.announce(name)
