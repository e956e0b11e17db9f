"""pcapng: the blocks of a capture file (draft-ietf-opsawg-pcapng), little-endian.

A file is `section`, `interface` once for each link, then the other blocks in any order. Times are
nanoseconds since 1970.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Mapping
from typing import Final

LINKTYPE_RAW: Final = 101
"""An IPv4 or IPv6 packet and nothing around it."""

_COMMENT, _END = 1, 0
_SHB, _IDB, _NRB, _ISB, _EPB = 0x0A0D0D0A, 1, 4, 5, 6


def _block(kind: int, body: bytes) -> bytes:
    length = len(body) + 12
    return struct.pack("<II", kind, length) + body + struct.pack("<I", length)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _options(*options: tuple[int, bytes]) -> bytes:
    found = b"".join(
        struct.pack("<HH", code, len(value)) + _padded(value) for code, value in options if value
    )
    return found + struct.pack("<HH", _END, 0) if found else b""


def _text(words: str) -> bytes:
    """At most 65535 octets of UTF-8, whole characters."""
    return words.encode("utf-8", "replace")[:65535].decode("utf-8", "ignore").encode()


def section(application: str = "", comment: str = "") -> bytes:
    """The Section Header Block that a file begins with."""
    options = _options((_COMMENT, _text(comment)), (4, _text(application)))
    return _block(_SHB, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1) + options)


def interface(link_type: int, name: str = "", description: str = "") -> bytes:
    """An Interface Description Block; interfaces count from 0 in the order of their blocks."""
    # if_tsresol 9: nanoseconds.
    options = _options((2, _text(name)), (3, _text(description)), (9, b"\x09"))
    return _block(_IDB, struct.pack("<HHI", link_type, 0, 0) + options)


def packet(
    at_ns: int,
    data: bytes,
    *,
    comment: str = "",
    outward: bool | None = None,
    number: int = 0,
) -> bytes:
    """An Enhanced Packet Block. number: of the interface."""
    way = b"" if outward is None else struct.pack("<I", 2 if outward else 1)
    head = struct.pack("<IIIII", number, at_ns >> 32, at_ns & 0xFFFFFFFF, len(data), len(data))
    return _block(_EPB, head + _padded(data) + _options((_COMMENT, _text(comment)), (2, way)))


def names(known: Mapping[str, str]) -> bytes:
    """A Name Resolution Block. known: IP address to name."""
    records = b""
    for address, name in known.items():
        ip = ipaddress.ip_address(address)
        value = ip.packed + _text(name.replace("\0", ""))[:255] + b"\0"
        records += struct.pack("<HH", 1 if ip.version == 4 else 2, len(value)) + _padded(value)
    return _block(_NRB, records + struct.pack("<HH", 0, 0))


def statistics(at_ns: int, *, received: int, dropped: int, number: int = 0) -> bytes:
    """An Interface Statistics Block: packets that were seen, and those lost to the capture."""
    head = struct.pack("<III", number, at_ns >> 32, at_ns & 0xFFFFFFFF)
    options = _options((4, struct.pack("<Q", received)), (5, struct.pack("<Q", dropped)))
    return _block(_ISB, head + options)
