"""Comfort noise: RFC 3389 bit by bit, and ffmpeg's coder on the other side."""

import json
import math
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway._codecs import cn
from gateway.errors import PeerError, UsageError


def samples(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.int16).astype(float)


def dbov(pcm: np.ndarray) -> float:
    """0 dBov: a square wave of full scale."""
    return 10 * float(np.log10(np.mean(pcm**2) / 32768**2))


def coloured(seconds: float, level_dbov: float, poles: tuple[float, ...] = (0.9,)) -> np.ndarray:
    """White noise through one-pole filters."""
    white = np.random.default_rng(5).normal(size=int(seconds * 8000))
    for pole in poles:
        out = np.zeros_like(white)
        last = 0.0
        for i, x in enumerate(white):
            last = x + pole * last
            out[i] = last
        white = out
    return (white / np.sqrt(np.mean(white**2)) * 32768 * 10 ** (level_dbov / 20)).astype(np.int16)


def tilt(pcm: np.ndarray) -> float:
    """First normalised autocorrelation: 0 white, towards 1 low-pass, towards -1 high-pass."""
    return float(np.mean(pcm[1:] * pcm[:-1]) / np.mean(pcm**2))


@given(st.integers(20, 90), st.lists(st.integers(40, 214), max_size=10))
def test_noise_has_the_level_that_the_payload_states(level, coefficients) -> None:
    pcm = samples(cn.generate(bytes([level, *coefficients]), 40000))
    assert np.max(np.abs(pcm)) <= 32768
    # Below 2 or 3 steps of the converter rounding shows; it is worth half a decibel at six.
    if level <= 75:
        assert dbov(pcm) == pytest.approx(-level, abs=0.8 + spread(coefficients, len(pcm)))


def spread(indices: list[int], n_samples: int) -> float:
    """dB that the level of so much coloured noise may be off by, at six standard deviations.

    The variance of a Gaussian process' measured power is 2/n times the mean of its squared power
    spectrum by the square of the mean.
    """
    predictor = np.ones(1)
    for index in indices:  # from reflection coefficients, Levinson's step up
        k = 258 * (index - 127) / 32768
        grown = np.append(predictor, 0.0)
        predictor = grown + k * grown[::-1]
    power = 1 / np.abs(np.fft.rfft(predictor, 1 << 18)) ** 2
    variance = 2 / n_samples * float(np.mean(power**2) / np.mean(power) ** 2)
    return 10 * math.log10(1 + 6 * math.sqrt(variance))


def test_white_noise_is_exact_in_level_and_white() -> None:
    pcm = samples(cn.generate(bytes([40]), 80000))
    assert dbov(pcm) == pytest.approx(-40, abs=0.1)
    assert abs(tilt(pcm)) < 0.02


@pytest.mark.parametrize("index", [0, 27, 127, 227, 254])
def test_one_coefficient_is_what_the_rfc_says(index) -> None:
    """k = 258 (N - 127) / 32768; of a first-order filter the autocorrelation is -k."""
    pcm = samples(cn.generate(bytes([30, index]), 80000))
    k = max(-0.99, min(0.99, 258 * (index - 127) / 32768))
    assert tilt(pcm) == pytest.approx(-k, abs=0.03)


def test_the_lowest_level_is_silence_and_garbage_is_survived() -> None:
    assert not any(cn.generate(bytes([127]), 800))
    assert cn.generate(bytes([200]), 160) == cn.generate(bytes([200 & 127]), 160)  # first bit: 0
    assert cn.generate(bytes([60, 1, 2]), 160, white=True) == cn.generate(bytes([60]), 160)
    with pytest.raises(PeerError):
        cn.generate(b"", 160)
    with pytest.raises(UsageError):
        cn.generate(b"1", -1)
    with pytest.raises(UsageError):
        cn.describe(b"", 11)


@given(st.binary(min_size=1, max_size=60))
def test_any_payload_gives_bounded_noise(payload) -> None:
    pcm = samples(cn.generate(payload, 1600))
    assert len(pcm) == 1600
    assert np.all(np.isfinite(pcm))


@given(st.binary(max_size=3200).filter(lambda b: len(b) % 2 == 0), st.integers(0, 10))
def test_any_samples_have_a_payload(pcm, order) -> None:
    payload = cn.describe(pcm, order)
    assert len(payload) == 1 + order
    assert payload[0] <= 127
    assert all(index <= 254 for index in payload[1:])


@pytest.mark.parametrize("poles", [(), (0.9,), (-0.8,), (0.7, 0.5)])
@pytest.mark.parametrize("level", [-30, -60])
def test_noise_comes_back_as_it_was(poles, level) -> None:
    pcm = coloured(2, level, poles)
    payload = cn.describe(pcm.tobytes(), 8)
    assert payload[0] == pytest.approx(-level, abs=1)
    again = samples(cn.generate(payload, 40000))
    assert dbov(again) == pytest.approx(level, abs=2)
    assert tilt(again) == pytest.approx(tilt(pcm.astype(float)), abs=0.1)


@pytest.mark.parametrize("poles", [(), (0.9,), (-0.8,)])
def test_ffmpeg_describes_noise_and_we_make_it(program, tmp_path: Path, poles) -> None:
    pcm = coloured(2, -45, poles)
    (tmp_path / "x.raw").write_bytes(pcm.tobytes())
    container = tmp_path / "x.nut"
    command = [program("ffmpeg"), "-v", "error", "-f", "s16le", "-ar", "8000", "-ac", "1"]
    command += ["-i", str(tmp_path / "x.raw"), "-c:a", "comfortnoise", str(container)]
    subprocess.run(command, check=True)
    show = ["ffprobe", "-v", "error", "-show_packets", "-show_data", "-of", "json", str(container)]
    packets = json.loads(subprocess.run(show, capture_output=True, check=True).stdout)["packets"]
    # "00000000: 2d7f 8182 ...  text": the octets in hexadecimal, then as text.
    digits = packets[-2]["data"].strip().split("  ")[0].partition(":")[2]
    payload = bytes.fromhex(digits)
    assert len(payload) == 11  # a level and ten coefficients
    assert payload[0] == pytest.approx(45, abs=2)
    again = samples(cn.generate(payload, 40000))
    assert dbov(again) == pytest.approx(-45, abs=3)
    assert tilt(again) == pytest.approx(tilt(pcm.astype(float)), abs=0.15)
