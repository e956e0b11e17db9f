"""Who may come in: trunks by address, phones by digest; everybody else is a stranger.

A stranger learns nothing: a user that does not exist is challenged and refused like one that
does, with the same work. Too many wrong passwords from one address are answered with silence; the
same user at another address is not affected, nor are others at this one who have proved
themselves there before.
"""

from __future__ import annotations

import ipaddress
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.adapters.base import Log
from gateway.adapters.sip.config import SipSection, VerifyClients, first_hop
from gateway.adapters.sip.quota import Quota, source_of
from gateway.protocols.sip.auth import Authenticated, Challenge, DigestServer, ha1
from gateway.protocols.sip.gate import Admit, Drop, Refuse, Verdict
from gateway.protocols.sip.message import Request
from gateway.protocols.sip.names import REGISTER
from gateway.protocols.sip.transaction import Flow

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
# How many addresses with failures are remembered; the oldest is forgotten.
_REMEMBERED: Final = 10_000
# Wrong passwords so long ago are no guesses: a gateway runs for years, and somebody mistypes.
_FORGOTTEN_S: Final = 86_400.0
# Of a user name that is guessed at; more of it is nobody's.
_LONGEST: Final = 64
# REGISTERs without credentials in a row after which a phone counts as unable to answer.
_DEAF: Final = 3
_METHODS_OF_ALL: Final = frozenset(("OPTIONS", "ACK", "CANCEL"))


@dataclass(slots=True)
class _Failures:
    """Wrong passwords of one source."""

    users: dict[str, int] = field(default_factory=dict)
    """How many for whom. His own success clears a user's alone: else an account would be a
    licence to guess the passwords of others."""
    until: float = 0.0

    def count(self) -> int:
        return sum(self.users.values())


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
        self._failures: OrderedDict[str, _Failures] = OrderedDict()
        self._proven: OrderedDict[str, set[str]] = OrderedDict()
        """Who has proved himself at which address."""
        self._networks: dict[str, list[_Network]] = {
            name: [ipaddress.ip_network(text, strict=False) for text in trunk.allow]
            for name, trunk in config.trunks.items()
        }
        self.peers: dict[str, frozenset[str]] = {}
        """Resolved addresses of each trunk's peer."""
        self.guessed: Callable[[str, str, float], None] = lambda user, source, now: None
        """Told of a phone whose password was guessed at, and of the source that is ignored now."""
        self.names_at: Callable[[int], frozenset[str]] = lambda connection: frozenset()
        """Domains in the verified certificate of a connection's peer."""
        self._secure = {
            name for name, trunk in config.trunks.items() if first_hop(trunk).transport == "tls"
        }
        self._certified = {
            name: config.trunks[name].tls_name or first_hop(config.trunks[name]).host
            for name in self._secure
            if config.tls.clients is not VerifyClients.NO
        }
        self._allow = [ipaddress.ip_network(text, strict=False) for text in config.allow]
        self._deny = [ipaddress.ip_network(text, strict=False) for text in config.deny]
        self._requests = Quota(config.requests_per_s, 5 * config.requests_per_s)
        self._decoy = os.urandom(16).hex()

    def _secret(self, username: str, realm: str, algorithm: str) -> str | None:
        phone = self._config.phones.get(username)
        # The same work for a user that does not exist: time would tell which ones do.
        password = phone.password.reveal() if phone else self._decoy
        found = ha1(algorithm, username, realm, password)
        return found if phone else None

    def trunk_at(self, host: str) -> str | None:
        """The trunk whose peer or network an address belongs to."""
        for name, addresses in self.peers.items():
            if host in addresses:
                return name
        address = _address(host)
        if address is None:
            return None
        for name, networks in self._networks.items():
            if any(address in network for network in networks):
                return name
        return None

    def admits(self, host: str) -> bool:
        """Whether anything may come from an address at all."""
        if not self._deny and not self._allow:
            return True
        address = _address(host)
        if address is None or any(address in network for network in self._deny):
            return False
        if not self._allow or any(address in network for network in self._allow):
            return True
        return self.trunk_at(host) is not None

    def trusts(self, host: str) -> bool:
        """Whether an address is a trunk's, which may send as much as it likes."""
        return self.trunk_at(host) is not None

    def _trunk_of(self, flow: Flow) -> str | None:
        """The trunk that a request comes from: by its certificate, else by its address. One that
        is reached over TLS is not believed over anything else, for addresses can be forged."""
        if flow.transport == "tls" and self._certified:
            names = self.names_at(flow.connection)
            for certified, name in self._certified.items():
                if name in names:
                    return certified
        trunk = self.trunk_at(flow.host)
        if trunk in self._secure and flow.transport != "tls":
            self._count("trunk_not_secure")
            return None
        return trunk

    def __call__(self, request: Request, flow: Flow, now: float) -> Verdict:
        """Judge a request from outside."""
        if request.uri.scheme == "sips" and flow.transport != "tls":
            # RFC 3261 section 26.2.2: it was to be TLS all the way.
            return Refuse(403, [("Warning", '381 crosspoint "SIPS Required"')])
        trunk = self._trunk_of(flow) if request.method != REGISTER else None
        if trunk is not None:
            # Before the lockout: a phone at a trunk's address must not be able to shut it out.
            return Admit(trunk)
        source = source_of(flow.host)
        failures = self._failures.get(source)
        if failures is not None and now >= failures.until + _FORGOTTEN_S:
            del self._failures[source]
            failures = None
        spared: set[str] | None = None
        if failures is not None and failures.count() >= self._config.lockout_failures:
            if now < failures.until:
                # One telephone with a wrong password does not silence all those behind its NAT.
                spared = self._proven.get(flow.host, set()) - failures.users.keys()
                if not spared:
                    self._count("locked_out")
                    return Drop()
            else:
                del self._failures[source]
        if self._requests.take(source, 1.0, now):
            self._count("rate_limited")
            return Drop()
        if request.method in _METHODS_OF_ALL:
            return Admit()
        verdict = self._digest.check(request, now, flow.host)
        user, failed = verdict.username, isinstance(verdict, Challenge) and verdict.failed
        if spared is not None and (user or failed) and user not in spared:
            self._count("locked_out")
            return Drop()
        if isinstance(verdict, Authenticated):
            if not self._is_own(request, user):
                self._count("identity_mismatch")
                return Refuse(403)
            self._note_success(source, flow.host, user)
            return Admit(user)
        if failed:
            self._note_failure(source, user, now)
            if spared is not None:
                return Drop()
        elif request.method == REGISTER and "authorization" not in request.headers:
            self._notice_deaf(flow.host)
        return Refuse(verdict.status, verdict.headers)

    def _note_success(self, source: str, host: str, user: str) -> None:
        failures = self._failures.get(source)
        if failures is not None and failures.users.pop(user, 0) and not failures.users:
            del self._failures[source]
        self._challenged.pop(host, None)
        self._proven.setdefault(host, set()).add(user)
        self._proven.move_to_end(host)
        if len(self._proven) > _REMEMBERED:
            self._proven.popitem(last=False)

    def _note_failure(self, source: str, user: str, now: float) -> None:
        self._count("wrong_password")
        failures = self._failures.setdefault(source, _Failures())
        failures.users[user[:_LONGEST]] = failures.users.get(user[:_LONGEST], 0) + 1
        failures.until = now + self._config.lockout_s
        self._failures.move_to_end(source)
        if failures.count() == self._config.lockout_failures:
            self._log.warning("a source is ignored: too many wrong passwords", source=source)
            for each in failures.users.keys() & self._config.phones.keys():
                self.guessed(each, source, now)
        if len(self._failures) > _REMEMBERED:
            self._failures.popitem(last=False)

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
        who = f"{claimed.uri.user}@{claimed.uri.host}".lower()
        if request.method == "INVITE" and who == "anonymous@anonymous.invalid":
            # RFC 3323 section 4.1.1.3: we know who it is, the others need not.
            return True
        phone = self._config.phones[username]
        return claimed.uri.user in (username, phone.number or username)

    def locked_out(self, now: float) -> Mapping[str, float]:
        """Sources that are ignored, and until when."""
        return {
            source: failures.until
            for source, failures in self._failures.items()
            if failures.count() >= self._config.lockout_failures and failures.until > now
        }


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
