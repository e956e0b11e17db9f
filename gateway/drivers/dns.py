"""Names: records from DNS, addresses from the hosts file first. No policy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import dns.asyncresolver
import dns.exception
import dns.nameserver
import dns.rdatatype
import dns.resolver

_HOSTS: Final = Path("/etc/hosts")
_LIFETIME_S: Final = 4.0
"""Of one question, over all servers."""
_SERVER_S: Final = 1.5
_LONGEST: Final = 64
"""Records of one answer that are looked at."""
_CACHED: Final = 2000


class Resolver:
    """Asks name servers and keeps what they say for as long as they say (TTL)."""

    def __init__(
        self, nameservers: Sequence[tuple[str, int]] = (), *, hosts: Path = _HOSTS
    ) -> None:
        """nameservers: address and port; none: those of the system."""
        self._given, self._hosts_file = nameservers, hosts
        self._resolver: dns.asyncresolver.Resolver | None = None
        self._hosts: dict[str, list[str]] = {}
        self._hosts_stamp = 0

    def _opened(self) -> dns.asyncresolver.Resolver | None:
        if self._resolver is None:
            try:
                resolver = dns.asyncresolver.Resolver(configure=not self._given)
            except (dns.exception.DNSException, OSError):
                return None
            if self._given:
                resolver.nameservers = [dns.nameserver.Do53Nameserver(*s) for s in self._given]
            resolver.lifetime, resolver.timeout = _LIFETIME_S, _SERVER_S
            resolver.cache = dns.resolver.LRUCache(_CACHED)
            self._resolver = resolver
        return self._resolver

    async def _ask(self, name: str, kind: dns.rdatatype.RdataType, *, search: bool) -> list[Any]:
        resolver = self._opened()
        if resolver is None:
            return []
        try:
            answer = await resolver.resolve(name, kind, search=search, raise_on_no_answer=False)
        except (dns.exception.DNSException, OSError, ValueError, UnicodeError):
            return []
        return list(answer.rrset or ())[:_LONGEST]

    async def naptr(self, name: str) -> list[tuple[int, int, str, str, str]]:
        """Order, preference, flags, service and replacement of NAPTR records."""
        return [
            (
                record.order,
                record.preference,
                record.flags.decode("ascii", "replace"),
                record.service.decode("ascii", "replace"),
                record.replacement.to_text(omit_final_dot=True),
            )
            for record in await self._ask(name, dns.rdatatype.NAPTR, search=False)
        ]

    async def srv(self, name: str) -> list[tuple[int, int, int, str]]:
        """Priority, weight, port and target of SRV records; ``.`` is no target."""
        return [
            (record.priority, record.weight, record.port, record.target.to_text(True))
            for record in await self._ask(name, dns.rdatatype.SRV, search=False)
        ]

    async def addresses(self, name: str) -> list[str]:
        """Addresses, IPv4 first; empty when there are none."""
        known = self._from_hosts(name)
        if known:
            return known
        found: list[str] = []
        for kind in (dns.rdatatype.A, dns.rdatatype.AAAA):
            found += [record.address for record in await self._ask(name, kind, search=True)]
        return found

    def forget(self) -> None:
        """Ask again for everything."""
        self._resolver = None

    def _from_hosts(self, name: str) -> list[str]:
        try:
            stamp = os.stat(self._hosts_file).st_mtime_ns
            if stamp != self._hosts_stamp:
                text = self._hosts_file.read_text(errors="replace")
                self._hosts, self._hosts_stamp = _parse_hosts(text), stamp
        except OSError:
            return []
        found = self._hosts.get(name.rstrip(".").lower(), [])
        return sorted(found, key=lambda address: ":" in address)


def _parse_hosts(text: str) -> dict[str, list[str]]:
    """Addresses by name (hosts(5))."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        for name in names:
            places = found.setdefault(name.lower(), [])
            if address not in places:
                places.append(address)
    return found
