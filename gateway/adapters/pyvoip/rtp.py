"""The library's RTP client with its audio path replaced: whole G.711 instead of 8-bit samples.

Loaded only in the library's own process. What the base class does and why that is not enough:
samples pass through 8 bits; everything ever sent or heard is kept; one odd packet ends its
receiving thread; sequence numbers break at their wrap; its sender has no clock.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from pyVoIP import RTP

from gateway._codecs import g711
from gateway.adapters.pyvoip.messages import BLOCK

FRAME_S: Final = 0.02
_LATE_S: Final = 0.2
_AHEAD: Final = 2
"""Blocks that wait, each way, before the first is passed on: what two clocks differ by."""
_DEEPEST: Final = 4
"""Blocks of the engine's that may wait for the sender; more is delay, and the oldest goes."""
_SILENCE: Final = b"\xff" * BLOCK
_KEYS: Final = "0123456789*#ABCD"
_TONE: Final = 5
_END: Final = 3
_PAUSE: Final = 5
"""Packets of a digit, of its end (RFC 4733 section 2.5.1.4 asks for three), and blocks of silence
after it."""
_VOLUME: Final = 10
_WAITING_DIGITS: Final = 64


class AudioClient(RTP.RTPClient):
    """One call's RTP. Driven by the library: `start`, `stop`, and its threads `recv`, `trans`."""

    def __init__(
        self,
        codecs: dict[int, RTP.PayloadType],
        local: tuple[str, int],
        remote: tuple[str, int],
        *,
        digit: Callable[[str], None],
        count: Callable[[str], None],
    ) -> None:
        super().__init__(codecs, *local, *remote, RTP.TransmitType.SENDRECV, dtmf=digit)
        self._count = count
        self._wire: socket.socket | None = None
        self._waiting: deque[bytes] = deque()
        self._flows = False
        self._heard_at: int | None = None
        self._event_at: int | None = None
        self._digits: deque[str] = deque(maxlen=_WAITING_DIGITS)
        self._press: tuple[int, int] | None = None
        """Event code being sent, and how many of its packets have gone."""

    @property
    def usable(self) -> bool:
        """Whether a codec was found that both sides have."""
        return getattr(self, "preference", None) in (RTP.PayloadType.PCMU, RTP.PayloadType.PCMA)

    @property
    def event_type(self) -> int | None:
        """Payload type of telephone-event."""
        return next((n for n, p in self.assoc.items() if p is RTP.PayloadType.EVENT), None)

    def attach(self, wire: socket.socket) -> None:
        """Where the audio comes from and goes."""
        wire.setblocking(False)
        self._wire = wire

    def press(self, digits: str) -> None:
        """Queue digits; the oldest go when more than 64 wait."""
        self._digits.extend(key for key in digits.upper() if key in _KEYS)

    def stop(self) -> None:
        """Stop the threads; harmless before `start` and twice."""
        self.NSD = False
        for name in ("sin", "sout"):
            if (held := getattr(self, name, None)) is not None:
                held.close()
        if self._wire is not None:
            self._wire.close()

    # From the PBX

    def recv(self) -> None:
        while self.NSD:
            try:
                # Woken by the packet: the library looks every 10 ms.
                if select.select([self.sin], [], [], _LATE_S)[0]:
                    self.parse_packet(self.sin.recv(8192))
            except (OSError, ValueError):
                time.sleep(0.01)

    def parse_packet(self, packet: bytes) -> None:
        try:
            super().parse_packet(packet)
        except Exception:
            # Whatever it is: an exception would end the library's thread, and with it the audio.
            self._count("rtp_garbage")

    def parse_pcmu(self, packet: RTP.RTPMessage) -> None:
        self._hear(packet, packet.payload)

    def parse_pcma(self, packet: RTP.RTPMessage) -> None:
        self._hear(packet, g711.convert_alaw_to_ulaw(packet.payload))

    def _hear(self, packet: RTP.RTPMessage, audio: bytes) -> None:
        at = packet.timestamp
        if self._heard_at is not None and 0 < (self._heard_at - at) & 0xFFFFFFFF < 0x4000:
            self._count("rtp_late")
            return
        if self._wire is None:
            return
        if self._heard_at is None:
            audio = _AHEAD * _SILENCE + audio
        self._heard_at = at
        for start in range(0, len(audio) - len(audio) % BLOCK, BLOCK):
            try:
                self._wire.send(audio[start : start + BLOCK])
            except OSError:
                self._count("audio_refused")

    def parse_telephone_event(self, packet: RTP.RTPMessage) -> None:
        # All packets of a key press have one timestamp (RFC 4733 section 2.3.5).
        if packet.timestamp != self._event_at:
            key = _KEYS[packet.payload[0]]
            self._event_at = packet.timestamp
            if self.dtmf is not None:
                self.dtmf(key)

    # To the PBX

    def trans(self) -> None:
        due = time.monotonic()
        sequence, timestamp = self.outSequence, self.outTimestamp
        while self.NSD:
            kind, payload, at = self._next(timestamp)
            header = struct.pack(
                "!BBHII", 0x80, kind, sequence & 0xFFFF, at & 0xFFFFFFFF, self.outSSRC
            )
            try:
                self.sout.sendto(header + payload, (self.outIP, self.outPort))
            except OSError:
                if self.NSD:
                    self._count("rtp_not_sent")
            sequence += 1
            timestamp += BLOCK
            due += FRAME_S
            left = due - time.monotonic()
            if left < -_LATE_S:
                due = time.monotonic()
            time.sleep(max(0.0, left))

    def _next(self, timestamp: int) -> tuple[int, bytes, int]:
        """Payload type, payload and timestamp of the packet that is due."""
        block = self._read()
        event = self.event_type
        if event is not None:
            if self._press is None and self._digits:
                self._press = _KEYS.index(self._digits.popleft()), 0
            if self._press is not None:
                code, sent = self._press
                self._press = (code, sent + 1) if sent + 1 < _TONE + _END + _PAUSE else None
                if sent < _TONE + _END:
                    ended = 0x80 if sent >= _TONE else 0
                    lasted = min(sent + 1, _TONE) * BLOCK
                    payload = struct.pack("!BBH", code, ended | _VOLUME, lasted)
                    return event | (0x80 if not sent else 0), payload, timestamp - sent * BLOCK
                block = _SILENCE
        if self.preference is RTP.PayloadType.PCMA:
            block = g711.convert_ulaw_to_alaw(block)
        return int(self.preference), block, timestamp

    def _read(self) -> bytes:
        if self._wire is not None:
            with contextlib.suppress(OSError):
                while block := self._wire.recv(BLOCK):
                    self._waiting.append(block)
        while len(self._waiting) > _DEEPEST:
            self._waiting.popleft()
            self._count("audio_slips")
        self._flows = len(self._waiting) >= (1 if self._flows else _AHEAD)
        return self._waiting.popleft() if self._flows else _SILENCE
