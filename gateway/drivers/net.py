"""Datagram and stream sockets with callbacks: octets in, octets out, no policy."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final, cast

from gateway.errors import DeviceError

Address = tuple[str, int]

# What may wait in one socket's send buffer before the peer counts as stalled.
MAX_UNSENT: Final = 1 << 20


def local_address_towards(host: str, port: int = 9) -> str:
    """Our own address that the kernel would use towards a peer; empty when there is no route."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((host, port))
            return str(probe.getsockname()[0])
    except OSError:
        return ""


class UdpSocket(asyncio.DatagramProtocol):
    """A bound UDP socket."""

    def __init__(self, received: Callable[[bytes, Address, Address], None]) -> None:
        """`received` gets octets, source and our own address."""
        self._received = received
        self._transport: Any = None
        self.local: Address = ("", 0)
        self.errors = 0
        """ICMP errors and refused sends."""

    @classmethod
    async def open(
        cls, host: str, port: int, received: Callable[[bytes, Address, Address], None]
    ) -> UdpSocket:
        """Bind; port 0 takes a free one. Raises `DeviceError` naming address and reason."""
        found = cls(received)
        loop = asyncio.get_running_loop()
        try:
            await loop.create_datagram_endpoint(lambda: found, local_addr=(host, port))
        except OSError as error:
            raise DeviceError(f"cannot listen on udp {host}:{port}: {error.strerror}") from error
        return found

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.local = transport.get_extra_info("sockname")[:2]
        sock = transport.get_extra_info("socket")
        # A burst of INVITEs must survive 100 ms of the event loop being elsewhere.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)

    def datagram_received(self, data: bytes, address: tuple[Any, ...]) -> None:
        self._received(data, (address[0], address[1]), self.local)

    def error_received(self, exc: Exception) -> None:
        self.errors += 1

    def send(self, data: bytes, destination: Address) -> bool:
        """Send one datagram; False when the kernel refuses it or takes no more for now."""
        transport = self._transport
        if transport is None or transport.get_write_buffer_size() > MAX_UNSENT:
            return False
        before = self.errors
        try:
            transport.sendto(data, destination)
        except (OSError, ValueError):
            self.errors += 1
        # asyncio reports what the kernel refused through `error_received`, at once.
        return self.errors == before

    def close(self) -> None:
        """Close the socket; harmless twice."""
        if self._transport:
            self._transport.close()
            self._transport = None


class StreamConnection(asyncio.Protocol):
    """One TCP connection, whoever opened it."""

    def __init__(self, owner: StreamOwner) -> None:
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self.peer: Address = ("", 0)
        self.local: Address = ("", 0)
        self.number = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.peer = transport.get_extra_info("peername")[:2]
        self.local = transport.get_extra_info("sockname")[:2]
        self._transport.set_write_buffer_limits(high=MAX_UNSENT)
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        self._owner.received(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._owner.lost(self)

    def send(self, data: bytes) -> bool:
        """Queue octets; False (and the connection is cut) when the peer does not read."""
        if self._transport is None or self._transport.is_closing():
            return False
        if self._transport.get_write_buffer_size() > MAX_UNSENT:
            self._transport.abort()
            return False
        self._transport.write(data)
        return True

    def close(self, *, at_once: bool = False) -> None:
        """Close after what is queued was sent, or at once."""
        if self._transport:
            if at_once:
                self._transport.abort()
            else:
                self._transport.close()


class StreamOwner:
    """What a connection tells; subclass it."""

    def opened(self, connection: StreamConnection) -> None: ...
    def received(self, connection: StreamConnection, data: bytes) -> None: ...
    def lost(self, connection: StreamConnection) -> None: ...


async def listen_tcp(host: str, port: int, owner: StreamOwner) -> asyncio.Server:
    """Listen for connections. Raises `DeviceError` naming address and reason."""
    loop = asyncio.get_running_loop()
    try:
        return await loop.create_server(lambda: StreamConnection(owner), host, port)
    except OSError as error:
        raise DeviceError(f"cannot listen on tcp {host}:{port}: {error.strerror}") from error


async def connect_tcp(host: str, port: int, owner: StreamOwner) -> StreamConnection:
    """Open a connection. Raises `DeviceError` naming address and reason."""
    loop = asyncio.get_running_loop()
    try:
        _, connection = await loop.create_connection(lambda: StreamConnection(owner), host, port)
    except OSError as error:
        raise DeviceError(f"cannot connect to tcp {host}:{port}: {error.strerror}") from error
    return connection
