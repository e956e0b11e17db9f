"""Checksums of serial buses, by the names that profiles use."""

from __future__ import annotations

import binascii
from collections.abc import Callable
from functools import reduce
from operator import xor
from typing import Final

_Sum = Callable[[bytes, int], int]


def _reflected() -> tuple[int, ...]:
    table = []
    for octet in range(256):
        for _ in range(8):
            octet = (octet >> 1) ^ 0xA001 if octet & 1 else octet >> 1
        table.append(octet)
    return tuple(table)


_REFLECTED: Final = _reflected()


def _crc_reflected(data: bytes, value: int) -> int:
    for octet in data:
        value = (value >> 8) ^ _REFLECTED[(value ^ octet) & 0xFF]
    return value


KINDS: Final[dict[str, tuple[int, int, _Sum]]] = {
    "none": (0, 0, lambda data, start: 0),
    "sum8": (1, 0, lambda data, start: (start + sum(data)) & 0xFF),
    "lrc8": (1, 0, lambda data, start: -(start + sum(data)) & 0xFF),
    "xor8": (1, 0, lambda data, start: reduce(xor, data, start)),
    "crc16-xmodem": (2, 0, binascii.crc_hqx),
    "crc16-ccitt-false": (2, 0xFFFF, binascii.crc_hqx),
    "crc16-modbus": (2, 0xFFFF, _crc_reflected),
    "crc16-arc": (2, 0, _crc_reflected),
}
"""Name: octets, usual start value, function of data and start value."""
