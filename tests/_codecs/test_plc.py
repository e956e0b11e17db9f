"""Concealment: a steady voice goes on, fades, and nothing clicks."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway._codecs.plc import Concealer
from gateway.errors import UsageError


def voice(n: int, rate: int, hz: float = 120.0) -> np.ndarray:
    """A pitch pulse train through two resonances: periodic, with harmonics."""
    t = np.arange(n) / rate
    return sum(
        (4000 / k) * np.cos(2 * np.pi * hz * k * t + k * k) for k in range(1, int(3200 / hz))
    ).astype(np.int16)


def play(pcm: np.ndarray, rate: int, lost: set[int], ms: int = 20) -> np.ndarray:
    concealer, n, out = Concealer(rate), rate // 1000 * ms, []
    for i, at in enumerate(range(0, len(pcm) - n + 1, n)):
        out.append(concealer.lost(n) if i in lost else concealer.good(pcm[at : at + n]))
    return np.frombuffer(b"".join(out), np.int16).astype(float)


def snr(reference: np.ndarray, heard: np.ndarray) -> float:
    reference = reference.astype(float)
    error = ((reference - heard) ** 2).sum()
    return float(10 * np.log10((reference**2).sum() / (error + 1e-9)))


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("hz", [80.0, 120.0, 190.0])
def test_a_steady_voice_goes_on(rate, hz) -> None:
    pcm = voice(rate, rate, hz)
    n = rate // 50
    heard = play(pcm, rate, {20})
    assert snr(pcm[20 * n : 20 * n + n // 2], heard[20 * n : 20 * n + n // 2]) > 15
    silent = heard.copy()
    silent[20 * n : 21 * n] = 0
    assert snr(pcm, heard) > snr(pcm, silent) + 8


def test_fades_and_falls_silent() -> None:
    pcm = voice(8000, 8000)
    heard = play(pcm, 8000, set(range(20, 30)))
    rms = [np.sqrt((heard[i * 80 : i * 80 + 80] ** 2).mean()) for i in range(40, 60)]
    assert rms[0] == pytest.approx(np.sqrt((pcm.astype(float) ** 2).mean()), rel=0.15)
    assert all(later <= sooner * 1.25 for sooner, later in itertools.pairwise(rms))
    assert rms[1] > 0.9 * rms[0]  # one packet of 20 ms is not attenuated
    assert rms[6] < 0.8 * rms[0]
    assert max(rms[16:]) == 0.0  # 160 ms


@pytest.mark.parametrize("rate", [8000, 16000])
def test_seams_do_not_click(rate) -> None:
    pcm = voice(rate, rate, 137.0)
    ordinary = np.abs(np.diff(pcm.astype(float))).max()
    for lost in ({20}, {20, 21}, {20, 21, 22, 23, 24}, {20, 22, 24}):
        assert np.abs(np.diff(play(pcm, rate, lost))).max() < 1.3 * ordinary


def test_good_frames_pass_untouched() -> None:
    pcm = voice(8000, 8000)
    assert np.array_equal(play(pcm, 8000, set()), pcm)
    heard = play(pcm, 8000, {10})
    assert np.array_equal(heard[11 * 160 + 80 :], pcm[11 * 160 + 80 :].astype(float))
    assert np.array_equal(heard[: 10 * 160], pcm[: 10 * 160].astype(float))


@settings(max_examples=60, deadline=None)
@given(
    rate=st.sampled_from([8000, 16000]),
    cuts=st.lists(st.integers(0, 3999), max_size=12),
)
def test_the_past_is_the_same_however_it_was_cut(rate, cuts) -> None:
    pcm = voice(4000, rate)
    whole, parts = Concealer(rate), Concealer(rate)
    whole.good(pcm)
    for begin, end in itertools.pairwise([0, *sorted(cuts), len(pcm)]):
        parts.good(pcm[begin:end])
    assert whole.lost(rate // 20) == parts.lost(rate // 20)


@settings(max_examples=60, deadline=None)
@given(
    rate=st.sampled_from([8000, 16000]),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 2000)), max_size=30),
    seed=st.integers(0, 2**32),
)
def test_any_sequence_of_any_lengths(rate, steps, seed) -> None:
    rng = np.random.default_rng(seed)
    concealer, lost = Concealer(rate), 0
    for is_good, n in steps:
        if is_good:
            pcm = rng.integers(-32768, 32768, n).astype(np.int16)
            assert len(concealer.good(pcm)) == 2 * n
        else:
            assert len(concealer.lost(n)) == 2 * n
            lost += n
    assert concealer.n_concealed == lost


def test_bad_use_is_refused() -> None:
    with pytest.raises(UsageError):
        Concealer(44100)
    with pytest.raises(UsageError):
        Concealer().lost(-1)
