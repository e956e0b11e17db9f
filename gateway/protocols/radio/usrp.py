"""USRP frames, as AllStar's chan_usrp and DVSwitch speak them over UDP.

32 octets of header: ``USRP``, then seven big-endian 32-bit words (sequence, memory, keyup,
talkgroup, type, mpx id, reserved); voice is 160 samples of 16 bits little-endian, 8 kHz.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from gateway.errors import PeerError

HEADER: Final = struct.Struct(">4sIIIIIII")
VOICE_BYTES: Final = 320
RATE: Final = 8000


class Type(IntEnum):
    """What a frame carries."""

    VOICE = 0
    DTMF = 1
    TEXT = 2
    PING = 3
    TLV = 4
    VOICE_ADPCM = 5
    VOICE_MULAW = 6


@dataclass(frozen=True)
class Frame:
    """One datagram."""

    sequence: int
    keyup: bool
    type: Type
    talkgroup: int = 0
    payload: bytes = b""

    def pack(self) -> bytes:
        """The datagram."""
        return (
            HEADER.pack(
                b"USRP", self.sequence & 0xFFFFFFFF, 0, self.keyup, self.talkgroup, self.type, 0, 0
            )
            + self.payload
        )

    @classmethod
    def parse(cls, data: bytes) -> Frame:
        """Read a datagram. Raises `PeerError` when it is none of USRP."""
        if len(data) < HEADER.size:
            raise PeerError(f"USRP: {len(data)} octets are less than a header")
        magic, sequence, _, keyup, talkgroup, number, _, _ = HEADER.unpack_from(data)
        if magic != b"USRP":
            raise PeerError("USRP: it does not begin with USRP")
        if number > 0xFFFFFF:
            number >>= 24  # DVSwitch writes this word in the other byte order
        if number not in Type.__members__.values():
            raise PeerError(f"USRP: frames of type {number} are unknown")
        payload = data[HEADER.size :]
        if number == Type.VOICE and payload and len(payload) != VOICE_BYTES:
            raise PeerError(f"USRP: {len(payload)} octets of voice, not {VOICE_BYTES}")
        return cls(sequence, bool(keyup), Type(number), talkgroup, payload)
