"""Packets: IP, UDP and TCP headers around octets whose own are not known any more.

RFC 791, 8200, 768, 9293. For files that other programs read; nothing here is sent.
"""

from __future__ import annotations

import ipaddress
import struct
from functools import lru_cache
from typing import Final

MAXIMUM: Final = 65_000
"""Octets that fit into one packet with all headers."""

Address = tuple[str, int]
"""IP address and port."""

_UDP, _TCP = 17, 6
_PUSH_ACK: Final = 0x18


def udp(source: Address, destination: Address, data: bytes) -> bytes:
    """An IP packet with a UDP datagram. Raises `ValueError` unless both are IP addresses of one
    version."""
    length = 8 + len(data)
    head = struct.pack("!HHHH", source[1], destination[1], length, 0)
    return _ip(source[0], destination[0], _UDP, head, data, 6)


def tcp(
    source: Address, destination: Address, data: bytes, *, sequence: int, acknowledged: int
) -> bytes:
    """An IP packet with a TCP segment. Raises `ValueError` as `udp`."""
    head = struct.pack(
        "!HHIIBBHHH",
        source[1], destination[1], sequence & 0xFFFFFFFF, acknowledged & 0xFFFFFFFF,
        5 << 4, _PUSH_ACK, 0xFFFF, 0, 0,
    )  # fmt: skip
    return _ip(source[0], destination[0], _TCP, head, data, 16)


def _ip(source: str, destination: str, protocol: int, head: bytes, data: bytes, at: int) -> bytes:
    """at: where in `head` its checksum stands."""
    ours, theirs = _packed(source), _packed(destination)
    if len(ours) != len(theirs):
        raise ValueError(f"{source} and {destination} are of different IP versions")
    length = len(head) + len(data)
    ends = ours + theirs
    if len(ours) == 4:
        pseudo = ends + struct.pack("!BBH", 0, protocol, length)
    else:
        pseudo = ends + struct.pack("!IxxxB", length, protocol)
    total = checksum(pseudo + head + data) or 0xFFFF
    body = head[:at] + struct.pack("!H", total) + head[at + 2 :] + data
    if len(ours) == 16:
        return struct.pack("!IHBB", 6 << 28, length, protocol, 64) + ends + body
    outer = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, 64, protocol, 0) + ends
    return outer[:10] + struct.pack("!H", checksum(outer)) + outer[12:] + body


@lru_cache(256)
def _packed(address: str) -> bytes:
    """Whose packets one follows are few. Raises `ValueError`."""
    return ipaddress.ip_address(address).packed


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    # Sixteen bits at a time with the carries put back is the remainder of 65535, which C divides
    # quicker than Python adds; of what is not 0, that of 65535 itself stays.
    number = int.from_bytes(data)
    return ~((number - 1) % 0xFFFF + 1) & 0xFFFF if number else 0xFFFF


def publish(topic: str, payload: bytes) -> bytes:
    """An MQTT 3.1.1 PUBLISH of quality 0 (section 3.3): a message whatever version brought it."""
    name = topic.encode("utf-8", "replace")[:65535]
    body = struct.pack("!H", len(name)) + name + payload
    length, rest = b"", len(body)
    while True:
        rest, seven = rest >> 7, rest & 0x7F
        length += bytes((seven | (0x80 if rest else 0),))
        if not rest:
            return b"\x30" + length + body


def published(data: bytes) -> tuple[str, bytes]:
    """Topic and payload of a PUBLISH as `publish` makes it. Raises `ValueError` for another."""
    at = next((n for n, octet in enumerate(data[1:6], 2) if octet < 0x80), 0)
    if not at or data[:1] != b"\x30" or len(data) < at + 2:
        raise ValueError("no PUBLISH of quality 0")
    end = at + 2 + int.from_bytes(data[at : at + 2])
    return data[at + 2 : end].decode("utf-8", "replace"), data[end:]
