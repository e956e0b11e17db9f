"""The lab's hall: a loudspeaker that listens to a multicast group, as IP horns do.

RTP with mu-law: RFC 3550 section 5.1, RFC 3551 section 4.5.14.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import struct
from collections.abc import AsyncIterator
from typing import Final

from gateway._codecs import g711
from gateway.lab.heard import Tape
from gateway.lab.softphone import free_port

_HEADER: Final = 12
_LOOPBACK: Final = "127.0.0.1"


class Hall(asyncio.DatagramProtocol):
    """The loudspeaker; `tape` is what came out of it."""

    def __init__(self, group: str, port: int) -> None:
        self.group, self.port = group, port
        self.tape = Tape()
        self.packets = 0
        self.spoiled = 0
        """Datagrams that were no RTP with mu-law."""

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        """A packet of a page."""
        if len(data) <= _HEADER or data[0] != 0x80 or data[1] & 0x7F:
            self.spoiled += 1
            return
        self.packets += 1
        self.tape.feed(bytes(g711.decode_ulaw(data[_HEADER:])))


@contextlib.asynccontextmanager
async def hall() -> AsyncIterator[Hall]:
    """A loudspeaker in a group of its own: several labs may run beside each other."""
    # RFC 2365 section 6.1: what begins so is nobody's outside.
    group = f"239.255.{secrets.randbelow(256)}.{1 + secrets.randbelow(254)}"
    # The odd port above is RTCP's.
    port = free_port(socket.SOCK_DGRAM) & ~1
    place = Hall(group, port)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        line.bind((group, port))
        line.setsockopt(
            socket.IPPROTO_IP,
            socket.IP_ADD_MEMBERSHIP,
            struct.pack("4s4s", socket.inet_aton(group), socket.inet_aton(_LOOPBACK)),
        )
        line.setblocking(False)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: place, sock=line)
        try:
            yield place
        finally:
            transport.close()
