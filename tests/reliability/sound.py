"""The audio of many calls at once: each sends its own tone as RTP, and listens for it.

One thread moves the packets of all ends; what was heard is judged afterwards. PCMU, 20 ms.
"""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PTIME_S = 0.02
N = 160
KEPT = 200
"""Packets of which the payload is kept: four seconds."""


def _expand() -> Any:
    """Linear values of the 256 octets of mu-law (ITU-T G.711 table 2a)."""
    octet = ~np.arange(256) & 0xFF
    magnitude = ((((octet & 0x0F) << 3) + 0x84) << ((octet & 0x70) >> 4)) - 0x84
    return np.where(octet & 0x80, -magnitude, magnitude).astype(np.float64)


_LINEAR = _expand()


def encode(samples: Any) -> bytes:
    """Linear samples as mu-law: the nearest of the 256 values."""
    order = np.argsort(_LINEAR, kind="stable")
    values = _LINEAR[order]
    at = np.searchsorted((values[1:] + values[:-1]) / 2, samples)
    return order[at].astype(np.uint8).tobytes()


def frames(hz: int, dbm0: float = -10.0) -> list[bytes]:
    """One second of a tone of whole hertz, as fifty packets' payload: it can be repeated."""
    # 0 dBm0 is 3.17 dB below the largest sine (G.711 table 5).
    peak = 32124 * 10 ** ((dbm0 - 3.17) / 20)
    octets = encode(peak * np.sin(2 * np.pi * hz * np.arange(8000) / 8000))
    return [octets[n : n + N] for n in range(0, 8000, N)]


def levels(payload: bytes, tones: list[int]) -> dict[int, float]:
    """Level of each tone in dBm0 in a second of mu-law."""
    window = np.hanning(8000)
    samples = _LINEAR[np.frombuffer(payload, np.uint8)] * window
    spectrum = np.abs(np.fft.rfft(samples)) * 2 / window.sum()
    return {hz: 20 * np.log10(max(float(spectrum[hz]), 1e-3) / 32124) + 3.17 for hz in tones}


@dataclass(eq=False)
class Sound:
    """One end of the audio of one call."""

    sock: socket.socket
    hz: int
    """What it says."""
    remote: tuple[str, int] | None = None
    sending: bool = True
    n_sent: int = 0
    n_received: int = 0
    n_missing: int = 0
    """Of the numbers between the first and the last that came."""
    n_events: int = 0
    """RTP packets with the payload type of telephone-event."""
    digits: set[int] = field(default_factory=set)
    n_alien: int = 0
    """Packets that came from elsewhere than our partner."""
    last_at: float = 0.0
    longest_gap_s: float = 0.0
    most_at_once: int = 0
    """Packets in one turn of 20 ms."""
    heard: deque[tuple[float, bytes]] = field(default_factory=lambda: deque(maxlen=KEPT))
    """When it came, payload."""
    _numbers: set[int] = field(default_factory=set)
    _highest: int = -1
    _sent_frames: list[bytes] = field(default_factory=list)
    seq: int = field(default_factory=lambda: random.randrange(30000))
    stamp: int = field(default_factory=lambda: random.randrange(1 << 31))
    ssrc: int = field(default_factory=lambda: random.getrandbits(32))

    def __post_init__(self) -> None:
        self._sent_frames = frames(self.hz)

    @property
    def port(self) -> int:
        return int(self.sock.getsockname()[1])

    def reset(self) -> None:
        """Count from now on."""
        self.n_received = self.n_missing = self.most_at_once = 0
        self.longest_gap_s = 0.0
        self._numbers.clear()
        self._highest = -1
        self.last_at = time.monotonic()
        self.heard.clear()

    def lost(self) -> int:
        """Numbers that did not come, between the first and the last one."""
        return self._highest - min(self._numbers) + 1 - len(self._numbers) if self._numbers else 0

    def send(self) -> None:
        if self.remote is None or not self.sending:
            return
        head = struct.pack("!BBHII", 0x80, 0, self.seq & 0xFFFF, self.stamp & 0xFFFFFFFF, self.ssrc)
        with contextlib.suppress(OSError):
            self.sock.sendto(head + self._sent_frames[self.n_sent % 50], self.remote)
        self.n_sent += 1
        self.seq += 1
        self.stamp += N

    def take(self, now: float) -> int:
        """Read what has come."""
        n = 0
        while True:
            try:
                data, source = self.sock.recvfrom(2048)
            except OSError:
                break
            n += 1
            if source != self.remote:
                self.n_alien += 1
                continue
            if len(data) < 12:
                continue
            kind = data[1] & 0x7F
            if kind == 101:
                self.n_events += 1
                self.digits.add(data[12])
                continue
            if kind != 0 or len(data) != 12 + N:
                continue
            self.n_received += 1
            (low,) = struct.unpack_from("!H", data, 2)
            number = low
            if self._highest >= 0:
                number = self._highest + ((low - self._highest + 0x8000) & 0xFFFF) - 0x8000
            self._highest = max(self._highest, number)
            self._numbers.add(number)
            if self.last_at:
                self.longest_gap_s = max(self.longest_gap_s, now - self.last_at)
            self.last_at = now
            self.heard.append((now, data[12:]))
        self.most_at_once = max(self.most_at_once, n)
        return n

    def levels(self, tones: list[int], since: float = 0.0) -> dict[int, float]:
        """Level of each tone in dBm0 in the newest second that was heard; empty for less."""
        payload = b"".join(data for at, data in list(self.heard) if at >= since)[-8000:]
        return levels(payload, tones) if len(payload) == 8000 else {}

    def quiet(self, below_dbm0: float, since: float = 0.0) -> tuple[int, int]:
        """How many of the packets that were heard hold less power than this, and of how many."""
        loud = 32124 * 10 ** ((below_dbm0 - 3.17) / 20) / np.sqrt(2)
        payloads = [data for at, data in list(self.heard) if at >= since]
        found = sum(
            float(np.sqrt(np.mean(_LINEAR[np.frombuffer(data, np.uint8)] ** 2))) < loud
            for data in payloads
        )
        return found, len(payloads)

    def own_levels(self, tones: list[int]) -> dict[int, float]:
        """The same of what it sends: the quantizer's distortion of a tone whose period is few
        samples is a handful of tones itself, 45 dB below."""
        return levels(b"".join(self._sent_frames), tones)


class Mixer:
    """The thread that moves all packets. `add`, then `close`."""

    def __init__(self) -> None:
        self.sounds: list[Sound] = []
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._ends = threading.Event()
        self.n_late = 0
        """Turns that began more than 20 ms late: then the bench was too busy to judge audio."""
        self.latest_s = 0.0
        self._thread = threading.Thread(target=self._run, name="sound", daemon=True)
        self._thread.start()

    def add(self, sound: Sound) -> Sound:
        with self._lock:
            self.sounds.append(sound)
            self._selector.register(sound.sock, selectors.EVENT_READ, sound)
        return sound

    def remove(self, sound: Sound) -> None:
        with self._lock:
            if sound in self.sounds:
                self.sounds.remove(sound)
                self._selector.unregister(sound.sock)
                sound.sock.close()

    def close(self) -> None:
        self._ends.set()
        self._thread.join(5)
        for sound in list(self.sounds):
            self.remove(sound)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._ends.is_set():
            with self._lock:
                for sound in self.sounds:
                    sound.send()
                ready = [key.data for key, _ in self._selector.select(0)]
                now = time.monotonic()
                for sound in ready:
                    sound.take(now)
            due += PTIME_S
            wait = due - time.monotonic()
            if wait < -PTIME_S:
                self.n_late += 1
                self.latest_s = max(self.latest_s, -wait)
                if wait < -1.0:
                    # Suspended: do not send all of it at once.
                    due = time.monotonic()
            # Also when it is late: who waits for the lock would never get it.
            time.sleep(max(wait, 0.001))
