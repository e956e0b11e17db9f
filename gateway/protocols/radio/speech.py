"""Samples on their way from and to a radio: delay, squelch tail, lead-in, tones, level.

All samples are signed 16-bit mono in native byte order, as `bytes`; a frame is 20 ms.
"""

from __future__ import annotations

import array
import math
from typing import Final

FRAME_S: Final = 0.02
FULL_SCALE_DBM0: Final = 3.14
"""Level of a sine that just does not clip (ITU-T G.711 table 1, note)."""
_PREFILL: Final = 3
_DEEPEST_S: Final = 0.4


def frame_bytes(rate: int) -> int:
    """Octets of a frame at a rate in Hz."""
    return rate // 50 * 2


def beep(hz: float, seconds: float, rate: int, dbm0: float = -12.0) -> bytes:
    """A tone with 5 ms edges, a whole number of frames long."""
    n = math.ceil(seconds / FRAME_S) * (rate // 50)
    peak = 32767 * 10 ** ((dbm0 - FULL_SCALE_DBM0) / 20)
    edge = rate // 200
    return array.array(
        "h",
        (
            round(min(1.0, k / edge, (n - k) / edge) * peak * math.sin(math.tau * hz * k / rate))
            for k in range(n)
        ),
    ).tobytes()


def level_dbm0(samples: bytes) -> float:
    """Power in dBm0; -99 for silence."""
    words = array.array("h", samples[: len(samples) & ~1])
    power = sum(word * word for word in words) / len(words) if words else 0
    if power <= 0:
        return -99.0
    return max(-99.0, FULL_SCALE_DBM0 + 10 * math.log10(power / (32767**2 / 2)))


class FromAir:
    """What a receiver hands us, kept back by the length of the squelch tail.

    The noise between the end of a signal and its detection is what is held when the squelch
    closes, and is thrown away. What was said before the detector was sure is kept.
    """

    def __init__(self, rate: int, *, tail_s: float, look_back_s: float = 0.0) -> None:
        self.lost = 0
        """Frames dropped because they came faster than real time."""
        self._frame = frame_bytes(rate)
        self._tail = round(tail_s / FRAME_S) * self._frame
        self._look_back = round(look_back_s / FRAME_S) * self._frame
        self._deepest = self._tail + round(_DEEPEST_S / FRAME_S) * self._frame
        self._held = bytearray()
        self._open = False
        self._running = False

    def push(self, samples: bytes) -> None:
        """Samples that arrived, any number of octets."""
        self._held += samples
        excess = len(self._held) - self._deepest
        if excess > 0:
            frames = -(-excess // self._frame)
            del self._held[: frames * self._frame]
            self.lost += frames

    def squelch(self, is_open: bool) -> None:
        """Whether there is a signal."""
        if is_open == self._open:
            return
        self._open = is_open
        keep = self._look_back if is_open else 0
        del self._held[: max(0, len(self._held) - keep) & ~1]
        self._running = False

    def take(self) -> bytes:
        """The next frame; silence when there is none."""
        if not self._open:
            keep = max(self._look_back, self._frame)
            del self._held[: max(0, len(self._held) - keep) & ~1]
            return bytes(self._frame)
        ready = len(self._held) - self._tail
        if not self._running and ready >= _PREFILL * self._frame:
            self._running = True
        if ready < self._frame:
            self._running = False
        if not self._running:
            return bytes(self._frame)
        taken = bytes(self._held[: self._frame])
        del self._held[: self._frame]
        return taken


class ToAir:
    """What is to be transmitted: kept while the transmitter comes up, then in step with it."""

    def __init__(self, rate: int, *, longest_s: float = 3.0) -> None:
        self.lost = 0
        """Frames dropped, oldest first, because the transmitter did not take them."""
        self._frame = frame_bytes(rate)
        self._most = round(longest_s / FRAME_S) * self._frame
        self._held = bytearray()
        self._running = False

    def __bool__(self) -> bool:
        return bool(self._held)

    def push(self, samples: bytes) -> None:
        """Samples to be transmitted."""
        self._held += samples
        while len(self._held) > self._most:
            del self._held[: self._frame]
            self.lost += 1

    def take(self, *, last: bool = False) -> bytes:
        """The next frame, or silence until there is enough for going on without gaps.

        last: nothing more will come, so there is nothing to wait for.
        """
        if not self._running and not last and len(self._held) < 2 * self._frame:
            return bytes(self._frame)
        self._running = len(self._held) > self._frame
        taken = bytes(self._held[: self._frame])
        del self._held[: self._frame]
        return taken.ljust(self._frame, b"\0")

    def clear(self) -> None:
        """Forget everything."""
        self._held.clear()
        self._running = False
