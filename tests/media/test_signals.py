"""Test signals: what they are, told by numpy and by sox."""

from __future__ import annotations

import re
import subprocess
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UsageError
from gateway.media import signals


def _signal(signal: str, seconds: float = 2.0, level_dbm0: float = -10.0) -> np.ndarray:
    return np.frombuffer(signals.samples(signal, level_dbm0, seconds), np.int16).astype(float)


@pytest.mark.parametrize("signal", ["tone:1004", "tone:1020", "noise", "sweep"])
@pytest.mark.parametrize("level_dbm0", [-10.0, -30.0])
def test_the_level_is_what_was_asked_for(signal: str, level_dbm0: float) -> None:
    x = _signal(signal, level_dbm0=level_dbm0)
    assert len(x) == 16000
    found = 20 * np.log10(np.sqrt(np.mean(x**2)) / (32768 / np.sqrt(2))) + 3.14
    assert found == pytest.approx(level_dbm0, abs=0.1)


def test_noise_does_not_repeat_and_is_flat() -> None:
    x = _signal("noise", 8.0)
    assert set(x) == {x.max(), -x.max()}
    spectrum = np.fft.rfft(x, 131072)
    # Two halves share nothing: the sequence has its whole length.
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)
    assert np.abs(correlation[1:64000]).max() < 0.02 * correlation[0]
    power = np.abs(np.fft.rfft(x)[1:]) ** 2
    bands = [band.mean() for band in np.array_split(power, 16)]
    assert max(bands) < 1.1 * min(bands)


def test_a_sweep_is_the_telephone_channel() -> None:
    power = np.abs(np.fft.rfft(_signal("sweep"))) ** 2
    hz = np.linspace(0, 4000, len(power))
    inside = power[(hz > 190) & (hz < 3410)].sum()
    assert inside > 0.999 * power.sum()


def test_sox_hears_the_tone(tmp_path: Path, program) -> None:
    sox = program("sox")
    path = tmp_path / "tone.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(signals.samples("tone:1004", -10.0, 2.0))
    told = subprocess.run(
        [sox, str(path), "-n", "stat"], capture_output=True, text=True, check=True
    ).stderr
    rough = re.search(r"Rough\s+frequency:\s+(\d+)", told)
    assert rough is not None
    # Its rough frequency is that of the differences: short of the true one.
    assert abs(int(rough[1]) - 8000 / np.pi * np.sin(np.pi * 1004 / 8000)) <= 2


def test_what_cannot_be_played_is_refused() -> None:
    for signal, level, seconds in (
        ("tone:5000", -10.0, 1.0),
        ("tone:50", -10.0, 1.0),
        ("chirp", -10.0, 1.0),
        ("noise", 1.0, 1.0),
        ("noise", -10.0, 0.0),
        ("noise", -10.0, float("nan")),
    ):
        with pytest.raises(UsageError):
            signals.samples(signal, level, seconds)


@given(st.text(max_size=12))
def test_any_other_word_is_no_signal(text: str) -> None:
    try:
        hz = signals.frequency(text)
    except UsageError:
        return
    assert text in ("noise", "sweep") or 100 <= hz <= 3800
