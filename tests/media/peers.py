"""An RTP endpoint of the tests' own: nothing of the gateway's codecs or packet code is used."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from dataclasses import dataclass

import numpy as np

_EXP = np.array([0, 0, 1, 1, 2, 2, 2, 2] + [3] * 8 + [4] * 16 + [5] * 32 + [6] * 64 + [7] * 128)


def _ulaw_table() -> np.ndarray:
    codes = ~np.arange(256) & 0xFF
    exponent, mantissa = (codes >> 4) & 7, codes & 15
    value = (((mantissa << 3) + 0x84) << exponent) - 0x84
    return np.where(codes & 0x80, -value, value).astype(np.int16)


def _alaw_table() -> np.ndarray:
    codes = np.arange(256) ^ 0x55
    exponent, mantissa = (codes >> 4) & 7, codes & 15
    value = np.where(
        exponent == 0, (mantissa << 4) + 8, ((mantissa << 4) + 0x108) << np.maximum(exponent - 1, 0)
    )
    return np.where(codes & 0x80, value, -value).astype(np.int16)


TABLES = {0: _ulaw_table(), 8: _alaw_table()}


def g711_decode(payload: bytes, pt: int) -> np.ndarray:
    """Samples of G.711 octets by the standard's formula."""
    return TABLES[pt][np.frombuffer(payload, np.uint8)]


def g711_encode(pcm: np.ndarray, pt: int) -> bytes:
    """Nearest code of each sample: slow and obvious."""
    order = np.argsort(TABLES[pt], kind="stable")
    values = TABLES[pt][order].astype(np.int32)
    at = np.clip(np.searchsorted(values, pcm), 1, 255)
    left = np.abs(pcm - values[at - 1]) <= np.abs(values[at] - pcm)
    return order[np.where(left, at - 1, at)].astype(np.uint8).tobytes()


def sine(hz: float, seconds: float, rate: int = 8000, level_dbm0: float = -13.0) -> np.ndarray:
    """Full-scale sine is +3.14 dBm0."""
    peak = 32768 * 10 ** ((level_dbm0 - 3.14) / 20)
    return np.round(peak * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype(
        np.int16
    )


def level_at(pcm: np.ndarray, hz: float, rate: int = 8000) -> float:
    """Level in dBm0 of the component at hz (Hann window, within a bin of it)."""
    if len(pcm) < 256:
        return -120.0
    window = np.hanning(len(pcm))
    at = hz + np.linspace(-1, 1, 9) * rate / len(pcm)
    turns = np.outer(at, np.arange(len(pcm)) / rate)
    peak = np.abs(np.exp(-2j * np.pi * turns) @ (pcm * window)).max() / (window.sum() / 2)
    return float(20 * np.log10(max(peak, 1e-3) / 32768) + 3.14)


def levels_at(pcm: np.ndarray, hz: range, rate: int = 8000) -> dict[int, float]:
    """The levels of many components as `level_at` has them, by one transform."""
    window = np.hanning(len(pcm))
    n = 8 * len(pcm)  # eight steps to a bin
    peaks = np.abs(np.fft.rfft(pcm * window, n)) / (window.sum() / 2)
    found = {f: peaks[round(f * n / rate) - 8 : round(f * n / rate) + 9].max() for f in hz}
    return {f: float(20 * np.log10(max(peak, 1e-3) / 32768) + 3.14) for f, peak in found.items()}


def usual_level_at(pcm: np.ndarray, hz: float, rate: int = 8000) -> float:
    """The median over tenths of a second: a stall of the test's own sender does not count."""
    n = rate // 10
    return float(
        np.median([level_at(pcm[i : i + n], hz, rate) for i in range(0, len(pcm) - n + 1, n)])
    )


def rms_dbm0(pcm: np.ndarray) -> float:
    """Level of everything."""
    mean = float(np.mean(pcm.astype(float) ** 2)) if len(pcm) else 0.0
    return 10 * float(np.log10(max(mean, 1e-3) / (32768**2 / 2))) + 3.14


def clicks(pcm: np.ndarray, above_hz: float = 1500.0, rate: int = 8000) -> int:
    """Windows (32 ms, each 8 ms) that hold over -42 dBm0 above a frequency.

    A tone that breaks off has that much there in three or four of them; G.711's noise is at -50.
    """
    n = rate * 32 // 1000
    window = np.hanning(n)
    parts = np.lib.stride_tricks.sliding_window_view(pcm.astype(float), n)[:: n // 4]
    lines = np.abs(np.fft.rfft(parts * window)) / (window.sum() / 2)
    high = np.sqrt((lines[:, round(above_hz * n / rate) :] ** 2).sum(axis=1))
    return int((20 * np.log10(np.maximum(high, 1e-3) / 32768) + 3.14 > -42).sum())


@dataclass
class Packet:
    """One received RTP packet."""

    marker: int
    pt: int
    seq: int
    ts: int
    ssrc: int
    payload: bytes
    at: float


class Peer:
    """Sends a signal every 20 ms and keeps what arrives."""

    def __init__(self, pt: int = 0, ip: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_DGRAM)
        while True:  # an even port whose neighbour is free, for RTCP
            self.sock.bind((ip, 0))
            port = self.sock.getsockname()[1]
            self.rtcp = socket.socket(family, socket.SOCK_DGRAM)
            try:
                if port % 2 == 0:
                    self.rtcp.bind((ip, port + 1))
                    break
            except OSError:
                pass
            self.sock.close()
            self.rtcp.close()
            self.sock = socket.socket(family, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.rtcp.setblocking(False)
        self.ip, self.port, self.pt = ip, port, pt
        self.ssrc, self.seq = random.getrandbits(32), random.getrandbits(16)
        self.ts = random.getrandbits(32)
        self.packets: list[Packet] = []
        self.reports: list[bytes] = []
        self.te_pt: int | None = None
        self.sent = 0

    def close(self) -> None:
        """Free both ports."""
        self.sock.close()
        self.rtcp.close()

    def send(
        self,
        payload: bytes,
        to: tuple[str, int],
        *,
        pt: int | None = None,
        marker: int = 0,
        ticks: int = 160,
        ts: int | None = None,
    ) -> None:
        """One packet; the clock goes on by `ticks`."""
        header = struct.pack(
            "!BBHII",
            0x80,
            marker << 7 | (self.pt if pt is None else pt),
            self.seq & 0xFFFF,
            (self.ts if ts is None else ts) & 0xFFFFFFFF,
            self.ssrc,
        )
        self.sock.sendto(header + payload, to)
        self.seq += 1
        self.ts += ticks
        self.sent += 1

    def collect(self) -> None:
        """Empty both sockets."""
        while True:
            try:
                data = self.sock.recv(4096)
            except (BlockingIOError, ConnectionError):
                break
            b0, b1, seq, ts, ssrc = struct.unpack("!BBHII", data[:12])
            assert b0 == 0x80
            self.packets.append(
                Packet(b1 >> 7, b1 & 127, seq, ts, ssrc, data[12:], time.monotonic())
            )
        while True:
            try:
                self.reports.append(self.rtcp.recv(4096))
            except (BlockingIOError, ConnectionError):
                break

    def audio(self, pt: int | None = None) -> list[Packet]:
        """Audio packets in the order of their sequence numbers."""
        want = self.pt if pt is None else pt
        base = self.packets[0].seq if self.packets else 0
        return sorted(
            (p for p in self.packets if p.pt == want),
            key=lambda p: (p.seq - base + 0x8000) & 0xFFFF,
        )

    def pcm(self) -> np.ndarray:
        """Everything heard, decoded (G.711, G.722 by libg722, L16 as 16 kHz)."""
        data = b"".join(p.payload for p in self.audio())
        if self.pt in TABLES:
            return g711_decode(data, self.pt)
        if self.pt == 9:
            import G722

            return np.asarray(G722.G722(16000, 64000).decode(data), np.int16)
        return np.frombuffer(data, ">i2").astype(np.int16)

    def encode(self, pcm: np.ndarray) -> bytes:
        """Octets of a whole signal for this peer's payload type."""
        if self.pt in TABLES:
            return g711_encode(pcm, self.pt)
        if self.pt == 9:
            import G722

            return bytes(G722.G722(16000, 64000).encode(pcm))
        return pcm.astype(">i2").tobytes()


async def pace(seconds: float, *jobs) -> None:
    """Call every job(i) each 20 ms of real time: the engine under test has a real clock."""
    start = time.monotonic()
    for i in range(round(seconds * 50)):
        for job in jobs:
            job(i)
        await asyncio.sleep(max(0.0, start + (i + 1) * 0.02 - time.monotonic()))


def talk(peer: Peer, to: tuple[str, int], pcm: np.ndarray, *, drop=(), ptime_ms: int = 20):
    """A job for `pace`: the signal in packets, from the beginning again when it ends."""
    # G.722 keeps state: a loop point would be heard, so the signal is laid end to end first.
    octets = peer.encode(np.tile(pcm, 4) if peer.pt == 9 else pcm)
    clock = 16 if peer.pt > 95 else 8
    per_ms = {0: 8, 8: 8, 9: 8}.get(peer.pt, 32)
    size, ticks = ptime_ms * per_ms, ptime_ms * clock
    count = max(1, len(octets) // size)

    state = {"n": 0}

    def job(i: int) -> None:
        peer.collect()
        if i == 0:
            state["n"] = 0
        while state["n"] * ptime_ms < (i + 1) * 20:
            n = state["n"]
            state["n"] += 1
            if n in drop:
                peer.seq += 1
                peer.ts += ticks
                continue
            at = n % count * size
            peer.send(octets[at : at + size], to, ticks=ticks, marker=int(n == 0))

    return job


class Stalls:
    """A job for `pace`: frames of 20 ms for which the program itself stood still.

    What it did not send then has to be concealed, whoever carries it.
    """

    def __init__(self) -> None:
        self.frames = 0
        self._last = 0.0

    def __call__(self, i: int) -> None:
        before, self._last = self._last, time.monotonic()
        if i and self._last - before > 0.025:
            self.frames += int((self._last - before) / 0.02)


def listen(peer: Peer):
    """A job for `pace` that only receives."""
    return lambda i: peer.collect()
