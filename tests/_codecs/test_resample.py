"""Resampler: gain, images and aliases by spectrum; independence of the block length; sox."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway._codecs.resample import Resampler
from gateway.errors import UsageError

from .conftest import read_wav, sine, write_wav

RATIOS = [(8000, 16000), (16000, 48000), (8000, 48000)]


def convert(pcm: np.ndarray, from_hz: int, to_hz: int, ms: int = 20) -> np.ndarray:
    resampler, step = Resampler(from_hz, to_hz), from_hz // 1000 * ms
    parts = [resampler.convert(pcm[at : at + step]) for at in range(0, len(pcm), step)]
    return np.frombuffer(b"".join(parts), np.int16)


def level_at(pcm: np.ndarray, hz: float, rate: int) -> float:
    """dB of the component at hz, over a window that ends transients and leakage."""
    body = pcm[len(pcm) // 4 :].astype(float)
    window = np.blackman(len(body))
    turn = np.exp(-2j * np.pi * hz * np.arange(len(body)) / rate)
    return float(20 * np.log10(2 * abs((body * window * turn).sum()) / window.sum() + 1e-9))


@pytest.mark.parametrize(("low", "high"), RATIOS)
@pytest.mark.parametrize("hz", [100, 300, 1000, 2000, 3000, 3400])
def test_passband_is_flat_both_ways(low, high, hz) -> None:
    for from_hz, to_hz in ((low, high), (high, low)):
        pcm = sine(hz, from_hz, from_hz, 10000)
        gain = level_at(convert(pcm, from_hz, to_hz), hz, to_hz) - 80
        assert abs(gain) < 0.1, (from_hz, to_hz, gain)


@pytest.mark.parametrize(("low", "high"), RATIOS)
@pytest.mark.parametrize("hz", [300, 1000, 2500, 3400])
def test_images_are_60_db_down(low, high, hz) -> None:
    out = convert(sine(hz, low, low, 30000), low, high)
    wanted = level_at(out, hz, high)
    for k in range(1, high // low):
        for image in (k * low - hz, k * low + hz):
            if image < high / 2:
                assert level_at(out, image, high) < wanted - 60, image


@pytest.mark.parametrize(("low", "high"), RATIOS)
def test_aliases_are_60_db_down(low, high) -> None:
    for part in (0.575, 0.65, 0.8, 0.95):
        hz = low * part
        if hz > high / 2:
            continue
        out = convert(sine(hz, high, high, 30000), high, low)
        assert level_at(out, abs(low - hz), low) < 20 * np.log10(30000) - 60, hz


@settings(max_examples=30, deadline=None)
@given(
    ratio=st.sampled_from([*RATIOS, *((b, a) for a, b in RATIOS), (8000, 8000)]),
    cuts=st.lists(st.integers(0, 120), min_size=1, max_size=8),
    seed=st.integers(0, 2**32),
)
def test_blocks_of_any_length_give_the_same(ratio, cuts, seed) -> None:
    from_hz, to_hz = ratio
    total = sum(cuts) * (from_hz // 1000)
    pcm = np.random.default_rng(seed).integers(-32768, 32768, total).astype(np.int16)
    split, at, parts = Resampler(from_hz, to_hz), 0, []
    for ms in cuts:
        n = ms * from_hz // 1000
        parts.append(split.convert(pcm[at : at + n]))
        at += n
    assert b"".join(parts) == convert(pcm, from_hz, to_hz, 1).tobytes()


def test_full_scale_saturates() -> None:
    square = np.tile(np.repeat(np.array([32767, -32768], np.int16), 8), 100)
    out = convert(square, 8000, 16000).astype(int)
    assert out.max() == 32767
    assert out.min() == -32768
    assert (np.abs(np.diff(out)) < 65535).all()


def test_agrees_with_sox(program, tmp_path: Path) -> None:
    sox = program("sox")
    rng = np.random.default_rng(3)
    spectrum = np.fft.rfft(rng.normal(0, 4000, 16000))
    spectrum[(3300 * 2) :] = 0
    pcm = np.fft.irfft(spectrum).astype(np.int16)
    source, target = write_wav(tmp_path / "8.wav", pcm.tobytes()), tmp_path / "16.wav"
    subprocess.run([sox, "-D", source, "-r", "16000", target], check=True)
    theirs = np.frombuffer(read_wav(target), np.int16).astype(float)
    ours = convert(pcm, 8000, 16000).astype(float)[27:]  # the filter's delay: 27 samples
    n = min(len(ours), len(theirs))
    error = (ours[:n] - theirs[:n])[500:-500]
    assert 10 * np.log10((theirs**2).mean() / (error**2).mean()) > 45


def test_bad_use_is_refused() -> None:
    for from_hz, to_hz in ((8000, 44100), (8000, 12000), (0, 8000), (-8000, 8000), (8000, 24001)):
        with pytest.raises(UsageError):
            Resampler(from_hz, to_hz)
    with pytest.raises(UsageError):
        Resampler(48000, 16000).convert(b"\0" * 2 * 100)
    with pytest.raises(UsageError):
        Resampler(8000, 16000).convert(b"\0" * 2 * 961)
    with pytest.raises(ValueError, match="even"):
        Resampler(8000, 16000).convert(b"\0" * 3)
