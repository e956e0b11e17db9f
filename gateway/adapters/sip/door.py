"""Who may come in: trunks by address, phones by digest; everybody else is a stranger.

A stranger learns nothing: a user that does not exist is challenged and refused like one that
does, with the same work. Too many wrong passwords from one address are answered with silence; the
same user at another address is not affected.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

from gateway.adapters.base import Log
from gateway.adapters.sip.config import SipSection
from gateway.protocols.sip.auth import Authenticated, DigestServer, ha1
from gateway.protocols.sip.gate import Admit, Drop, Refuse, Verdict
from gateway.protocols.sip.message import Request
from gateway.protocols.sip.names import REGISTER
from gateway.protocols.sip.transaction import Flow

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
# How many addresses with failures are remembered; the oldest is forgotten.
_REMEMBERED: Final = 10_000
# REGISTERs without credentials in a row after which a phone counts as unable to answer.
_DEAF: Final = 3
_METHODS_OF_ALL: Final = frozenset(("OPTIONS", "ACK", "CANCEL"))


class Door:
    """The gate of a SIP agent (`gateway.protocols.sip.gate.Gate`)."""

    def __init__(self, config: SipSection, count: Callable[[str], None], log: Log) -> None:
        self._config = config
        self._count = count
        self._log = log
        self._challenged: OrderedDict[str, int] = OrderedDict()
        self._digest = DigestServer(
            config.realm,
            self._secret,
            algorithms=config.digest,
            require_qop=config.require_qop,
        )
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._networks: dict[str, list[_Network]] = {
            name: [ipaddress.ip_network(text, strict=False) for text in trunk.allow]
            for name, trunk in config.trunks.items()
        }
        self.peers: dict[str, frozenset[str]] = {}
        """Resolved addresses of each trunk's peer."""

    def _secret(self, username: str, realm: str, algorithm: str) -> str | None:
        phone = self._config.phones.get(username)
        if phone is None:
            return None
        return ha1(algorithm, username, realm, phone.password.reveal())

    def trunk_at(self, host: str) -> str | None:
        """The trunk whose peer or network an address belongs to."""
        for name, addresses in self.peers.items():
            if host in addresses:
                return name
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return None
        for name, networks in self._networks.items():
            if any(address in network for network in networks):
                return name
        return None

    def __call__(self, request: Request, flow: Flow, now: float) -> Verdict:
        """Judge a request from outside."""
        trunk = self.trunk_at(flow.host) if request.method != REGISTER else None
        if trunk is not None:
            # Before the lockout: a phone at a trunk's address must not be able to shut it out.
            return Admit(trunk)
        failures, until = self._failures.get(flow.host, (0, 0.0))
        if failures >= self._config.lockout_failures:
            if now < until:
                self._count("locked_out")
                return Drop()
            del self._failures[flow.host]
        if request.method in _METHODS_OF_ALL:
            return Admit()
        verdict = self._digest.check(request, now)
        if isinstance(verdict, Authenticated):
            if not self._is_own(request, verdict.username):
                self._count("identity_mismatch")
                return Refuse(403)
            self._failures.pop(flow.host, None)
            self._challenged.pop(flow.host, None)
            return Admit(verdict.username)
        if verdict.failed:
            self._count("wrong_password")
            self._failures[flow.host] = (failures + 1, now + self._config.lockout_s)
            self._failures.move_to_end(flow.host)
            if len(self._failures) > _REMEMBERED:
                self._failures.popitem(last=False)
        elif request.method == REGISTER and "authorization" not in request.headers:
            self._notice_deaf(flow.host)
        return Refuse(verdict.status, verdict.headers)

    def _notice_deaf(self, host: str) -> None:
        """Say once for each address that its phone takes none of our challenges."""
        times = self._challenged[host] = self._challenged.pop(host, 0) + 1
        if times == _DEAF:
            self._log.warning(
                "a phone does not answer our challenge: perhaps it cannot do this digest",
                address=host,
                offered=", ".join(self._config.digest),
                remedy='digest = ["MD5"]',
            )
        if len(self._challenged) > _REMEMBERED:
            self._challenged.popitem(last=False)

    def _is_own(self, request: Request, username: str) -> bool:
        """A phone registers and calls only as itself."""
        claimed = request.to if request.method == REGISTER else request.from_
        phone = self._config.phones[username]
        return claimed.uri.user in (username, phone.number or username)

    def locked_out(self, now: float) -> Mapping[str, float]:
        """Addresses that are ignored, and until when."""
        return {
            host: until
            for host, (failures, until) in self._failures.items()
            if failures >= self._config.lockout_failures and until > now
        }
