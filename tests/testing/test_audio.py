"""The listening tools, against sox and numpy."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from gateway.testing.audio import (
    SILENCE_DBM0,
    dominant,
    level,
    level_at,
    read_wav,
    steady_level_at,
    tone,
    who_hears_whom,
    write_wav,
)


@pytest.mark.parametrize("dbm0", [3.14, 0.0, -10.0, -40.0])
@pytest.mark.parametrize(("hz", "rate"), [(1004, 8000), (440, 16000), (3000, 48000)])
def test_a_tone_has_the_level_it_was_made_with(dbm0: float, hz: float, rate: int) -> None:
    samples = tone(hz, 1.0, rate=rate, dbm0=dbm0)
    assert level(samples) == pytest.approx(dbm0, abs=0.05)
    assert level_at(samples, hz, rate=rate) == pytest.approx(dbm0, abs=0.05)
    assert level_at(samples, hz + 100, rate=rate) < dbm0 - 40


def test_a_frame_left_out_does_not_make_it_weaker() -> None:
    samples = list(tone(1000, 1.0, dbm0=-10))
    broken = samples[:4000] + samples[4004:]  # half a turn
    assert level_at(broken, 1000) < -35
    assert steady_level_at(broken, 1000) == pytest.approx(-10, abs=0.1)
    assert steady_level_at(samples, 1000) == pytest.approx(-10, abs=0.05)
    assert steady_level_at(samples, 1030) < -60
    assert steady_level_at(samples[:700], 1000) == SILENCE_DBM0


def test_against_an_fft() -> None:
    chance = random.Random(5)
    samples = [chance.randint(-20000, 20000) for _ in range(4000)]
    spectrum = np.abs(np.fft.rfft(samples)) / 2000
    for k in (10, 333, 1500):
        expected = 3.14 + 20 * np.log10(spectrum[k] / 32767)
        assert level_at(samples, k * 2.0) == pytest.approx(expected, abs=0.001)
    rms = np.sqrt(np.mean(np.square(samples)))
    assert level(samples) == pytest.approx(3.14 + 20 * np.log10(rms * 2**0.5 / 32767), abs=0.001)


@pytest.mark.interop
@pytest.mark.skipif(shutil.which("sox") is None, reason="sox is not installed")
def test_against_sox(tmp_path: Path) -> None:
    made = tmp_path / "sox.wav"
    command = ["sox", "-n", "-r", "8000", "-c", "2", "-b", "16", str(made), "synth", "1",
               "sine", "1000", "sine", "400", "gain", "-6"]  # fmt: skip
    subprocess.run(command, check=True)
    (left, right), rate = read_wav(made)
    assert rate == 8000
    assert level_at(left, 1000) == pytest.approx(3.14 - 6, abs=0.1)
    assert dominant(right, [1000, 400]) == 400
    ours = write_wav(tmp_path / "ours.wav", tone(1000, 1.0, dbm0=-10))
    stat = ["sox", str(ours), "-n", "stat"]
    said = subprocess.run(stat, capture_output=True, text=True, check=True)
    facts = dict(line.split(":") for line in said.stderr.splitlines() if ":" in line)
    assert float(facts["RMS     amplitude"]) == pytest.approx(10 ** (-13.14 / 20) / 2**0.5, 0.01)
    assert abs(float(facts["Rough   frequency"]) - 1000) < 30


def test_silence_and_nothing() -> None:
    assert level([]) == level([0] * 100) == level_at([], 1000) == SILENCE_DBM0


def test_who_hears_whom() -> None:
    tones = {"ann": 400.0, "bob": 470.0, "eve": 2000.0}
    ann, bob = tone(400, 1.0), tone(470, 1.0, dbm0=-30)
    both = [a + b for a, b in zip(ann, bob, strict=True)]
    heard = {"ann": bob, "bob": ann, "eve": both, "tap": tone(2000, 1.0, dbm0=-45)}
    assert who_hears_whom(heard, tones) == {
        "ann": {"bob"}, "bob": {"ann"}, "eve": {"ann", "bob"}, "tap": set(),
    }  # fmt: skip


def test_eight_bits_are_refused(tmp_path: Path) -> None:
    import wave

    with wave.open(str(tmp_path / "8.wav"), "wb") as file:
        file.setparams((1, 1, 8000, 0, "NONE", ""))
        file.writeframes(b"\x80")
    with pytest.raises(ValueError, match="8-bit"):
        read_wav(tmp_path / "8.wav")
