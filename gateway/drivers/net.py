"""Datagram and stream sockets with callbacks: octets in, octets out, no policy."""

from __future__ import annotations

import asyncio
import asyncio.selector_events
import asyncio.sslproto
import socket
import ssl
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

from gateway.errors import DeviceError

# What asyncio sets aside for each TLS connection is 256 KiB: a thousand telephones, or a hog, would
# take 256 MB. A record has 16 KiB at most (RFC 8446 section 5.1).
asyncio.sslproto.SSLProtocol.max_size = 32 * 1024
# For each read of any stream it sets aside as much again: pages to map, to clear and to give back,
# and a hole in the heap beside each message that is kept.
asyncio.selector_events._SelectorTransport.max_size = 64 * 1024  # type: ignore[attr-defined]

Address = tuple[str, int]
Received = Callable[[bytes, Address, Address], None]

# What may wait in one socket's send buffer before the peer counts as stalled.
MAX_UNSENT: Final = 1 << 20
# A peer that has not finished its TLS handshake by then never will.
HANDSHAKE_S: Final = 10.0
_LONGEST: Final = 65536
# Datagrams read before everything else gets its turn again.
_AT_ONCE: Final = 16
# How long they gather meanwhile, where they come in numbers. Each thing that is done for a message
# finds the processor's caches full of others; done for ten in a row, nine find it there.
_GATHER_S: Final = 0.008
_PAUSE_S: Final = 0.03


def local_address_towards(host: str, port: int = 9) -> str:
    """Our own address that the kernel would use towards a peer; empty when there is no route."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((host, port))
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def _nothing() -> None: ...


class UdpSocket:
    """A bound UDP socket.

    It reads several datagrams each time it is woken and sends without a detour: asyncio's own
    transport goes once around the event loop for each datagram. Where many come, it lets them
    gather for some milliseconds.
    """

    def __init__(
        self, sock: socket.socket, received: Received, taken: Callable[[], None] | None = None
    ):
        """`received` gets octets, source and our own address; `taken` follows the last datagram
        of each read."""
        self._received = received
        self._taken: Callable[[], None] = taken or _nothing
        self._sock: socket.socket | None = sock
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray(_LONGEST)
        self._view = memoryview(self._buffer)
        self._unsent: deque[tuple[bytes, Address]] = deque()
        self._n_unsent = 0
        self._read_at = float("-inf")
        """When a datagram was read last."""
        self.local: Address = sock.getsockname()[:2]
        self.errors = 0
        """ICMP errors and refused sends."""
        # A burst of INVITEs must survive 100 ms of the event loop being elsewhere.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._loop.add_reader(sock.fileno(), self._readable)

    @classmethod
    async def open(
        cls,
        host: str,
        port: int,
        received: Received,
        taken: Callable[[], None] | None = None,
    ) -> UdpSocket:
        """Bind; port 0 takes a free one. Raises `DeviceError` naming address and reason."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            if family == socket.AF_INET6:
                # Else [::] would take the port of 0.0.0.0 too, and show IPv4 peers as ::ffff:...
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((host, port))
            return cls(sock, received, taken)
        except OSError as error:
            sock.close()
            raise DeviceError(f"cannot listen on udp {host}:{port}: {error.strerror}") from error

    def _readable(self) -> None:
        now = self._loop.time()
        if now - self._read_at > _PAUSE_S:
            # Nobody is kept waiting for others who do not come.
            self._read_at = now
            self._take()
            return
        if self._sock is not None:
            self._loop.remove_reader(self._sock.fileno())
        self._gather()

    def _gather(self) -> None:
        n_taken = 0
        try:
            n_taken = self._take()
        finally:
            sock = self._sock
            if sock is not None:
                if n_taken == _AT_ONCE:
                    self._loop.call_soon(self._gather)
                elif n_taken:
                    self._read_at = self._loop.time()
                    self._loop.call_later(_GATHER_S, self._gather)
                else:
                    self._loop.add_reader(sock.fileno(), self._readable)

    def _take(self) -> int:
        """Read what waits, `_AT_ONCE` at most; how many datagrams that was."""
        n_taken = 0
        try:
            for _ in range(_AT_ONCE):
                sock = self._sock
                if sock is None:
                    break
                try:
                    n, address = sock.recvfrom_into(self._buffer)
                except (BlockingIOError, InterruptedError):
                    break
                except OSError:
                    self.errors += 1
                    continue
                n_taken += 1
                self._received(bytes(self._view[:n]), address[:2], self.local)
        finally:
            if n_taken:
                self._taken()
        return n_taken

    def send(self, data: bytes, destination: Address) -> bool:
        """Send one datagram; False when the kernel refuses it or takes no more for now."""
        sock = self._sock
        if sock is None or self._n_unsent > MAX_UNSENT:
            return False
        if not self._unsent:
            try:
                sock.sendto(data, destination)
                return True
            except (BlockingIOError, InterruptedError):
                self._loop.add_writer(sock.fileno(), self._writable)
            except (OSError, ValueError):
                self.errors += 1
                return False
        self._unsent.append((data, destination))
        self._n_unsent += len(data)
        return True

    def _writable(self) -> None:
        sock = self._sock
        while self._unsent and sock is not None:
            data, destination = self._unsent[0]
            try:
                sock.sendto(data, destination)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self.errors += 1
            self._unsent.popleft()
            self._n_unsent -= len(data)
        if sock is not None:
            self._loop.remove_writer(sock.fileno())

    def close(self) -> None:
        """Close the socket; harmless twice."""
        sock, self._sock = self._sock, None
        if sock is not None:
            self._loop.remove_reader(sock.fileno())
            self._loop.remove_writer(sock.fileno())
            sock.close()
            self._unsent.clear()
            self._n_unsent = 0


class StreamConnection(asyncio.Protocol):
    """One TCP or TLS connection, whoever opened it."""

    def __init__(self, owner: StreamOwner, tls: TlsContext | None = None) -> None:
        """`tls` is asked for the context of the handshake when a peer has connected to us."""
        self._owner = owner
        self._tls = tls
        self._transport: asyncio.Transport | None = None
        self._handshake: asyncio.Task[None] | None = None
        self._early: list[bytes] = []
        """What came together with the end of the handshake."""
        self._gone = False
        """So did the end of the connection."""
        self.peer: Address = ("", 0)
        self.local: Address = ("", 0)
        self.number = 0
        self.secure = False
        """It runs over TLS."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.peer = transport.get_extra_info("peername")[:2]
        self.local = transport.get_extra_info("sockname")[:2]
        self.secure = transport.get_extra_info("ssl_object") is not None
        if not self._owner.arrived(self):
            self._transport.abort()
        elif self._tls is not None:
            self._transport.pause_reading()
            work = self._shake_hands(self._transport, self._tls())
            self._handshake = asyncio.get_running_loop().create_task(work, name="TLS handshake")
        else:
            self._open()

    def _open(self) -> None:
        if self._transport is not None:
            self._transport.set_write_buffer_limits(high=MAX_UNSENT)
        self._owner.opened(self)

    async def _shake_hands(self, transport: asyncio.Transport, context: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        try:
            secured = await loop.start_tls(
                transport, self, context, server_side=True, ssl_handshake_timeout=HANDSHAKE_S
            )
        except (OSError, asyncio.CancelledError) as error:
            # `ssl.SSLError` and the timeout are OSErrors too. Error, frames and handshake hold each
            # other: 100 KiB that would wait for the garbage collector.
            traceback.clear_frames(error.__traceback__)
            transport.abort()
            self._transport = None
            self._owner.handshake_failed(self, _words(error))
            self._owner.lost(self)
            return
        finally:
            self._handshake = None
        # Octets and the end may have come together with the handshake's last ones.
        self._transport, self.secure = None if self._gone else secured, True
        self._open()
        for data in self._early:
            self._owner.received(self, data)
        self._early.clear()
        if self._gone:
            self._owner.lost(self)

    def data_received(self, data: bytes) -> None:
        if self._handshake is None:
            self._owner.received(self, data)
        else:
            self._early.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._handshake is None or self._handshake.done():
            self._owner.lost(self)
        else:
            self._gone = True

    def certificate(self) -> dict[str, Any]:
        """The peer's verified certificate as `ssl.SSLSocket.getpeercert` tells it; empty when it
        showed none or it was not to be verified."""
        found = self._transport and self._transport.get_extra_info("ssl_object")
        return (found and found.getpeercert()) or {}

    def pause(self, seconds: float) -> None:
        """Read nothing for a while: the peer's own sending stalls, nothing is lost."""
        transport = self._transport
        if transport is None or not transport.is_reading():
            return
        transport.pause_reading()
        asyncio.get_running_loop().call_later(seconds, self._resume, transport)

    @staticmethod
    def _resume(transport: asyncio.Transport) -> None:
        if not transport.is_closing():
            transport.resume_reading()

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
        if self._handshake:
            self._handshake.cancel()
            at_once = True
        if self._transport:
            if at_once:
                self._transport.abort()
            else:
                self._transport.close()


class StreamOwner:
    """What a connection tells; subclass it."""

    def arrived(self, connection: StreamConnection) -> bool:
        """The peer is there, before any TLS handshake; False cuts it off. `lost` follows."""
        return True

    def opened(self, connection: StreamConnection) -> None: ...
    def received(self, connection: StreamConnection, data: bytes) -> None: ...
    def handshake_failed(self, connection: StreamConnection, why: str) -> None: ...
    def lost(self, connection: StreamConnection) -> None: ...


TlsContext = Callable[[], ssl.SSLContext]
"""Gives the context for the next handshake: a renewed certificate counts from then on."""


async def listen_tcp(
    host: str, port: int, owner: StreamOwner, tls: TlsContext | None = None
) -> asyncio.Server:
    """Listen for connections, with TLS where a context is given. Raises `DeviceError` naming
    address and reason."""
    loop = asyncio.get_running_loop()
    try:
        return await loop.create_server(lambda: StreamConnection(owner, tls), host, port)
    except OSError as error:
        word = "tls" if tls else "tcp"
        raise DeviceError(f"cannot listen on {word} {host}:{port}: {error.strerror}") from error


async def connect_tcp(
    host: str,
    port: int,
    owner: StreamOwner,
    *,
    context: ssl.SSLContext | None = None,
    server_name: str = "",
    check: Callable[[dict[str, Any]], bool] | None = None,
) -> StreamConnection:
    """Open a connection.

    With a context it is secured: `server_name` goes into the handshake (SNI, RFC 6066 section 3),
    and `check` judges the peer's certificate before anything is sent. Raises `DeviceError` naming
    address and reason.
    """
    loop = asyncio.get_running_loop()
    held = _Held(owner, check)
    try:
        _, connection = await loop.create_connection(
            lambda: StreamConnection(held), host, port, ssl=context,
            # An empty name sends none: RFC 6066 knows no addresses there.
            server_hostname=server_name if context else None,
            ssl_handshake_timeout=HANDSHAKE_S if context else None,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        # A name that cannot be written in the handshake is a ValueError.
        word = "tls" if context else "tcp"
        raise DeviceError(f"cannot connect to {word} {host}:{port}: {_words(error)}") from error
    if held.refused:
        raise DeviceError(f"tls {host}:{port}: its certificate is not that of {server_name!r}")
    return connection


class _Held(StreamOwner):
    """Stands before the owner until the certificate of a server was judged."""

    def __init__(self, owner: StreamOwner, check: Callable[[dict[str, Any]], bool] | None) -> None:
        self._owner, self._check = owner, check
        self.refused = False

    def arrived(self, connection: StreamConnection) -> bool:
        if self._check is not None and not self._check(connection.certificate()):
            self.refused = True
            return False
        connection._owner = self._owner
        return self._owner.arrived(connection)


def _words(error: BaseException) -> str:
    """A failure in the words of TLS or of the system."""
    reason = getattr(error, "verify_message", "") or getattr(error, "reason", "")
    return str(reason or getattr(error, "strerror", "") or error or type(error).__name__)
