"""Analysis against paths that were made: by numpy, and by sox."""

from __future__ import annotations

import subprocess
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway._codecs import g711
from gateway.errors import UsageError
from gateway.media import analysis, signals

LEAD = 1234
"""Samples of silence before the signal: nobody says when it begins."""


def _sent(signal: str, seconds: float = 2.0, tail_s: float = 1.5) -> np.ndarray:
    x = np.frombuffer(signals.samples(signal, -10.0, seconds), np.int16)
    return np.concatenate([np.zeros(LEAD), x, np.zeros(round(tail_s * 8000))]).astype(np.int16)


def _bytes(x: np.ndarray) -> bytes:
    return np.clip(np.round(x), -32768, 32767).astype(np.int16).tobytes()


def _noise(rms: float, n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, max(rms, 1e-9), n)


@given(
    signal=st.sampled_from(["noise", "sweep"]),
    delay=st.integers(0, 11000),
    loss_db=st.floats(-3, 35),
    snr_db=st.floats(0, 40),
    inverted=st.booleans(),
)
@settings(max_examples=20, deadline=None)
def test_delay_loss_and_noise_are_found(
    signal: str, delay: int, loss_db: float, snr_db: float, inverted: bool
) -> None:
    sent = _sent(signal)
    came = np.zeros(len(sent))
    came[delay:] = sent[: len(sent) - delay] * 10 ** (-loss_db / 20) * (-1 if inverted else 1)
    n = 16000
    power = np.mean(came[LEAD + delay : LEAD + delay + n] ** 2)
    rms = np.sqrt(power / 10 ** (snr_db / 10))
    found = analysis.path(sent.tobytes(), _bytes(came + _noise(rms, len(came))))
    assert found.found
    assert found.delay_ms == pytest.approx(delay / 8, abs=0.13)
    assert found.attenuation_db == pytest.approx(loss_db, abs=0.4)
    # A sweep is known to some thirty decibels; below that the noise is what was put there.
    assert found.snr_db == pytest.approx(snr_db, abs=1.5) or min(snr_db, found.snr_db) > 25
    # numpy's own correlation stands at the same place.
    piece = sent[LEAD : LEAD + n].astype(float)
    turned = np.fft.rfft(came) * np.conj(np.fft.rfft(piece, len(came)))
    other = np.fft.irfft(turned, len(came))[: len(came) - n + 1]
    assert abs(int(np.abs(other).argmax()) - LEAD - delay) <= 1


@given(seed=st.integers(0, 2**32 - 1), rms=st.floats(0, 3000), kind=st.integers(0, 3))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_what_was_not_sent_is_not_found(seed: int, rms: float, kind: int) -> None:
    sent = _sent("noise" if kind % 2 else "sweep")
    t = np.arange(len(sent)) / 8000
    other = _noise(rms, len(sent), seed)
    if kind >= 2:
        other = other / 30 + rms * np.sin(2 * np.pi * (40 + seed % 3900) * t)
    assert not analysis.path(sent.tobytes(), _bytes(other)).found


@given(st.binary(max_size=3000), st.binary(max_size=4000))
@settings(max_examples=40, deadline=None)
def test_any_samples_are_judged_or_refused(sent: bytes, received: bytes) -> None:
    try:
        analysis.path(sent, received)
    except UsageError:
        pass
    try:
        analysis.quiet(sent, received, 1004.0)
    except UsageError:
        pass


def test_sox_delays_and_attenuates(tmp_path: Path, program) -> None:
    """The oracle knows nothing of us: a file in, a file out."""
    sox = program("sox")
    sent = _sent("noise")
    source, made = tmp_path / "sent.wav", tmp_path / "made.wav"
    with wave.open(str(source), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(sent.tobytes())
    command = [sox, "-D", str(source), str(made), "pad", "0.25", "0", "gain", "-12"]
    subprocess.run(command, check=True)
    with wave.open(str(made)) as file:
        received = file.readframes(file.getnframes())
    found = analysis.path(sent.tobytes(), received)
    assert found.found
    assert found.delay_ms == pytest.approx(250.0, abs=0.13)
    assert found.attenuation_db == pytest.approx(12.0, abs=0.1)
    assert found.snr_db > 40


def test_sox_s_treble_is_seen_in_the_bands(tmp_path: Path, program) -> None:
    sox = program("sox")
    sent = _sent("sweep")
    command = [sox, "-t", "raw", "-r", "8000", "-e", "signed", "-b", "16", "-c", "1", "-"]
    command += ["-t", "raw", "-", "lowpass", "1000"]
    received = subprocess.run(command, input=sent.tobytes(), capture_output=True, check=True).stdout
    found = analysis.path(sent.tobytes(), received)
    # A Butterworth of second order by the bilinear transform.
    for middle, gain in found.bands_db.items():
        hz = middle * 2.0 ** np.linspace(-1 / 6, 1 / 6, 50)
        ratio = np.tan(np.pi * hz / 8000) / np.tan(np.pi / 8)
        assert gain == pytest.approx(10 * np.log10(np.mean(1 / (1 + ratio**4))), abs=1.0)


@pytest.mark.parametrize("signal", ["noise", "sweep"])
def test_a_telephone_channel_is_no_obstacle(signal: str) -> None:
    sent = _sent(signal)
    received = g711.decode_alaw(g711.encode_alaw(sent.tobytes()))
    found = analysis.path(sent.tobytes(), received)
    # Noise of two values hits two steps of the quantizer, not their mean.
    assert found.attenuation_db == pytest.approx(0.0, abs=0.3)
    assert found.delay_ms == 0.0
    assert found.snr_db > 28


@pytest.mark.parametrize("slips", [1, 3])
def test_slips_are_counted_and_do_no_harm(slips: int) -> None:
    """A packet of 20 ms is lost, or comes twice, in the midst of the signal."""
    sent = _sent("noise")
    received = list(np.concatenate([np.zeros(500), sent * 0.25]).astype(int))
    for turn in range(slips):
        at = LEAD + 500 + (turn + 1) * 16000 // (slips + 1)
        if turn % 2:
            received[at:at] = received[at - 160 : at]
        else:
            del received[at : at + 160]
    found = analysis.path(sent.tobytes(), _bytes(np.array(received)))
    assert found.attenuation_db == pytest.approx(12.04, abs=0.3)
    assert found.slips == slips
    assert found.snr_db > 11
    assert 40.0 <= found.delay_ms <= 63.0


def test_a_hall_is_louder_than_its_first_sound() -> None:
    sent = _sent("sweep", 3.0)
    hall = np.random.default_rng(3).normal(0, 1, 800) * np.exp(-np.arange(800) / 150) * 0.02
    hall[0] = 0.1
    received = np.convolve(sent, np.concatenate([np.zeros(240), hall]))[: len(sent)]
    found = analysis.path(sent.tobytes(), _bytes(received), window_ms=120.0)
    n = slice(LEAD + 240, LEAD + 240 + 24000)
    power = np.mean(received[n] ** 2) / np.mean(sent[LEAD : LEAD + 24000].astype(float) ** 2)
    assert found.delay_ms == pytest.approx(30.0, abs=1.0)
    assert found.attenuation_db == pytest.approx(-10 * np.log10(power), abs=0.5)


@pytest.mark.parametrize("mains_hz", [50.0, 60.0])
def test_hum_noise_and_dc_are_told_apart(mains_hz: float) -> None:
    sent = _sent("tone:1004", 4.0)
    t = np.arange(len(sent)) / 8000
    hum = 300 * np.sin(2 * np.pi * mains_hz * t) + 100 * np.sin(2 * np.pi * 3 * mains_hz * t)
    received = sent * 0.1 + hum + _noise(40.0, len(sent)) + 250
    found = analysis.quiet(sent.tobytes(), _bytes(received), 1004.0)
    full = 32768**2 / 2

    def dbm0(power: float) -> float:
        return 10 * np.log10(power / full) + 3.14

    assert found.hum_hz == mains_hz
    assert found.hum_dbm0 == pytest.approx(dbm0((300**2 + 100**2) / 2), abs=0.3)
    assert found.noise_dbm0 == pytest.approx(dbm0(40.0**2), abs=1.0)
    assert found.tone_dbm0 == pytest.approx(-30.0, abs=0.2)
    assert found.dc_percent == pytest.approx(100 * 250 / 32768, abs=0.02)


def test_nothing_sent_is_no_test() -> None:
    with pytest.raises(UsageError, match="nothing was sent"):
        analysis.path(bytes(16000), bytes(16000))
    with pytest.raises(UsageError, match="too short"):
        analysis.quiet(_sent("tone:1004", 0.6).tobytes(), bytes(64000), 1004.0)
