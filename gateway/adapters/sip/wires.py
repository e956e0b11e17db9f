"""The sockets of a SIP adapter: where the agent's octets go, and where they come from.

UDP and TCP here; names are resolved off the loop's path. A stream goes over the connection it came
on while that is open, else over any to the same address, else over a new one.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections import Counter
from collections.abc import Callable
from typing import Final

from gateway.adapters.base import Host
from gateway.adapters.sip.config import SipSection, parse_listen
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
from gateway.protocols.sip.transaction import Flow

_CONNECT_S: Final = 5.0
# What may wait for one connection that is being opened.
_MAX_WAITING: Final = 64
# A connection on which nothing at all is said for so long is cut: it only takes up room.
_SILENT_S: Final = 30.0


class Wires(StreamOwner):
    """Sockets of one adapter; drives the agent's network input."""

    def __init__(self, config: SipSection, host: Host, pump: Callable[[], None]) -> None:
        self._config, self._host, self._pump = config, host, pump
        self.agent: SipAgent | None = None
        self._udp: list[UdpSocket] = []
        self._servers: list[asyncio.Server] = []
        self._connections: dict[int, StreamConnection] = {}
        self._by_peer: dict[tuple[str, int], StreamConnection] = {}
        self._per_address: Counter[str] = Counter()
        self._opening: dict[tuple[str, int], list[Send]] = {}
        self._serial = 0
        self._sources: dict[str, str] = {}
        self._silent: dict[int, asyncio.TimerHandle] = {}
        self._inside = [ipaddress.ip_network(text, strict=False) for text in config.inside]
        self.ports: dict[str, int] = {}
        """Listening port by transport."""

    async def open(self) -> None:
        """Listen on everything that is configured. Raises `DeviceError`."""
        for text in self._config.listen:
            transport, host, port = parse_listen(text)
            if transport == "udp":
                sock = await UdpSocket.open(host, port, self._datagram)
                self._udp.append(sock)
                self.ports.setdefault("udp", sock.local[1])
            else:
                server = await listen_tcp(host, port, self)
                self._servers.append(server)
                self.ports.setdefault("tcp", server.sockets[0].getsockname()[1])

    def close(self) -> None:
        """Close everything; what is queued on streams is still sent."""
        for sock in self._udp:
            sock.close()
        for server in self._servers:
            server.close()
        for connection in list(self._connections.values()):
            connection.close()
        self._udp.clear()
        self._servers.clear()

    def source_towards(self, host: str) -> str:
        """Our own address as a peer sees it."""
        if self._config.public_ip and not self._is_inside(host):
            return self._config.public_ip
        return self.bind_towards(host)

    def _is_inside(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._inside)

    def bind_towards(self, host: str) -> str:
        """Our own address to bind towards a peer."""
        known = self._sources.get(host)
        if known is None:
            bound = [sock.local[0] for sock in self._udp] + [
                server.sockets[0].getsockname()[0] for server in self._servers
            ]
            fixed = next((b for b in bound if b not in ("0.0.0.0", "::")), "")
            known = fixed or local_address_towards(host) or "127.0.0.1"
            if len(self._sources) > 4096:
                self._sources.clear()
            self._sources[host] = known
        return known

    def advertise(self, flow: Flow) -> tuple[str, int]:
        """Host and port that the peer behind a flow is to see as ours."""
        port = self.ports.get(flow.transport, 0) or flow.local[1]
        return self.source_towards(flow.host), port

    # From the network

    def _datagram(self, data: bytes, source: tuple[str, int], local: tuple[str, int]) -> None:
        if self.agent:
            self.agent.receive_datagram(data, source, local, "udp", self._host.now())
            self._pump()

    def opened(self, connection: StreamConnection) -> None:
        """A connection stands; one too many from an address is cut at once."""
        host = connection.peer[0]
        full = len(self._connections) >= self._config.max_connections
        if full or self._per_address[host] >= self._config.max_connections_per_address:
            self._host.count("connections_refused")
            connection.close(at_once=True)
            return
        self._serial += 1
        connection.number = self._serial
        self._connections[connection.number] = connection
        self._by_peer[connection.peer] = connection
        self._per_address[host] += 1
        self._silent[connection.number] = asyncio.get_running_loop().call_later(
            _SILENT_S, self._cut, connection.number
        )
        if self.agent:
            self.agent.connection_made(
                connection.number, connection.peer, connection.local, "tcp", self._host.now()
            )
            self._pump()

    def _cut(self, number: int) -> None:
        self._silent.pop(number, None)
        self._host.count("connections_silent")
        self.hang_up(number)

    def received(self, connection: StreamConnection, data: bytes) -> None:
        silent = self._silent.pop(connection.number, None)
        if silent:
            silent.cancel()
        if self.agent and connection.number:
            self.agent.receive_stream(connection.number, data, self._host.now())
            self._pump()

    def lost(self, connection: StreamConnection) -> None:
        if self._connections.pop(connection.number, None) is None:
            return
        silent = self._silent.pop(connection.number, None)
        if silent:
            silent.cancel()
        if self._by_peer.get(connection.peer) is connection:
            del self._by_peer[connection.peer]
        self._per_address[connection.peer[0]] -= 1
        if not self._per_address[connection.peer[0]]:
            del self._per_address[connection.peer[0]]
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
        if not is_address(flow.host):
            self._host.create_task(self._resolve_and_send(send), name=f"resolve {flow.host}")
        elif flow.transport == "udp":
            self._send_udp(send)
        else:
            self._send_stream(send)

    def _failed(self, send: Send) -> None:
        self._host.count("send_failed")
        if send.token and self.agent:
            self.agent.transport_failed(send.token, self._host.now())
            self._pump()

    def _send_udp(self, send: Send) -> None:
        flow = send.flow
        family6 = ":" in flow.host
        fitting = [sock for sock in self._udp if (":" in sock.local[0]) == family6]
        chosen = next((sock for sock in fitting if sock.local == flow.local), None)
        sock = chosen or next(iter(fitting), None)
        if sock is None or not sock.send(send.data, (flow.host, flow.port or 5060)):
            self._failed(send)

    def _send_stream(self, send: Send) -> None:
        flow = send.flow
        connection = self._connections.get(flow.connection)
        address = (flow.host, flow.port or 5060)
        if connection is None:
            connection = self._by_peer.get(address)
        if connection is not None:
            if not connection.send(send.data):
                self._failed(send)
            return
        waiting = self._opening.get(address)
        if waiting is not None:
            if len(waiting) < _MAX_WAITING:
                waiting.append(send)
            else:
                self._failed(send)
            return
        self._opening[address] = [send]
        self._host.create_task(self._connect(address), name=f"connect {address[0]}")

    async def _connect(self, address: tuple[str, int]) -> None:
        try:
            async with asyncio.timeout(_CONNECT_S):
                connection: StreamConnection | None = await connect_tcp(*address, self)
        except (DeviceError, TimeoutError):
            connection = None
        for send in self._opening.pop(address, []):
            if connection is None or not connection.send(send.data):
                self._failed(send)

    async def _resolve_and_send(self, send: Send) -> None:
        addresses = await resolve(send.flow.host)
        if not addresses:
            self._failed(send)
            return
        self.send(Send(send.data, send.flow._replace(host=addresses[0]), send.token))


def is_address(host: str) -> bool:
    """Whether a host is an IP address and not a name."""
    return ":" in host or host.replace(".", "").isdigit()


async def resolve(host: str) -> list[str]:
    """Addresses of a name, IPv4 first; empty when there are none."""
    if is_address(host):
        return [host]
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except OSError:
        return []
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    return sorted(addresses, key=lambda address: ":" in address)
