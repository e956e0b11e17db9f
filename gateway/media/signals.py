"""Test signals: what is played into a path to measure it.

A signal is written in one word, so that the journal says what was played: ``tone:1004`` (a sine),
``noise`` (a pseudo-random binary sequence of maximum length, flat up to half the sampling rate),
``sweep`` (rising from 200 to 3400 Hz, the band of a telephone channel).
"""

from __future__ import annotations

import math
import re
from array import array
from functools import lru_cache
from typing import Final

from gateway._codecs.tone import ToneGenerator, ToneStep
from gateway.errors import UsageError

RATE: Final = 8000
FULL_SCALE_DBM0: Final = 3.14
"""Level of a sine that just fits (ITU-T G.711)."""
LONGEST_S: Final = 60.0
BAND_HZ: Final = (200.0, 3400.0)
TONE_HZ: Final = (100.0, 3800.0)

_FADE_S: Final = 0.01
_SIGNAL: Final = re.compile(r"tone:(\d{1,4}(?:\.\d{1,3})?)|noise|sweep")
# x^16 + x^15 + x^13 + x^4 + 1 is primitive: all 65535 states, 8.2 s, before it begins again.
_TAPS: Final = 0xD008


def frequency(signal: str) -> float:
    """The frequency of a ``tone:...`` in Hz; 0 for the other signals. Raises `UsageError`."""
    found = _SIGNAL.fullmatch(signal)
    if found is None:
        raise UsageError(f"test signal {signal!r}: tone:1004, noise or sweep")
    hz = float(found[1] or 0.0)
    if found[1] and not TONE_HZ[0] <= hz <= TONE_HZ[1]:
        raise UsageError(f"test tone of {hz:g} Hz: {TONE_HZ[0]:g} to {TONE_HZ[1]:g} Hz")
    return hz


@lru_cache(maxsize=8)
def samples(signal: str, level_dbm0: float, seconds: float) -> bytes:
    """Signed 16-bit mono samples at `RATE`. Raises `UsageError` for what cannot be played."""
    hz = frequency(signal)
    if not 0.1 <= seconds <= LONGEST_S:
        raise UsageError(f"a test signal of {seconds:g} s: 0.1 to {LONGEST_S:g} s")
    if not -60.0 <= level_dbm0 <= 0.0:
        raise UsageError(f"a test signal at {level_dbm0:g} dBm0: -60 to 0 dBm0")
    n = round(seconds * RATE)
    if hz:
        steps = (ToneStep(freqs_hz=(hz,), level_dbm0=level_dbm0),)
        return ToneGenerator(steps, None, RATE).read(n)
    rms = rms_of(level_dbm0)
    if signal == "noise":
        return array("h", _sequence(n, round(rms))).tobytes()
    return array("h", _sweep(n, rms * math.sqrt(2.0))).tobytes()


def rms_of(level_dbm0: float) -> float:
    """Root mean square of samples at a level."""
    return float(32768.0 / math.sqrt(2.0) * 10.0 ** ((level_dbm0 - FULL_SCALE_DBM0) / 20.0))


def level_of(mean_square: float) -> float:
    """Level in dBm0 of samples with this mean square; -99 for silence."""
    if mean_square <= 0.0:
        return -99.0
    return max(-99.0, 10.0 * math.log10(mean_square / (32768.0**2 / 2)) + FULL_SCALE_DBM0)


def _sequence(n: int, peak: int) -> list[int]:
    state, found = 1, []
    for _ in range(n):
        bit = state & 1
        found.append(peak if bit else -peak)
        state >>= 1
        if bit:
            state ^= _TAPS
    return found


def _sweep(n: int, peak: float) -> list[int]:
    low, high = BAND_HZ
    fade = round(_FADE_S * RATE)
    found = []
    for i in range(n):
        at = i / RATE
        turns = low * at + (high - low) * at * at * RATE / (2 * n)
        edge = min(i, n - 1 - i) / fade
        shape = 0.5 - 0.5 * math.cos(math.pi * edge) if edge < 1.0 else 1.0
        found.append(round(peak * shape * math.sin(math.tau * turns)))
    return found
