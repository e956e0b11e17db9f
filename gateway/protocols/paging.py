"""Multicast paging of telephones: Poly group paging packets and SPA group page control packets.

Sans-IO: octets to meaning and back. Plain RTP paging needs nothing of this.

Poly (VVX, SoundPoint, Trio; engineering advisory 70568): everything goes to one group and port, by
default 224.0.1.116:5001. A header of 20 octets: operation, channel, the last four octets of the
sender's MAC address, the length 13, and a caller id of 13 octets padded with NUL. A transmit packet
adds an audio header (codec, flags, sample count as 32 bits, most significant octet first) and the
frame, with the frame before it in front as redundancy. Channels 1 to 25 are push-to-talk (24
priority, 25 emergency), 26 to 50 paging groups 1 to 25 (49 priority, 50 emergency).

SPA (Linksys, Cisco SPA5xx): ordinary RTP, announced and ended by a control packet of four 32-bit
words, most significant octet first: identifier, command, group address, UDP port.
"""

from __future__ import annotations

import socket
import struct
from enum import IntEnum
from typing import Final

import msgspec

from gateway.errors import PeerError, UsageError

POLY_GROUP: Final = "224.0.1.116"
POLY_PORT: Final = 5001
POLY_CHANNELS: Final = 50
POLY_ALERTS: Final = 31
"""Alert packets before the audio."""
POLY_ENDS: Final = 12
"""End packets after it; a receiver takes three for granted."""
POLY_SPACING_S: Final = 0.03
"""Between alerts, and between ends."""
POLY_PAUSE_S: Final = 0.05
"""Between the last audio and the first end."""
POLY_FRAME_BYTES: Final = 160
"""20 ms of G.711 or of G.722 at 64 kbit/s."""
POLY_TICKS: Final = 160
"""What the sample count grows by with each frame."""
SPA_PORT: Final = 6061
SPA_TIMES: Final = 2
SPA_SPACING_S: Final = 0.02

_HEADER: Final = struct.Struct(">BB4sB13s")
_AUDIO: Final = struct.Struct(">BBI")
_CONTROL: Final = struct.Struct(">II4sI")
_ID_BYTES: Final = 13


class PolyOperation(IntEnum):
    """What a Poly packet says."""

    ALERT = 0x0F
    TRANSMIT = 0x10
    END = 0xFF


class PolyCodec(IntEnum):
    """Codec octet of the audio header."""

    PCMU = 0x00
    PCMA = 0x08
    G722 = 0x09
    G726QI = 0xFF


class PolyPacket(msgspec.Struct, frozen=True, kw_only=True):
    """One packet of Poly push-to-talk or group paging."""

    operation: PolyOperation
    channel: int
    serial: bytes = bytes(4)
    """Last four octets of the sender's MAC address: phones ignore their own."""
    caller_id: str = ""
    """Shown on the phones; at most 13 characters of ASCII."""
    codec: PolyCodec = PolyCodec.PCMU
    flags: int = 0
    sample_count: int = 0
    previous: bytes = b""
    """The frame before `frame`, again; empty in the first packet of a page."""
    frame: bytes = b""
    """Only in transmit packets."""

    def encode(self) -> bytes:
        """The packet's octets. Raises `UsageError` for values that do not fit."""
        header = poly_header(self.operation, self.channel, self.serial, self.caller_id)
        if self.operation is not PolyOperation.TRANSMIT:
            return header
        audio = _AUDIO.pack(self.codec, self.flags, self.sample_count & 0xFFFFFFFF)
        return header + audio + self.previous + self.frame

    @classmethod
    def parse(cls, data: bytes) -> PolyPacket:
        """Read a datagram. Raises `PeerError` saying what is wrong with it."""
        if len(data) < _HEADER.size:
            raise PeerError(f"Poly page: {len(data)} octets, the header has {_HEADER.size}")
        operation, channel, serial, id_bytes, caller_id = _HEADER.unpack_from(data)
        if operation not in tuple(PolyOperation):
            raise PeerError(f"Poly page: operation {operation:#04x}")
        if not 1 <= channel <= POLY_CHANNELS:
            raise PeerError(f"Poly page: channel {channel}")
        if id_bytes != _ID_BYTES:
            raise PeerError(f"Poly page: caller id of {id_bytes} octets")
        name = caller_id.partition(b"\0")[0].decode("ascii", "replace")
        found = cls(
            operation=PolyOperation(operation), channel=channel, serial=serial, caller_id=name
        )
        if found.operation is not PolyOperation.TRANSMIT:
            return found
        if len(data) < _HEADER.size + _AUDIO.size:
            raise PeerError("Poly page: no audio header")
        codec, flags, count = _AUDIO.unpack_from(data, _HEADER.size)
        if codec not in tuple(PolyCodec):
            raise PeerError(f"Poly page: codec {codec:#04x}")
        audio = data[_HEADER.size + _AUDIO.size :]
        # G.726 has 32 kbit/s, the others 64.
        n = POLY_FRAME_BYTES // 2 if codec == PolyCodec.G726QI else POLY_FRAME_BYTES
        if len(audio) not in (n, 2 * n):
            raise PeerError(f"Poly page: {len(audio)} octets of audio, neither {n} nor {2 * n}")
        split = len(audio) - n
        return msgspec.structs.replace(
            found,
            codec=PolyCodec(codec),
            flags=flags,
            sample_count=count,
            previous=audio[:split],
            frame=audio[split:],
        )


def poly_header(operation: PolyOperation, channel: int, serial: bytes, caller_id: str) -> bytes:
    """The 20 octets in front. Raises `UsageError` for a channel or serial that does not fit."""
    if not 1 <= channel <= POLY_CHANNELS:
        raise UsageError(f"Poly channel {channel}; use 1 to {POLY_CHANNELS}")
    if len(serial) != 4:
        raise UsageError(f"Poly serial {serial.hex()}: 4 octets of a MAC address")
    name = caller_id.encode("ascii", "replace").replace(b"\0", b"")[:_ID_BYTES]
    return _HEADER.pack(operation, channel, serial, _ID_BYTES, name.ljust(_ID_BYTES, b"\0"))


def poly_audio_header(codec: PolyCodec) -> bytes:
    """Codec and flags; the sample count follows, then the frames."""
    return bytes((codec, 0))


class SpaCommand(IntEnum):
    """What an SPA control packet says."""

    START = 6
    STOP = 7


class SpaControl(msgspec.Struct, frozen=True, kw_only=True):
    """One SPA group page control packet."""

    identifier: int
    """The same in the start and the stop of a page."""
    command: SpaCommand
    group: str
    """Where the RTP goes: dotted IPv4 address."""
    port: int

    def encode(self) -> bytes:
        """The 16 octets. Raises `UsageError` when the group is no IPv4 address."""
        try:
            group = socket.inet_aton(self.group)
        except OSError:
            raise UsageError(f"SPA group {self.group!r} is no IPv4 address") from None
        return _CONTROL.pack(self.identifier & 0xFFFFFFFF, self.command, group, self.port)

    @classmethod
    def parse(cls, data: bytes) -> SpaControl:
        """Read a datagram. Raises `PeerError` saying what is wrong with it."""
        if len(data) != _CONTROL.size:
            raise PeerError(f"SPA page control: {len(data)} octets, not {_CONTROL.size}")
        identifier, command, group, port = _CONTROL.unpack(data)
        if command not in tuple(SpaCommand):
            raise PeerError(f"SPA page control: command {command}")
        if not 1 <= port <= 65535:
            raise PeerError(f"SPA page control: port {port}")
        return cls(
            identifier=identifier,
            command=SpaCommand(command),
            group=socket.inet_ntoa(group),
            port=port,
        )
