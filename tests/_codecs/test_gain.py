"""Gain control and gate: levels before and after, by numpy; no clicks, nothing beyond the scale."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway._codecs.gain import Shaper
from gateway.errors import UsageError
from tests.lines import at_level, dbm0, white

FULL_SCALE_SQUARE = 32768.0**2 / 2


def square(level: float) -> float:
    return float(10 ** ((level - 3.14) / 10) * FULL_SCALE_SQUARE)


def tone(hz: float, seconds: float, level: float, rate: int = 8000) -> np.ndarray:
    return at_level(np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate), level)


def shaped(pcm: np.ndarray, rate: int = 8000, **config) -> np.ndarray:
    it, n = Shaper(**config), rate // 50
    out = b"".join(it.frame(pcm[at : at + n]) for at in range(0, len(pcm) - n + 1, n))
    return np.frombuffer(out, np.int16).astype(float)


def control(target: float, most_db: float, attack_ms: float = 40, release_ms: float = 200) -> dict:
    return {
        "target": square(target),
        "most": 10 ** (most_db / 20),
        "attack": min(1.0, 20 / attack_ms),
        "release": min(1.0, 20 / release_ms),
    }


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize(
    ("before", "after"), [(-28, -18), (-8, -18), (-18, -18), (-38, -26), (-60, -60), (0, -12)]
)
def test_talkers_are_brought_to_one_level(before, after, rate) -> None:
    out = shaped(tone(1009, 3, before, rate), rate, **control(-18, 12))
    assert dbm0(out[-rate:]) == pytest.approx(after, abs=0.3)


def test_the_control_is_as_quick_as_it_says() -> None:
    pcm = np.concatenate([tone(500, 4, -30), tone(500, 4, -12)])
    out = shaped(pcm, **control(-20, 20, attack_ms=100, release_ms=1000))
    loud = [dbm0(out[at : at + 160]) for at in range(4 * 8000, 5 * 8000, 160)]
    assert loud[1] > -16, "what comes first is loud"
    settled = next(i for i, level in enumerate(loud) if abs(level + 20) < 2) * 20
    assert 60 <= settled <= 300
    back = shaped(np.concatenate([tone(500, 4, -12), tone(500, 6, -30)]),
                  **control(-20, 20, attack_ms=100, release_ms=1000))  # fmt: skip
    quiet = [dbm0(back[at : at + 160]) for at in range(4 * 8000, 10 * 8000, 160)]
    settled = next(i for i, level in enumerate(quiet) if abs(level + 20) < 2) * 20
    assert 2000 <= settled <= 5000


def test_the_gain_moves_without_a_click() -> None:
    pcm = np.concatenate([tone(400, 1, -34), tone(400, 1, -3), tone(400, 2, -30)])
    out = shaped(pcm, **control(-16, 20, attack_ms=1, release_ms=100))
    at = slice(7000, 9000)  # the step of the level itself is in the signal
    for piece in (out[: at.start], out[at.stop + 7000 :], out[at.start :]):
        steepest = 2 * np.pi * 400 / 8000 * np.abs(piece).max()
        assert np.abs(np.diff(piece)).max() < 1.3 * steepest


def test_the_scale_is_never_left() -> None:
    pcm = np.concatenate([tone(400, 2, -40), tone(400, 1, 3)])
    out = shaped(pcm, **control(-10, 30, attack_ms=1000, release_ms=100))
    assert np.abs(out).max() < 32500


def test_a_pause_does_not_raise_the_noise() -> None:
    pcm = np.concatenate([tone(600, 1, -20), white(3, -58)])
    out = shaped(pcm, **control(-16, 12, attack_ms=20, release_ms=100))
    assert dbm0(out[2 * 8000 :]) == pytest.approx(-54, abs=0.5), "the gain of before, no more"


def test_the_gate_keeps_noise_out_and_words_whole() -> None:
    word = tone(700, 0.4, -20)
    pcm = np.concatenate([white(1, -55), word, white(1, -55)])
    out = shaped(pcm, gate=square(-45), hold_frames=10)
    begun, ended = 8000, 8000 + len(word)
    assert not out[250 * 8 : begun - 160].any(), "silence before"
    # Its first 5 ms rise; the frame that holds the beginning of the word is whole.
    assert np.corrcoef(out[begun:ended], word)[0, 1] > 0.99
    assert np.abs(out[begun + 40 : ended] - word[40:]).max() <= 1
    assert dbm0(out[ended : ended + 1600]) == pytest.approx(-55, abs=0.6), "held open"
    assert not out[ended + 1600 + 320 :].any(), "then silence"


def test_a_gate_closes_softly() -> None:
    pcm = np.concatenate([tone(300, 1, -30), tone(300, 1, -50)])
    out = shaped(pcm, gate=square(-45))
    steepest = 2 * np.pi * 300 / 8000 * np.abs(pcm[8000:]).max()
    assert np.abs(np.diff(out[8160:])).max() < 1.5 * steepest
    assert not out[8000 + 480 :].any()


def test_a_click_opens_no_gate_for_long() -> None:
    pcm = white(1, -60)
    pcm[4000] = 3000
    out = shaped(pcm, gate=square(-40), hold_frames=0)
    assert np.count_nonzero(out) <= 3 * 160


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=320, max_size=320), st.floats(1, 30), st.floats(0, 1e9))
def test_no_frame_breaks_it(frame, most, gate) -> None:
    it = Shaper(target=square(-18), most=most, gate=gate)
    for _ in range(5):
        assert len(it.frame(frame)) == 320
        assert 1 / most * 0.99 <= it.gain <= most * 1.01 or it.gain < 1


def test_what_makes_no_sense_is_refused() -> None:
    for config in ({"most": 0.5}, {"attack": 0.0}, {"release": 1.5}, {"target": -1.0}):
        with pytest.raises(UsageError):
            Shaper(**config)
    for frame in (b"", bytes(6)):
        with pytest.raises(UsageError, match="multiple of four"):
            Shaper().frame(frame)
    with pytest.raises(ValueError, match="even"):
        Shaper().frame(b"abc")
