"""Where a SIP URI leads: transports, servers and addresses from DNS (RFC 3263, RFC 2782).

Without I/O: `locate` is a generator that asks one `Query` after the other and is sent the records
it asked for, an empty list where there are none.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Generator, Sequence
from functools import lru_cache
from random import Random
from typing import Final, Literal, NamedTuple

from gateway.protocols.sip.uri import Uri

DEFAULT_PORT: Final = {"udp": 5060, "tcp": 5060, "tls": 5061}
MAX_TARGETS: Final = 16
"""Further ones are not tried: each costs the caller a time-out."""
# IPv6 with the name of an interface. What is longer is not to be remembered.
_LONGEST_ADDRESS: Final = 64
_EVERYBODY = "255.255.255.255"
_SERVICES: Final = {"sip+d2u": "udp", "sip+d2t": "tcp", "sips+d2t": "tls"}
_PREFIXES: Final = {"tls": "_sips._tcp", "udp": "_sip._udp", "tcp": "_sip._tcp"}


class Target(NamedTuple):
    """One place to send a request to."""

    transport: str
    host: str
    """An address."""
    port: int


class Naptr(NamedTuple):
    """A NAPTR record (RFC 3403)."""

    order: int
    preference: int
    flags: str
    service: str
    replacement: str


class Srv(NamedTuple):
    """An SRV record (RFC 2782)."""

    priority: int
    weight: int
    port: int
    target: str


class Query(NamedTuple):
    """What the owner is to look up; it answers with `Naptr`, `Srv` or addresses as text."""

    kind: Literal["NAPTR", "SRV", "ADDRESS"]
    name: str


Record = Naptr | Srv | str
Search = Generator[Query, Sequence[Record], list[Target]]


def locate(uri: Uri, speaks: Collection[str], random: Random) -> Search:
    """The places a SIP URI leads to, best first; none when DNS knows nothing.

    speaks: transports that we can send over. random: shares the load by weight (RFC 2782).
    """
    host, port, transport = uri.host, uri.port, uri.transport
    if is_address(host):
        transport = transport or "udp"
        return [Target(transport, host, port or DEFAULT_PORT.get(transport, 5060))]
    if port:
        return (yield from _addresses(transport or "udp", host, port))
    found: list[Target] = []
    for way, name in (yield from _services(uri, speaks)):
        records = yield Query("SRV", name)
        servers = [record for record in records if isinstance(record, Srv)]
        for server in order(servers, random):
            # A target of "." says that the service is decidedly not there (RFC 2782).
            if server.target not in ("", "."):
                found += yield from _addresses(way, server.target, server.port)
            if len(found) >= MAX_TARGETS:
                return found[:MAX_TARGETS]
        if servers and not found and transport:
            return []
    if found:
        return found
    transport = transport or "udp"
    return (yield from _addresses(transport, host, DEFAULT_PORT.get(transport, 5060)))


def _services(
    uri: Uri, speaks: Collection[str]
) -> Generator[Query, Sequence[Record], list[tuple[str, str]]]:
    """Transports and the names of their SRV records, best first (section 4.1)."""
    if uri.transport:
        return [(uri.transport, f"{_PREFIXES.get(uri.transport, '_sip._udp')}.{uri.host}")]
    records = yield Query("NAPTR", uri.host)
    offered = sorted(
        (record.order, record.preference, _SERVICES[record.service.lower()], record.replacement)
        for record in records
        if isinstance(record, Naptr)
        and record.flags.lower() == "s"
        and record.service.lower() in _SERVICES
    )
    if offered:
        return [(way, name) for _, _, way, name in offered if way in speaks]
    # Ours to choose, then: safer ones would cost a handshake with most servers that do not offer
    # them, so they need to be asked for.
    return [(way, f"{_PREFIXES[way]}.{uri.host}") for way in ("udp", "tcp", "tls") if way in speaks]


def _addresses(
    transport: str, host: str, port: int
) -> Generator[Query, Sequence[Record], list[Target]]:
    if is_address(host):
        return [Target(transport, host, port)]
    records = yield Query("ADDRESS", host)
    return [Target(transport, record, port) for record in records if isinstance(record, str)]


def order(servers: Sequence[Srv], random: Random) -> list[Srv]:
    """By priority, and among equals drawn by weight (RFC 2782, "Usage rules")."""
    ordered: list[Srv] = []
    for priority in sorted({server.priority for server in servers}):
        left = sorted(s for s in servers if s.priority == priority)
        while left:
            mark = random.randint(0, sum(server.weight for server in left))
            chosen = left[-1]
            for server in left:
                mark -= server.weight
                if mark <= 0:
                    chosen = server
                    break
            left.remove(chosen)
            ordered.append(chosen)
    return ordered


def is_address(host: str) -> bool:
    """Whether a host is an IP address and not a name."""
    return len(host) <= _LONGEST_ADDRESS and _is_address(host)


@lru_cache(maxsize=1024)
def is_group(address: str) -> bool:
    """Whether an IP address is not one host's: multicast, or everybody's (RFC 919)."""
    return ipaddress.ip_address(address.partition("%")[0]).is_multicast or address == _EVERYBODY


@lru_cache(maxsize=1024)
def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
