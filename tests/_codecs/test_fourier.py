"""Impulse responses against numpy's convolution and transforms."""

from __future__ import annotations

from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gateway._codecs import fourier
from gateway.errors import UsageError

_SAMPLES = hnp.arrays(np.int16, st.integers(1, 300))


@given(sent=_SAMPLES, taps=st.lists(st.floats(-4, 4), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_a_path_makes_of_a_signal_what_numpy_says(sent: np.ndarray, taps: list[float]) -> None:
    made = fourier.through(sent.tobytes(), array("d", taps))
    wanted = np.convolve(sent.astype(float), taps)
    assert len(made) == len(wanted)
    np.testing.assert_allclose(made, wanted, atol=1e-6 * (1 + np.abs(wanted).max()))


@given(
    seed=st.integers(0, 2**32 - 1),
    delay=st.integers(0, 900),
    gain=st.floats(0.02, 1.0),
    echo=st.integers(1, 90),
)
@settings(max_examples=40, deadline=None)
def test_the_path_is_found_in_what_came_out(seed: int, delay: int, gain: float, echo: int) -> None:
    sent = np.random.default_rng(seed).integers(-8000, 8001, 4000).astype(np.int16)
    path = np.zeros(1000)
    path[delay], path[delay + echo] = gain, -gain / 3
    received = np.round(np.convolve(sent, path)).astype(np.int16)
    taps = np.array(fourier.impulse_response(sent.tobytes(), received.tobytes(), 1000, 1e-6))
    assert np.abs(taps - path).max() < 0.05 * gain + 1e-3


def test_the_division_is_numpys() -> None:
    rng = np.random.default_rng(7)
    sent, received = (rng.integers(-9000, 9000, n).astype(np.int16) for n in (700, 900))
    n = 2048
    x, y = np.fft.fft(sent, n), np.fft.fft(received, n)
    wanted = np.fft.ifft(y * x.conj() / (np.abs(x) ** 2 + 0.01 * np.mean(np.abs(x) ** 2))).real
    taps = fourier.impulse_response(sent.tobytes(), received.tobytes(), 1300, 0.01)
    np.testing.assert_allclose(taps, wanted[:1300], atol=1e-9)


def test_silence_is_no_path() -> None:
    taps = fourier.impulse_response(bytes(200), bytes(400), 50)
    assert list(taps) == [0.0] * 50


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one"):
        fourier.impulse_response(b"", bytes(2), 1)
    with pytest.raises(UsageError, match="at least one"):
        fourier.impulse_response(bytes(2), bytes(2), 0)
    with pytest.raises(UsageError, match="at most 1048576"):
        fourier.impulse_response(bytes(2), bytes(2), 1 << 20)
    with pytest.raises(UsageError, match="at least one"):
        fourier.through(bytes(2), array("d"))
    with pytest.raises(ValueError, match="even"):
        fourier.through(b"abc", array("d", [1.0]))
