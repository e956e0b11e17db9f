"""Analysis of what came back from a path into which a test signal was played.

Arithmetic on a few seconds of samples, for a thread of its own: 8 kHz, signed 16 bit, mono.
"""

from __future__ import annotations

import cmath
import math
from array import array
from collections.abc import Sequence
from itertools import pairwise
from operator import mul
from typing import Final

import msgspec

from gateway._codecs.fourier import impulse_response, through
from gateway.errors import UsageError
from gateway.media.signals import RATE, level_of

LONGEST_S: Final = 1.5
"""The longest delay that is looked for."""
CERTAIN: Final = 7.0
"""A peak of the impulse response counts when it stands so far out of the rest: noise alone gets
there once in ten million tests."""
BANDS_HZ: Final = (300, 500, 1000, 2000, 3000)
"""Middles of the bands of a frequency response, each a third of an octave wide."""
MAINS_HZ: Final = (50.0, 60.0)

_EARLY: Final = 400
"""Samples that are looked at before the signal was sent: what a filter makes of a band begins
before its peak, and two recordings may begin a frame apart."""
_BEFORE: Final = 64
_SHORTEST: Final = 800
_PIECE: Final = 2048
_SLIP: Final = 480
"""Samples by which the delay may change from one piece to the next: three packets."""
_STEADY: Final = 4
_GOOD_DB: Final = 20.0
"""No slip within a signal leaves it so clean."""
_PER_BAND: Final = 12
_SETTLE_S: Final = 0.5


class Path(msgspec.Struct, frozen=True, kw_only=True):
    """What a path does to a signal."""

    found: bool
    """Some of what was sent came back."""
    delay_ms: float = 0.0
    attenuation_db: float = 0.0
    """Of the power of what was sent; negative: it came back louder."""
    snr_db: float = -99.0
    """What came back of the signal, to everything else; after a slip, not more than about 14."""
    slips: int = 0
    """How often the delay changed meanwhile: frames lost or doubled, clocks that drift."""
    bands_db: dict[int, float] = {}
    """Gain by middle of the band in Hz."""
    sent_dbm0: float = -99.0
    received_dbm0: float = -99.0
    """Level of everything that arrived while the signal was sent."""


class Quiet(msgspec.Struct, frozen=True, kw_only=True):
    """What arrives from a line while a tone is played into it."""

    level_dbm0: float
    """Without DC."""
    tone_dbm0: float
    """Of the tone that came back."""
    hum_dbm0: float
    """Of the mains and its second and third harmonic."""
    hum_hz: float
    """50 or 60: the stronger."""
    noise_dbm0: float
    """Everything else."""
    dc_percent: float
    """Of full scale."""


def path(sent: bytes, received: bytes, *, window_ms: float = 10.0, in_pieces: bool = True) -> Path:
    """Compare both directions of a leg, recorded at the same time.

    window_ms: how long the path rings after the first of the signal has arrived: some
    milliseconds on a line, a tenth of a second in a hall. in_pieces: where frames were lost or
    clocks slipped, look at pieces of the signal, each of which holds all frequencies (noise, not a
    sweep). Raises `UsageError` when nothing was sent, or too little.
    """
    first, last = _extent(sent)
    early = min(first, _EARLY)
    received = bytes(2 * (_EARLY - early)) + received[2 * (first - early) :]
    sent = sent[2 * first : 2 * last]
    n = len(sent) // 2
    if n < _SHORTEST or len(received) // 2 < _EARLY + n // 2:
        raise UsageError(f"{n} samples were sent, {len(received) // 2} heard: too few to tell")
    heard = _array(received)[: _EARLY + n + round(LONGEST_S * RATE)]
    nothing = Path(
        found=False,
        sent_dbm0=level_of(_power(_array(sent))),
        received_dbm0=level_of(_power(heard[_EARLY : _EARLY + n])),
    )
    if not any(heard):
        return nothing
    lags = min(_EARLY + round(LONGEST_S * RATE), max(1, len(heard) - n // 2))
    window = max(1, round(window_ms * RATE / 1000))
    whole = _fit(sent, heard, lags, window)
    if whole is None:
        return nothing
    pieces = (
        _pieces(sent, heard, whole.peak, window) if in_pieces and whole.snr_db < _GOOD_DB else []
    )
    if len(pieces) > len(sent) // (4 * _PIECE):
        typical = sorted(pieces, key=lambda each: each.gain_db)[len(pieces) // 2]
        if typical.snr_db > whole.snr_db:
            slips = sum(abs(a.peak - b.peak) > _STEADY for a, b in pairwise(pieces))
            return _described(nothing, typical, slips)
    return _described(nothing, whole, 0)


class _Fit(msgspec.Struct, frozen=True):
    """The path that explains best what was heard of a signal."""

    peak: int
    """Where most of it arrived, in samples of what was heard."""
    gain_db: float
    snr_db: float
    taps: array[float]
    """Around the peak."""


def _fit(sent: bytes, heard: array[int], lags: int, window: int) -> _Fit | None:
    """None: nothing of what was sent is in what was heard, up to so many samples later."""
    n = len(sent) // 2
    taps = impulse_response(sent, heard.tobytes(), lags + window)
    peak = max(range(lags), key=lambda k: abs(taps[k]))
    # A frame that was lost on the way brings all after it too early.
    begin, end = max(0, peak - max(_BEFORE, window // 3)), min(len(taps), peak + window)
    rest = taps[:begin] + taps[end:]
    if not rest or abs(taps[peak]) < CERTAIN * math.sqrt(_power(rest)):
        return None
    kept = taps[begin:end]
    span = heard[begin : begin + n]
    made = through(sent, kept)[: len(span)]
    # The floor of the division takes a little of everything: give it back.
    scale = sum(map(mul, made, span)) / (sum(map(mul, made, made)) or 1.0)
    power = scale * scale * _power(made)
    other = _power([x - scale * y for x, y in zip(span, made, strict=True)])
    # So many taps fit themselves to so much of what is not the signal.
    power = max(power - other * len(kept) / len(span), power / 100)
    return _Fit(
        peak,
        10.0 * math.log10(power / _power(_array(sent))),
        min(99.0, 10.0 * math.log10(power / max(other, 1e-9))),
        array("d", (scale * tap for tap in kept)),
    )


def _pieces(sent: bytes, heard: array[int], peak: int, window: int) -> list[_Fit]:
    """The signal in pieces, each at its own time: a slip spoils one of them, not all."""
    found = []
    for at in range(0, len(sent) // 2 - _PIECE + 1, _PIECE):
        piece = sent[2 * at : 2 * (at + _PIECE)]
        fit: _Fit | None = None
        # First roughly where it is, then without its neighbours.
        for reach in (_SLIP, _BEFORE):
            begin = max(0, at + peak - reach)
            part = heard[begin : begin + _PIECE + reach + window]
            fit = _fit(piece, part, 2 * reach, window) if len(part) > _PIECE else None
            if fit is None:
                break
            peak = begin + fit.peak - at
        if fit is not None:
            found.append(msgspec.structs.replace(fit, peak=peak))
    return found


def _described(nothing: Path, fit: _Fit, slips: int) -> Path:
    return msgspec.structs.replace(
        nothing,
        found=True,
        delay_ms=max(0.0, 1000.0 * (fit.peak - _EARLY) / RATE),
        attenuation_db=-fit.gain_db,
        snr_db=fit.snr_db,
        slips=slips,
        bands_db={middle: _band(fit.taps, middle) for middle in BANDS_HZ},
    )


def quiet(sent: bytes, received: bytes, tone_hz: float) -> Quiet:
    """What a line gives while a tone is played into it: both directions, recorded together.

    Raises `UsageError` when nothing was sent, or too little was heard.
    """
    first, last = _extent(sent)
    heard = _array(received)[first + round(_SETTLE_S * RATE) : last]
    n = len(heard)
    if n < RATE // 2:
        raise UsageError(f"{n / RATE:.1f} s were heard: too short to tell hum from noise")
    mean = sum(heard) / n
    flat = [x - mean for x in heard]
    power = _power(flat)
    shape = [0.5 - 0.5 * math.cos(math.tau * (i + 0.5) / n) for i in range(n)]
    shaped = list(map(mul, flat, shape))
    tone = _at(shaped, tone_hz) if tone_hz else 0.0
    hums = {hz: sum(_at(shaped, k * hz) for k in (1, 2, 3)) for hz in MAINS_HZ}
    hum_hz = max(hums, key=lambda hz: hums[hz])
    return Quiet(
        level_dbm0=level_of(power),
        tone_dbm0=level_of(tone),
        hum_dbm0=level_of(hums[hum_hz]),
        hum_hz=hum_hz,
        noise_dbm0=level_of(power - tone - hums[hum_hz]),
        dc_percent=100.0 * mean / 32768.0,
    )


def _array(pcm: bytes) -> array[int]:
    return array("h", pcm[: len(pcm) // 2 * 2])


def _extent(sent: bytes) -> tuple[int, int]:
    """Where the signal begins and ends, in samples."""
    values = _array(sent)
    first = next((i for i, x in enumerate(values) if x), None)
    if first is None:
        raise UsageError("nothing was sent: the test signal was not played")
    last = next(i for i in range(len(values) - 1, -1, -1) if values[i])
    return first, last + 1


def _power(values: Sequence[float]) -> float:
    return sum(map(mul, values, values)) / len(values) if values else 0.0


def _band(taps: Sequence[float], middle: int) -> float:
    """Gain of the band around a frequency, in dB."""
    power = 0.0
    for step in range(_PER_BAND):
        hz = middle * 2.0 ** (((step + 0.5) / _PER_BAND - 0.5) / 3)
        turn = cmath.exp(-2j * math.pi * hz / RATE)
        total = 0j
        for tap in reversed(taps):
            total = total * turn + tap
        power += abs(total) ** 2 / _PER_BAND
    return max(-99.0, 10.0 * math.log10(max(power, 1e-12)))


def _at(shaped: Sequence[float], hz: float) -> float:
    """Mean square of the sine of a frequency in samples under a Hann window."""
    # Goertzel's recurrence.
    turn = math.tau * hz / RATE
    twice = 2.0 * math.cos(turn)
    one = two = 0.0
    for value in shaped:
        one, two = value + twice * one - two, one
    square = one * one + two * two - twice * one * two
    # Twice the magnitude over the window's sum is the amplitude; half its square the mean square.
    return 2.0 * square / (0.5 * len(shaped)) ** 2
