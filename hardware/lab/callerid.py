"""Caller ID as the lab's exchange sends it: an independent sender for the gateway's receiver.

Message: Telcordia GR-30 / ETSI EN 300 659-3 (MDMF). Modem: Bell 202 or ITU-T V.23, 1200 baud.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator


def mdmf(number: str, name: str, stamp: str) -> bytes:
    """A multiple data message with date and time (``MMDDHHMM``), number and name."""
    body = b""
    for kind, text in ((1, stamp), (2, number), (7, name)):
        if text:
            body += bytes((kind, len(text))) + text.encode("ascii", "replace")
    message = bytes((0x80, len(body))) + body
    return message + bytes((-sum(message) & 0xFF,))


def _bits(message: bytes) -> Iterator[int]:
    yield from (i & 1 for i in range(300))  # channel seizure
    yield from [1] * 180  # mark
    for octet in message:
        yield from (0, *(octet >> i & 1 for i in range(8)), 1)
    yield from [1] * 20


def fsk(message: bytes, *, v23: bool = False, amplitude: int = 6000) -> bytes:
    """The message as samples: 8 kHz, 16 bits, phase-continuous, with 60 ms of silence around."""
    mark, space = (1300, 2100) if v23 else (1200, 2200)
    silence = [0] * 480
    samples: list[int] = []
    phase, due = 0.0, 0.0
    for bit in _bits(message):
        due += 8000 / 1200
        while len(samples) < due:
            phase += 2 * math.pi * (mark if bit else space) / 8000
            samples.append(round(amplitude * math.sin(phase)))
    whole = silence + samples + silence
    return struct.pack(f"<{len(whole)}h", *whole)
