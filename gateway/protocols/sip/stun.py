"""STUN as a keep-alive on a SIP port (RFC 5626 section 4.4.2, RFC 8489): binding requests only."""

from __future__ import annotations

import ipaddress
import struct
from typing import Final

_COOKIE: Final = 0x2112A442
_HEADER: Final = struct.Struct(">HHI12s")
_REQUEST, _SUCCESS, _REFUSED = 0x0001, 0x0101, 0x0111
_XOR_MAPPED_ADDRESS, _ERROR_CODE, _UNKNOWN_ATTRIBUTES = 0x0020, 0x0009, 0x000A
_UNDERSTOOD: Final = frozenset((0x0006, 0x0008, 0x0014, 0x0015))
"""USERNAME, MESSAGE-INTEGRITY, REALM, NONCE: nothing is asked for here, so they do no harm."""


def is_stun(data: bytes) -> bool:
    """Whether a datagram is STUN and not SIP (RFC 8489 section 5)."""
    return len(data) >= 20 and data[0] < 0x40 and data[4:8] == b"\x21\x12\xa4\x42"


def answer(data: bytes, host: str, port: int) -> bytes:
    """The response to a binding request that came from an address; empty for anything else."""
    kind, length, cookie, transaction = _HEADER.unpack_from(data)
    if kind != _REQUEST or cookie != _COOKIE or length != len(data) - 20 or length % 4:
        return b""
    unknown: list[int] = []
    at = 20
    while at < len(data):
        name, size = struct.unpack_from(">HH", data, at)
        at += 4 + size + -size % 4
        if at > len(data):
            return b""
        # Those from 0x8000 on may be left alone (section 14).
        if name < 0x8000 and name not in _UNDERSTOOD:
            unknown.append(name)
    if unknown:
        # No more than the request is long: nobody is to be flooded with our answers.
        code = struct.pack(">HHI", _ERROR_CODE, 4, 420 // 100 << 8 | 420 % 100)
        names = b"".join(struct.pack(">H", name) for name in unknown[:4])
        body = code + struct.pack(">HH", _UNKNOWN_ATTRIBUTES, len(names)) + names
        body += bytes(-len(names) % 4)
        return _HEADER.pack(_REFUSED, len(body), _COOKIE, transaction) + body
    address = ipaddress.ip_address(host.partition("%")[0])
    mask = _COOKIE.to_bytes(4, "big") + transaction
    octets = bytes(a ^ b for a, b in zip(address.packed, mask, strict=False))
    family = 1 if address.version == 4 else 2
    value = struct.pack(">BBH", 0, family, port ^ _COOKIE >> 16) + octets
    body = struct.pack(">HH", _XOR_MAPPED_ADDRESS, len(value)) + value
    return _HEADER.pack(_SUCCESS, len(body), _COOKIE, transaction) + body
