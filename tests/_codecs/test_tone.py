"""Call-progress tones: spectra and cadences of the generator; the detector on sounds made by numpy
and sox, in noise, off frequency, off cadence, and on speech."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from gateway._codecs.tone import ToneDetector, ToneGenerator, TonePattern, ToneStep
from gateway.errors import UsageError

from .conftest import read_wav

PATTERNS = [
    TonePattern(1, (425.0,), (480, 480), 2, 0),  # German busy
    TonePattern(2, (480.0, 620.0), (250, 250), 3, 0),  # US congestion
    TonePattern(3, (350.0, 440.0), (), 0, 600),  # US dial
    TonePattern(4, (440.0, 480.0), (2000, 4000), 2, 0),  # US ringback
    TonePattern(5, (400.0, 450.0), (400, 200, 400, 2000), 2, 0),  # UK ringback
    TonePattern(6, (1400.0,), (), 0, 400),
    TonePattern(7, (2300.0,), (), 0, 400),
]


def tone(hz: tuple[float, ...], ms: int, peak: float = 3000.0) -> np.ndarray:
    t = np.arange(8 * ms) / 8000
    return sum((peak * np.sin(2 * np.pi * f * t) for f in hz), np.zeros(8 * ms))


def cadence(hz: tuple[float, ...], steps: tuple[int, ...], cycles: int, peak=3000.0) -> np.ndarray:
    parts = []
    for _ in range(cycles):
        for i, ms in enumerate(steps):
            parts.append(tone(hz if i % 2 == 0 else (), ms, peak))
    return np.concatenate(parts)


def detect(
    sound: np.ndarray, patterns=PATTERNS, n_samples: int = 160, noise_dbfs=None
) -> list[int]:
    if noise_dbfs is not None:
        rng = np.random.default_rng(2)
        sound = sound + rng.normal(0, 32768 * 10 ** (noise_dbfs / 20), len(sound))
    pcm = np.clip(sound, -32768, 32767).astype(np.int16)
    detector, found = ToneDetector(patterns), []
    for at in range(0, len(pcm), n_samples):
        found += detector.push(pcm[at : at + n_samples])
    return [event.id for event in found]


SOUNDS = {
    1: cadence((425,), (480, 480), 6),
    2: cadence((480, 620), (250, 250), 8),
    3: tone((350, 440), 3000),
    4: cadence((440, 480), (2000, 4000), 3),
    5: cadence((400, 450), (400, 200, 400, 2000), 4),
    6: tone((1400,), 1500),
    7: tone((2300,), 1500),
}


@pytest.mark.parametrize("wanted", SOUNDS)
@pytest.mark.parametrize("noise_dbfs", [None, -45])
def test_each_tone_is_reported_once_and_nothing_else(wanted, noise_dbfs) -> None:
    lead, tail = np.zeros(1234), np.zeros(8000)
    sound = np.concatenate([lead, SOUNDS[wanted], tail])
    assert detect(sound, noise_dbfs=noise_dbfs) == [wanted]
    assert detect(sound * 0.1, noise_dbfs=None if noise_dbfs is None else -65) == [wanted]


def test_block_length_does_not_matter() -> None:
    sound = np.concatenate([SOUNDS[1], np.zeros(24000), SOUNDS[6], np.zeros(800)])
    assert [detect(sound, n_samples=n) for n in (1, 79, 80, 160, 960)] == [[1, 6]] * 5


@pytest.mark.parametrize("hz", [425.0, 1400.0, 2300.0])
def test_frequency_tolerance(hz) -> None:
    patterns = [TonePattern(1, (hz,), (), 0, 400)]
    for off in (0.0, 0.9 * (0.015 * hz + 10), -0.9 * (0.015 * hz + 10)):
        assert detect(tone((hz + off,), 1000), patterns) == [1], off
    for off in (1.25 * (0.015 * hz + 10), -1.25 * (0.015 * hz + 10), 60.0, -60.0, 95.0, 110.0):
        assert detect(tone((hz + off,), 1000), patterns) == [], off


def test_cadence_tolerance() -> None:
    patterns = [TonePattern(1, (425.0,), (480, 480), 2, 0)]
    for factor in (0.88, 0.95, 1.05, 1.12):
        assert detect(cadence((425,), (int(480 * factor),) * 2, 5), patterns) == [1], factor
    for on, off in ((240, 240), (480, 240), (240, 480), (700, 700), (480, 700), (1000, 4000)):
        assert detect(cadence((425,), (on, off), 6), patterns) == [], (on, off)


def test_reports_again_after_a_stop() -> None:
    busy, pause = SOUNDS[1], np.zeros(8 * 3000)
    assert detect(np.concatenate([busy, pause, busy, pause])) == [1, 1]
    dial = SOUNDS[3]
    assert detect(np.concatenate([dial, pause, dial, pause])) == [3, 3]


def test_am_ringback_is_heard_as_its_carrier() -> None:
    t = np.arange(8 * 400) / 8000
    ring = 3000 * np.sin(2 * np.pi * 400 * t) * (1 + np.sin(2 * np.pi * 25 * t)) / 2
    cycle = np.concatenate([ring, np.zeros(1600), ring, np.zeros(16000)])
    patterns = [TonePattern(9, (400.0,), (400, 200, 400, 2000), 2, 0)]
    assert detect(np.tile(cycle, 4), patterns) == [9]


def test_speech_over_the_pauses_breaks_the_cadence() -> None:
    rng = np.random.default_rng(1)
    sound = SOUNDS[1].copy()
    quiet = np.abs(sound) < 1
    sound[quiet] += rng.normal(0, 3000, quiet.sum())
    assert detect(sound) == []


def test_speech_and_noise_give_nothing(program, tmp_path: Path) -> None:
    wide, narrow = tmp_path / "wide.wav", tmp_path / "narrow.wav"
    text = "Mama, no way, maybe we are all away in Rome. La la la, ooh, aah, eee, who are you? " * 3
    for voice in ("en", "en+f3", "de"):
        subprocess.run([program("espeak-ng"), "-v", voice, "-w", wide, text], check=True)
        subprocess.run([program("sox"), wide, "-r", "8000", "-b", "16", narrow], check=True)
        assert detect(np.frombuffer(read_wav(narrow), np.int16).astype(float)) == [], voice
    assert detect(np.random.default_rng(4).normal(0, 4000, 160000)) == []


def test_busy_made_by_sox(program, tmp_path: Path) -> None:
    wav = tmp_path / "busy.wav"
    make = [program("sox"), "-n", "-r", "8000", "-b", "16", wav, "synth", "0.48", "sine", "425"]
    subprocess.run([*make, "vol", "0.2", "pad", "0", "0.48", "repeat", "5"], check=True)
    assert detect(np.frombuffer(read_wav(wav), np.int16).astype(float)) == [1]


def read_all(generator: ToneGenerator, n: int, step: int = 160) -> np.ndarray:
    parts = [generator.read(min(step, n - at)) for at in range(0, n, step)]
    return np.frombuffer(b"".join(parts), np.int16).astype(float)


@pytest.mark.parametrize("rate", [8000, 16000])
def test_generator_frequencies_and_level(rate) -> None:
    generator = ToneGenerator([ToneStep((350.0, 440.0), 0, -13.0)], None, rate)
    spectrum = np.abs(np.fft.rfft(read_all(generator, rate))) / (rate / 2)
    assert set(np.argsort(spectrum)[-2:]) == {350, 440}
    for hz in (350, 440):
        assert 20 * np.log10(spectrum[hz] / 32768) + 3.14 == pytest.approx(-13, abs=0.05)
    assert np.sort(spectrum)[-3] < spectrum[350] / 1000


def test_generator_amplitude_modulation() -> None:
    generator = ToneGenerator([ToneStep((400.0, 25.0), 0, -10.0, True)])
    spectrum = np.abs(np.fft.rfft(read_all(generator, 8000)))
    assert set(np.argsort(spectrum)[-3:]) == {375, 400, 425}
    assert spectrum[375] / spectrum[400] == pytest.approx(0.5, abs=0.01)


def test_generator_cadence() -> None:
    steps = [
        ToneStep((400.0,), 400),
        ToneStep((), 200),
        ToneStep((400.0,), 400),
        ToneStep((), 2000),
    ]
    for step in (1, 80, 160, 333):
        sound = read_all(ToneGenerator(steps), 8 * 6000, step)
        on = np.abs(sound).reshape(-1, 80).max(axis=1) > 0
        cycle = [True] * 40 + [False] * 20 + [True] * 40 + [False] * 200
        assert on.tolist() == cycle * 2


def test_generator_once_and_repeat_from() -> None:
    once = ToneGenerator([ToneStep((1000.0,), 100), ToneStep((), 50)], None)
    assert len(once.read(2000)) == 2 * 8 * 150
    assert once.is_over
    assert once.read(10) == b""
    stutter = ToneGenerator([ToneStep((350.0,), 100), ToneStep((), 100), ToneStep((440.0,), 0)], 2)
    assert len(stutter.read(80000)) == 160000
    assert not stutter.is_over


def test_our_detector_knows_our_generator() -> None:
    steps = [ToneStep((480.0, 620.0), 250, -20.0), ToneStep((), 250)]
    assert detect(read_all(ToneGenerator(steps), 8 * 5000)) == [2]


def test_bad_use_is_refused() -> None:
    for steps in (
        [],
        [ToneStep((5000.0,), 100)],
        [ToneStep((-1.0,), 100)],
        [ToneStep((float("nan"),), 100)],
        [ToneStep((400.0,), 0), ToneStep((), 100)],
        [ToneStep((400.0,), 100, 0.0, True)],
        [ToneStep((1.0,) * 5, 100)],
        [ToneStep()] * 17,
    ):
        with pytest.raises(UsageError):
            ToneGenerator(steps)
    with pytest.raises(UsageError):
        ToneGenerator([ToneStep((400.0,), 100)], 1)
    for pattern in (
        TonePattern(1, ()),
        TonePattern(1, (400.0,) * 3),
        TonePattern(1, (100.0,)),
        TonePattern(1, (400.0,), (100,)),
        TonePattern(1, (400.0,), (100, 10)),
        TonePattern(1, (400.0,), (100, 100), 0),
        TonePattern(1, (400.0,), (100, 100), 25),
        TonePattern(1, (float("nan"),)),
    ):
        with pytest.raises(UsageError):
            ToneDetector([pattern])
    with pytest.raises(UsageError):
        ToneDetector([])
