"""SvxReflector, protocol version 1.0, as the reflector of SvxLink 19.09 speaks it.

TCP: a 32-bit length, a 16-bit type, fields; UDP: type, client id and sequence in 16 bits each,
fields. All big-endian; strings and lists begin with a 16-bit count.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final

from gateway.errors import PeerError

VERSION: Final = (1, 0)
HEARTBEAT_S: Final = 10.0
DEAD_S: Final = 25.0
"""Without a word for two heartbeats and a half the reflector is gone."""
UDP_HEARTBEAT_S: Final = 15.0
LONGEST: Final = 32768
_UDP: Final = struct.Struct(">HHH")


class Tcp(IntEnum):
    """Types of TCP messages."""

    HEARTBEAT = 1
    PROTO_VER = 5
    PROTO_VER_DOWNGRADE = 6
    AUTH_CHALLENGE = 10
    AUTH_RESPONSE = 11
    AUTH_OK = 12
    ERROR = 13
    SERVER_INFO = 100
    NODE_LIST = 101
    NODE_JOINED = 102
    NODE_LEFT = 103
    TALKER_START = 104
    TALKER_STOP = 105


class Udp(IntEnum):
    """Types of UDP messages."""

    HEARTBEAT = 1
    AUDIO = 101
    FLUSH = 102
    ALL_FLUSHED = 103
    SIGNAL_STRENGTHS = 104


class State(Enum):
    """How far the session is."""

    GREETED = "greeted"
    ANSWERED = "answered"
    ACCEPTED = "accepted"
    UP = "up"


class Session:
    """The TCP side of a client. Driven by `start`, `receive` and `poll`; what is to be sent is
    taken with `outgoing`.

    After `State.UP`, `client_id` is what every datagram carries.
    """

    def __init__(self, callsign: str, key: str, now: float) -> None:
        self.state = State.GREETED
        self.client_id = 0
        self.codecs: list[str] = []
        self.nodes: list[str] = []
        self.talker = ""
        """Callsign of who speaks."""
        self._callsign, self._key = callsign, key
        self._held = b""
        self._out = [_frame(Tcp.PROTO_VER, struct.pack(">HH", *VERSION))]
        self._heard_at = self._sent_at = now

    def outgoing(self) -> bytes:
        """Octets to send now."""
        octets, self._out = b"".join(self._out), []
        return octets

    def receive(self, data: bytes, now: float) -> None:
        """Octets from the reflector. Raises `PeerError` when it refuses us or speaks otherwise."""
        self._heard_at = now
        self._held += data
        most = LONGEST if self.state is State.UP else 4096
        while len(self._held) >= 4:
            (length,) = struct.unpack_from(">I", self._held)
            if not 2 <= length <= most:
                raise PeerError(f"reflector: a message of {length} octets")
            if len(self._held) < 4 + length:
                return
            body, self._held = self._held[4 : 4 + length], self._held[4 + length :]
            self._message(struct.unpack_from(">H", body)[0], _Fields(body[2:]))

    def poll(self, now: float) -> None:
        """Time has passed. Raises `PeerError` when the reflector has fallen silent."""
        if now - self._heard_at > DEAD_S:
            raise PeerError(f"reflector: silent for {now - self._heard_at:.0f} s")
        if now - self._sent_at >= HEARTBEAT_S:
            self._sent_at = now
            self._out.append(_frame(Tcp.HEARTBEAT))

    def _message(self, kind: int, fields: _Fields) -> None:
        if kind == Tcp.ERROR:
            raise PeerError(f"reflector refused us: {fields.string()}")
        if kind == Tcp.PROTO_VER_DOWNGRADE:
            major, minor = fields.word(), fields.word()
            if (major, minor) < VERSION:
                raise PeerError(f"reflector speaks only version {major}.{minor}, we {VERSION}")
            self._out.append(_frame(Tcp.PROTO_VER, struct.pack(">HH", *VERSION)))
        elif kind == Tcp.AUTH_CHALLENGE and self.state in (State.GREETED, State.ANSWERED):
            challenge = fields.octets(fields.word())
            if len(challenge) != 20:
                raise PeerError(f"reflector: a challenge of {len(challenge)} octets, not 20")
            digest = hmac.digest(self._key.encode(), challenge, hashlib.sha1)
            self._out.append(
                _frame(
                    Tcp.AUTH_RESPONSE,
                    _string(self._callsign) + struct.pack(">H", len(digest)) + digest,
                )
            )
            self.state = State.ANSWERED
        elif kind == Tcp.AUTH_OK and self.state is State.ANSWERED:
            self.state = State.ACCEPTED
        elif kind == Tcp.SERVER_INFO and self.state is State.ACCEPTED:
            fields.word()
            self.client_id = fields.word()
            self.nodes = [fields.string() for _ in range(fields.word())]
            self.codecs = [fields.string() for _ in range(fields.word())]
            self.state = State.UP
        elif self.state is State.UP:
            self._news(kind, fields)

    def _news(self, kind: int, fields: _Fields) -> None:
        if kind == Tcp.NODE_LIST:
            self.nodes = [fields.string() for _ in range(fields.word())]
        elif kind == Tcp.NODE_JOINED:
            self.nodes = [*self.nodes, fields.string()][-1000:]
        elif kind == Tcp.NODE_LEFT:
            left = fields.string()
            self.nodes = [node for node in self.nodes if node != left]
        elif kind == Tcp.TALKER_START:
            self.talker = fields.string()
        elif kind == Tcp.TALKER_STOP:
            self.talker = ""


@dataclass(frozen=True)
class Datagram:
    """One UDP message; `audio` are the codec's octets."""

    kind: Udp
    client_id: int
    sequence: int
    audio: bytes = b""

    def pack(self) -> bytes:
        """The datagram."""
        head = _UDP.pack(self.kind, self.client_id & 0xFFFF, self.sequence & 0xFFFF)
        if self.kind is Udp.AUDIO:
            return head + struct.pack(">H", len(self.audio)) + self.audio
        return head

    @classmethod
    def parse(cls, data: bytes) -> Datagram:
        """Read a datagram. Raises `PeerError` when it is none."""
        if len(data) < _UDP.size:
            raise PeerError(f"reflector: a datagram of {len(data)} octets")
        kind, client_id, sequence = _UDP.unpack_from(data)
        if kind not in Udp.__members__.values():
            raise PeerError(f"reflector: datagrams of type {kind} are unknown")
        audio = b""
        if kind == Udp.AUDIO:
            fields = _Fields(data[_UDP.size :])
            audio = fields.octets(fields.word())
        return cls(Udp(kind), client_id, sequence, audio)


class _Fields:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def octets(self, n: int) -> bytes:
        if self._at + n > len(self._data):
            raise PeerError("reflector: a message that ends too early")
        self._at += n
        return self._data[self._at - n : self._at]

    def word(self) -> int:
        return int.from_bytes(self.octets(2), "big")

    def string(self) -> str:
        return self.octets(self.word()).decode("utf-8", "replace")


def _string(text: str) -> bytes:
    octets = text.encode()
    return struct.pack(">H", len(octets)) + octets


def _frame(kind: Tcp, fields: bytes = b"") -> bytes:
    return struct.pack(">IH", 2 + len(fields), kind) + fields
