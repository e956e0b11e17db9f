"""HEP: a captured message for a Homer collector (Homer Encapsulation Protocol, version 3).

One datagram is ``HEP3``, its length, and chunks of vendor, type, length and value.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final

SIP: Final = 1
"""Protocol type of chunk 0x000b."""
_PROTOCOLS: Final = {"udp": 17, "tcp": 6, "tls": 6, "ws": 6, "wss": 6}
_GENERIC: Final = 0
MAXIMUM: Final = 60_000
"""Octets of a message that still fit into a datagram."""


def encode(
    data: bytes,
    *,
    transport: str,
    source: tuple[str, int],
    destination: tuple[str, int],
    at: float,
    capture_id: int,
    correlation: str = "",
    node: str = "",
    password: str = "",
    kind: int = SIP,
) -> bytes:
    """A datagram for the collector. at: wall clock, seconds since 1970.

    Raises `ValueError` unless both are IP addresses of one version.
    """
    ours, theirs = ipaddress.ip_address(source[0]), ipaddress.ip_address(destination[0])
    if ours.version != theirs.version:
        raise ValueError(f"{ours} and {theirs} are of different IP versions")
    four = ours.version == 4
    micro = round(at * 1e6)
    chunks = [
        (0x01, bytes((2 if four else 10,))),
        (0x02, bytes((_PROTOCOLS.get(transport, 17),))),
        (0x03 if four else 0x05, ours.packed),
        (0x04 if four else 0x06, theirs.packed),
        (0x07, struct.pack("!H", source[1])),
        (0x08, struct.pack("!H", destination[1])),
        (0x09, struct.pack("!I", micro // 1_000_000)),
        (0x0A, struct.pack("!I", micro % 1_000_000)),
        (0x0B, bytes((kind,))),
        (0x0C, struct.pack("!I", capture_id)),
        (0x0E, password.encode()),
        (0x0F, data[:MAXIMUM]),
        (0x11, correlation.encode("utf-8", "replace")[:255]),
        (0x13, node.encode("utf-8", "replace")[:255]),
    ]
    body = b"".join(
        struct.pack("!HHH", _GENERIC, kind_, 6 + len(value)) + value
        for kind_, value in chunks
        if value
    )
    return b"HEP3" + struct.pack("!H", 6 + len(body)) + body
