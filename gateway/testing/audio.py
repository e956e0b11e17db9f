"""Listening to audio tests: each participant gets a frequency; find out who hears whom.

Plain arithmetic on purpose: what judges the engine must not be the engine.
"""

from __future__ import annotations

import array
import math
import wave
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

FULL_SCALE_DBM0 = 3.14
"""Level of a sine that just does not clip (ITU-T G.711 table 1, note: theoretical load)."""
SILENCE_DBM0 = -99.0


def tone(hz: float, seconds: float, *, rate: int = 8000, dbm0: float = -10.0) -> array.array[int]:
    """Signed 16-bit samples of a sine."""
    peak = 32767 * 10 ** ((dbm0 - FULL_SCALE_DBM0) / 20)
    step = math.tau * hz / rate
    return array.array("h", (round(peak * math.sin(step * n)) for n in range(int(seconds * rate))))


def write_wav(path: str | Path, samples: Sequence[int], *, rate: int = 8000) -> Path:
    """Write a mono 16-bit WAV file."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(array.array("h", samples).tobytes())
    return Path(path)


def read_wav(path: str | Path) -> tuple[list[array.array[int]], int]:
    """The channels of a 16-bit WAV file and its rate in Hz."""
    with wave.open(str(path), "rb") as file:
        if file.getsampwidth() != 2:
            raise ValueError(f"{path}: {8 * file.getsampwidth()}-bit samples, not 16-bit")
        samples = array.array("h", file.readframes(file.getnframes()))
        return [samples[n :: file.getnchannels()] for n in range(file.getnchannels())], (
            file.getframerate()
        )


def level(samples: Sequence[int]) -> float:
    """Power of everything in dBm0."""
    if not samples:
        return SILENCE_DBM0
    return _dbm0(sum(sample * sample for sample in samples) / len(samples))


def level_at(samples: Sequence[float], hz: float, *, rate: int = 8000) -> float:
    """Power at one frequency in dBm0 (Goertzel; about ``rate / len(samples)`` Hz wide)."""
    if not samples:
        return SILENCE_DBM0
    factor = 2 * math.cos(math.tau * hz / rate)
    one = two = 0.0
    for sample in samples:
        one, two = sample + factor * one - two, one
    power = one * one + two * two - factor * one * two
    return _dbm0(2 * power / len(samples) ** 2)


def steady_level_at(samples: Sequence[int], hz: float, *, rate: int = 8000) -> float:
    """Power at one frequency in dBm0: the median of windows of 0.1 s (Hann, 20 Hz wide).

    `level_at` of a second is a sum in phase: one frame that a busy machine left out in the middle
    turns the phase, and the two halves cancel. What was heard is no weaker for it.
    """
    n = rate // 10
    window = [math.sin(math.pi * k / n) ** 2 for k in range(n)]
    found = sorted(
        # The window's mean is a half, in power a quarter.
        level_at([a * b for a, b in zip(samples[at : at + n], window, strict=True)], hz, rate=rate)
        for at in range(0, len(samples) - n + 1, n // 2)
    )
    return found[len(found) // 2] + 20 * math.log10(2) if found else SILENCE_DBM0


def dominant(samples: Sequence[int], candidates: Iterable[float], *, rate: int = 8000) -> float:
    """The candidate frequency that is loudest."""
    return max(candidates, key=lambda hz: level_at(samples, hz, rate=rate))


def who_hears_whom(
    heard: Mapping[str, Sequence[int]],
    tones: Mapping[str, float],
    *,
    rate: int = 8000,
    above_dbm0: float = -40.0,
) -> dict[str, set[str]]:
    """For each listener, whose tone is in what was recorded of it.

    heard: samples by listener; tones: Hz by speaker. Use a second or more and tones that are at
    least 50 Hz apart.
    """
    return {
        listener: {
            speaker
            for speaker, hz in tones.items()
            if level_at(samples, hz, rate=rate) > above_dbm0
        }
        for listener, samples in heard.items()
    }


def _dbm0(mean_square: float) -> float:
    if mean_square <= 0:
        return SILENCE_DBM0
    full = 32767**2 / 2
    return max(SILENCE_DBM0, FULL_SCALE_DBM0 + 10 * math.log10(mean_square / full))
