"""Mixing against a numpy oracle; level against the definition of dBm0."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway._codecs import mix
from gateway.errors import UsageError

from .conftest import sine


@settings(max_examples=60, deadline=None)
@given(
    n_streams=st.integers(1, 40),
    n_samples=st.sampled_from([0, 1, 8, 159, 160, 320, 1920]),
    use_gain=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_each_hears_the_sum_of_the_others(n_streams, n_samples, use_gain, seed) -> None:
    rng = np.random.default_rng(seed)
    peak = int(rng.choice([200, 8000, 32768]))
    streams = rng.integers(-peak, peak, (n_streams, n_samples)).astype(np.int16)
    silent = rng.random(n_streams) < 0.2
    silent[0] = False
    gains = [float(np.float32(g)) for g in rng.uniform(0, 3, n_streams)] if use_gain else None
    scaled = streams.astype(np.float32)
    if gains:
        product = scaled * np.array(gains, np.float32)[:, None]
        scaled = np.clip(np.sign(product) * np.floor(np.abs(product) + 0.5), -32768, 32767)
    scaled[silent] = 0
    total = scaled.astype(np.int64).sum(axis=0)
    frames = [None if quiet else s for s, quiet in zip(streams, silent, strict=True)]
    outputs, clipped = mix.mix_frames(frames, gains)
    expected = total[None, :] - scaled.astype(np.int64)
    assert clipped == ((expected > 32767) | (expected < -32768)).sum()
    for output, want in zip(outputs, expected, strict=True):
        assert np.array_equal(np.frombuffer(output, np.int16), np.clip(want, -32768, 32767))
    everything, _ = mix.sum_frames(frames, gains)
    assert np.array_equal(np.frombuffer(everything, np.int16), np.clip(total, -32768, 32767))


def test_each_listener_hears_the_other_two() -> None:
    tones = (400, 1000, 2300)
    outputs, _ = mix.mix_frames([sine(hz, 8000) for hz in tones])
    for i, output in enumerate(outputs):
        spectrum = np.abs(np.fft.rfft(np.frombuffer(output, np.int16)))
        assert {int(f) for f in np.argsort(spectrum)[-2:]} == set(tones) - {tones[i]}


def test_level_of_known_tones() -> None:
    for peak, expected in ((32767, 3.14), (22826.6, 0.0), (7218.3, -10.0), (228.3, -40.0)):
        level = mix.Level()
        for _ in range(10):
            level.add(sine(1000, 800, peak=peak))
        assert level.rms_dbm0 == pytest.approx(expected, abs=0.02)
        assert level.peak_dbm0 == pytest.approx(expected, abs=0.05)
        assert level.n_samples == 8000


def test_level_counts_clipping_and_resets() -> None:
    level = mix.Level()
    level.add(np.array([0, 32767, -32768, 32766, -32767], np.int16))
    assert (level.n_clipped, level.peak) == (2, 32768)
    level.reset()
    assert (level.n_clipped, level.peak, level.n_samples) == (0, 0, 0)
    assert level.rms_dbm0 == level.peak_dbm0 == -96.0


def test_gain() -> None:
    pcm = sine(1000, 8000, peak=1000)
    louder = np.frombuffer(mix.amplify(pcm, 6.0206), np.int16)
    assert np.abs(louder.astype(int) - 2 * pcm.astype(int)).max() <= 1
    assert np.abs(np.frombuffer(mix.amplify(pcm, 60.0), np.int16).astype(int)).max() == 32768
    assert np.array_equal(np.frombuffer(mix.amplify(pcm, 0.0), np.int16), pcm)


def test_bad_use_is_refused() -> None:
    with pytest.raises(UsageError):
        mix.mix_frames([b"\0\0", b"\0\0\0\0"])
    with pytest.raises(UsageError):
        mix.mix_frames([None, None])
    with pytest.raises(UsageError):
        mix.mix_frames([b"\0\0"], [1.0, 2.0])
    with pytest.raises(UsageError):
        mix.sum_frames([])
