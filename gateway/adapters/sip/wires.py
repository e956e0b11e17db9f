"""The sockets of a SIP adapter: where the agent's octets go, and where they come from.

UDP, TCP and TLS; names are looked up off the loop's path. A stream goes over the connection it
came on while that is open, else over one that we opened to the same place, else over a new one.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from gateway.adapters.base import Host
from gateway.adapters.sip.config import SipSection, parse_listen, parse_nameserver
from gateway.adapters.sip.locator import Locator
from gateway.adapters.sip.quota import Quota, source_of
from gateway.adapters.sip.tls import Keys
from gateway.drivers.dns import Resolver
from gateway.drivers.net import (
    StreamConnection,
    StreamOwner,
    UdpSocket,
    connect_tcp,
    listen_tcp,
    local_address_towards,
)
from gateway.errors import DeviceError
from gateway.protocols.sip.agent import SipAgent
from gateway.protocols.sip.core import Send
from gateway.protocols.sip.domains import certificate_names, speaks_for
from gateway.protocols.sip.locating import DEFAULT_PORT, Target, is_address
from gateway.protocols.sip.transaction import Flow
from gateway.protocols.sip.uri import make_uri, parse_uri

_CONNECT_S: Final = 5.0
_MAX_WAYS: Final = 256
# What may wait for one connection that is being opened.
_MAX_WAITING: Final = 64
# A connection on which nothing at all is said for so long is cut: it only takes up room.
_SILENT_S: Final = 30.0
# What an address may send ahead of its rate, in seconds of it.
_BURST_S: Final = 4.0
_ANY: Final = ("0.0.0.0", "::")


class Expected(NamedTuple):
    """Whom we mean to speak to at an address over TLS."""

    name: str
    verify: bool = True


class _Place(NamedTuple):
    """Where a connection of ours leads."""

    transport: str
    host: str
    port: int
    name: str = ""
    verify: bool = True


class Wires(StreamOwner):
    """Sockets of one adapter; drives the agent's network input."""

    def __init__(self, config: SipSection, host: Host, pump: Callable[[], None]) -> None:
        self._config, self._host, self._pump = config, host, pump
        self.agent: SipAgent | None = None
        self._udp: list[UdpSocket] = []
        self._udp_ways: dict[tuple[bool, tuple[str, int]], UdpSocket] = {}
        self._servers: list[asyncio.Server] = []
        self._arrived: set[StreamConnection] = set()
        self._connections: dict[int, StreamConnection] = {}
        self._by_place: dict[_Place, StreamConnection] = {}
        self._per_source: Counter[str] = Counter()
        self._opening: dict[_Place, list[Send]] = {}
        self._serial = 0
        self._sources: dict[str, str] = {}
        self._outside: dict[str, bool] = {}
        """Whether a peer sees us at the public address."""
        self._silent: dict[int, asyncio.TimerHandle] = {}
        self._strangers: dict[int, None] = {}
        """Connections on which nobody has proved himself yet, oldest first."""
        self._inside = [ipaddress.ip_network(text, strict=False) for text in config.inside]
        self._octets = Quota(config.max_bytes_per_s, _BURST_S * config.max_bytes_per_s)
        self.keys = Keys(config, host)
        self.locator = Locator(Resolver([parse_nameserver(text) for text in config.nameservers]))
        self.admits: Callable[[str], bool] = lambda host: True
        """Whether anything may come from an address at all."""
        self.trusts: Callable[[str], bool] = lambda host: False
        """Whether an address may send as much as it likes."""
        self._expected: dict[tuple[str, int], Expected] = {}
        self.ports: dict[str, int] = {}
        """Listening port by transport."""

    async def open(self) -> None:
        """Listen on everything that is configured. Raises `DeviceError`."""
        if any(text.startswith("tls:") for text in self._config.listen):
            self.keys.load()
        for text in self._config.listen:
            transport, host, port = parse_listen(text)
            if transport == "udp":
                sock = await UdpSocket.open(host, port, self._datagram, self._pump)
                self._udp.append(sock)
                self.ports.setdefault("udp", sock.local[1])
            else:
                context = self.keys.server if transport == "tls" else None
                server = await listen_tcp(host, port, self, context)
                self._servers.append(server)
                self.ports.setdefault(transport, server.sockets[0].getsockname()[1])
        # TCP and TLS need no port of ours to call out.
        self.locator.speaks = {"tcp", "tls", *(("udp",) if self._udp else ())}

    def close(self) -> None:
        """Close everything; what is queued on streams is still sent."""
        for sock in self._udp:
            sock.close()
        for server in self._servers:
            server.close()
        for connection in list(self._arrived):
            connection.close()
        self._udp.clear()
        self._udp_ways.clear()
        self._servers.clear()

    def source_towards(self, host: str) -> str:
        """Our own address as a peer sees it."""
        if not self._config.public_ip:
            return self.bind_towards(host)
        outside = self._outside.get(host)
        if outside is None:
            if len(self._outside) > 4096:
                self._outside.clear()
            outside = self._outside[host] = not self._is_inside(host)
        return self._config.public_ip if outside else self.bind_towards(host)

    def hides(self, peer: str, address: str) -> bool:
        """Whether an address that a peer names of itself is one behind its NAT: nobody but its own
        network reaches that."""
        return address != peer and self._is_inside(address) and not self._is_inside(peer)

    def _is_inside(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        # A public IPv4 address says nothing to a peer that speaks IPv6.
        if (":" in host) != (":" in self._config.public_ip):
            return True
        return any(address in network for network in self._inside)

    def bind_towards(self, host: str) -> str:
        """Our own address to bind towards a peer."""
        known = self._sources.get(host)
        if known is None:
            bound = [sock.local[0] for sock in self._udp] + [
                server.sockets[0].getsockname()[0] for server in self._servers
            ]
            family6 = ":" in host
            fixed = [b for b in bound if b not in _ANY and (":" in b) == family6]
            # Of several networks the one that leads there; of one, it must do.
            used = local_address_towards(host) if len({*fixed}) != 1 else ""
            if fixed and used not in fixed:
                used = fixed[0]
            known = used or ("::1" if family6 else "127.0.0.1")
            if len(self._sources) > 4096:
                self._sources.clear()
            self._sources[host] = known
        return known

    def towards(self, host: str) -> tuple[str, str]:
        """Our own address to bind towards a peer, and as it sees it."""
        return self.bind_towards(host), self.source_towards(host)

    def advertise(self, flow: Flow) -> tuple[str, int]:
        """Host and port that the peer behind a flow is to see as ours."""
        return self.source_towards(flow.host), self._port_towards(flow)

    def _port_towards(self, flow: Flow) -> int:
        if flow.transport == "udp" and len(self._udp) > 1:
            here = self.bind_towards(flow.host)
            for sock in self._udp:
                if sock.local[0] == here:
                    return sock.local[1]
        return self.ports.get(flow.transport, 0) or flow.local[1]

    def names_at(self, number: int) -> frozenset[str]:
        """Domains that the verified certificate of a connection's peer names."""
        connection = self._connections.get(number)
        return certificate_names(connection.certificate()) if connection else frozenset()

    def expect(self, target: Target, expected: Expected) -> None:
        """Say who is at an address, for connections over TLS. Others are to be who the URI says."""
        # A peer's Contact may name another port of its.
        for port in (target.port, 0):
            self._expected[target.host, port] = expected

    def _expects(self, host: str, port: int) -> Expected:
        known = self._expected.get((host, port)) or self._expected.get((host, 0))
        return known or Expected(host)

    # From the network

    def _datagram(self, data: bytes, source: tuple[str, int], local: tuple[str, int]) -> None:
        agent = self.agent
        if agent is None:
            return
        host, now = source[0], self._host.now()
        if not self.admits(host):
            self._host.count("denied")
            return
        if self._octets.take(source_of(host), len(data), now) and not self.trusts(host):
            self._host.count("flooded")
            return
        self._keep(data, ("udp", local, source), outward=False)
        agent.receive_datagram(data, source, local, "udp", now)

    def arrived(self, connection: StreamConnection) -> bool:
        """Somebody connects; one too many from a source is cut before it costs a handshake."""
        host = connection.peer[0]
        source = source_of(host)
        full = len(self._arrived) >= self._config.max_connections
        # One that we want ourselves is kept from its place by nobody.
        ours = any(connection.peer == (place.host, place.port) for place in self._opening)
        if not self.admits(host):
            self._host.count("denied")
            return False
        if not ours and self._per_source[source] >= self._config.max_connections_per_address:
            self._host.count("connections_refused")
            return False
        if full:
            # Strangers make room, who has said nothing first: else a thousand of them, silent or
            # with an empty line now and then, keep everybody out.
            oldest = next(iter(self._silent or self._strangers), None)
            if oldest is not None:
                if oldest in self._silent:
                    self._silent[oldest].cancel()
                self._cut(oldest)
            elif not ours:
                self._host.count("connections_refused")
                return False
        self._arrived.add(connection)
        self._per_source[source] += 1
        return True

    def opened(self, connection: StreamConnection) -> None:
        """A connection stands, after its handshake if it has one."""
        self._serial += 1
        number = connection.number = self._serial
        self._connections[number] = connection
        self._strangers[number] = None
        self._silent[number] = asyncio.get_running_loop().call_later(_SILENT_S, self._cut, number)
        if not connection.secure:
            self._by_place[_Place("tcp", *connection.peer)] = connection
        if self.agent:
            transport = "tls" if connection.secure else "tcp"
            self.agent.connection_made(
                number, connection.peer, connection.local, transport, self._host.now()
            )
            self._pump()

    def proven(self, number: int) -> None:
        """Somebody on a connection has proved who he is."""
        self._strangers.pop(number, None)

    def handshake_failed(self, connection: StreamConnection, why: str) -> None:
        self._host.count("handshakes_failed")
        self._host.log.debug("TLS handshake failed", peer=connection.peer[0], why=why)

    def _cut(self, number: int) -> None:
        self._silent.pop(number, None)
        self._strangers.pop(number, None)
        self._host.count("connections_silent")
        connection = self._connections.get(number)
        if connection:
            # Who does not read either would keep his place for as long as he likes.
            connection.close(at_once=True)

    def received(self, connection: StreamConnection, data: bytes) -> None:
        silent = self._silent.pop(connection.number, None)
        if silent:
            silent.cancel()
        now, host = self._host.now(), connection.peer[0]
        ahead = self._octets.take(source_of(host), len(data), now)
        if ahead and not self.trusts(host):
            self._host.count("slowed")
            connection.pause(ahead)
        if self.agent and connection.number:
            self._keep(data, _ends(connection), outward=False)
            self.agent.receive_stream(connection.number, data, now)
            self._pump()

    def lost(self, connection: StreamConnection) -> None:
        if connection not in self._arrived:
            return
        self._arrived.discard(connection)
        source = source_of(connection.peer[0])
        self._per_source[source] -= 1
        if not self._per_source[source]:
            del self._per_source[source]
        for place in [p for p, c in self._by_place.items() if c is connection]:
            del self._by_place[place]
        if self._connections.pop(connection.number, None) is None:
            return
        self._strangers.pop(connection.number, None)
        silent = self._silent.pop(connection.number, None)
        if silent:
            silent.cancel()
        if self.agent:
            self.agent.connection_lost(connection.number, self._host.now())
            self._pump()

    def hang_up(self, number: int) -> None:
        """Close a connection whose framing is lost."""
        connection = self._connections.get(number)
        if connection:
            connection.close()

    # To the network

    def send(self, send: Send) -> None:
        """Put octets on their way; a failure is told to the agent."""
        flow = send.flow
        if flow.connection and flow.connection in self._connections:
            self._say(self._connections[flow.connection], send)
        elif not is_address(flow.host):
            self._host.create_task(self._locate_and_send(send), name=f"resolve {flow.host}")
        elif flow.transport == "udp":
            self._send_udp(send)
        else:
            self._send_stream(send, self._expects(flow.host, flow.port))

    def _failed(self, send: Send) -> None:
        self._host.count("send_failed")
        if send.token and self.agent:
            self.agent.transport_failed(send.token, self._host.now())
            self._pump()

    def _send_udp(self, send: Send) -> None:
        flow = send.flow
        sock = self._udp_ways.get((":" in flow.host, flow.local)) or self._udp_way(flow)
        peer = (flow.host, flow.port or 5060)
        if sock is None or not sock.send(send.data, peer):
            self._failed(send)
        else:
            self._keep(send.data, ("udp", sock.local, peer), outward=True)

    def _udp_way(self, flow: Flow) -> UdpSocket | None:
        """The socket that the peer reached, or one of its family."""
        family6 = ":" in flow.host
        fitting = [sock for sock in self._udp if (":" in sock.local[0]) == family6]
        if not fitting:
            return None
        found = next((sock for sock in fitting if sock.local == flow.local), None)
        if found is None and len(fitting) > 1:
            here = self.bind_towards(flow.host)
            return next((sock for sock in fitting if sock.local[0] == here), fitting[0])
        found = found or fitting[0]
        if len(self._udp_ways) < _MAX_WAYS:
            self._udp_ways[family6, flow.local] = found
        return found

    def _send_stream(self, send: Send, expected: Expected) -> None:
        flow = send.flow
        port = flow.port or DEFAULT_PORT.get(flow.transport, 5060)
        place = _place(flow.transport, flow.host, port, expected)
        connection = self._by_place.get(place)
        if connection is not None:
            self._say(connection, send)
            return
        waiting = self._opening.get(place)
        if waiting is not None:
            if len(waiting) < _MAX_WAITING:
                waiting.append(send)
            else:
                self._failed(send)
            return
        self._opening[place] = [send]
        self._host.create_task(self._connect(place), name=f"connect {place.host}")

    async def _connect(self, place: _Place) -> None:
        connection: StreamConnection | None = None
        try:
            async with asyncio.timeout(_CONNECT_S):
                connection = await connect_tcp(place.host, place.port, self, **self._secure(place))
        except (DeviceError, TimeoutError) as error:
            self._host.log.info("not connected", peer=place.host, port=place.port, why=str(error))
            if isinstance(error, DeviceError) and "certificate" in str(error):
                self._host.count("certificates_refused")
        if connection is not None and connection.number in self._connections:
            self._by_place[place] = connection
            self.proven(connection.number)
        else:
            # One that had no room, or ended at once, is told of no second time.
            connection = None
        for send in self._opening.pop(place, []):
            if connection is None:
                self._failed(send)
            else:
                self._say(connection, send)

    def _say(self, connection: StreamConnection, send: Send) -> None:
        if connection.send(send.data):
            self._keep(send.data, _ends(connection), outward=True)
        else:
            self._failed(send)

    def _keep(
        self,
        data: bytes,
        ends: tuple[str, tuple[str, int], tuple[str, int]],
        *,
        outward: bool,
    ) -> None:
        """Show it to whoever looks; a socket that is bound to all addresses has one towards each
        peer."""
        if ends[1][0] in ("0.0.0.0", "::"):
            ends = (ends[0], (self.bind_towards(ends[2][0]), ends[1][1]), ends[2])
        self._host.wire("", data, kind="sip", outward=outward, ends=ends)

    def _secure(self, place: _Place) -> dict[str, Any]:
        """How a connection of ours is secured, if at all. Raises `DeviceError`."""
        if place.transport != "tls":
            return {}
        context: ssl.SSLContext = self.keys.client(verify=place.verify)
        found: dict[str, Any] = {"context": context, "server_name": place.name}
        if place.verify:
            found["check"] = lambda shown: speaks_for(shown, place.name)
        return found

    async def _locate_and_send(self, send: Send) -> None:
        """Send to a name: to the first of its places that takes it."""
        flow = send.flow
        params = f";transport={flow.transport}"
        expected = Expected(flow.host)
        uri = parse_uri(make_uri(flow.host, "", flow.port, params))
        for target in await self.locator.targets(uri):
            there = flow._replace(host=target.host, port=target.port)
            found = Send(send.data, there, send.token)
            if flow.transport == "udp":
                self._send_udp(found)
                return
            if await self._reaches(_place(*target, expected)):
                self._send_stream(found, expected)
                return
        self._failed(send)

    async def _reaches(self, place: _Place) -> bool:
        """Whether a connection stands, is being opened or can be opened."""
        if place in self._by_place or place in self._opening:
            return True
        self._opening[place] = []
        await self._connect(place)
        return place in self._by_place


def _ends(connection: StreamConnection) -> tuple[str, tuple[str, int], tuple[str, int]]:
    return "tls" if connection.secure else "tcp", connection.local, connection.peer


def _place(transport: str, host: str, port: int, expected: Expected) -> _Place:
    if transport != "tls":
        return _Place(transport, host, port)
    return _Place(transport, host, port, *expected)
