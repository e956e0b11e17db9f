"""What recordings say: each verdict from a file that was made for it."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.core.events import PathTestKind
from gateway.errors import DeviceError
from gateway.media import signals
from gateway.pathtests.judge import Question, Verdict, judge
from gateway.pathtests.section import Limits, signal_of

RATE = 8000


def record(path: Path, received: np.ndarray, sent: np.ndarray, rate: int = RATE) -> Path:
    both = np.clip(np.stack([received, sent], axis=1), -32768, 32767).astype(np.int16)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(both.tobytes())
    return path


def noise(rms: float, n: int) -> np.ndarray:
    return np.random.default_rng(5).normal(0.0, rms, n)


class Bench:
    """Makes the recording of a path and has it judged."""

    def __init__(self, directory: Path, kind: str, **question: Any) -> None:
        self.directory, self.kind = directory, PathTestKind(kind)
        self.fields = {"limits": Limits()} | question
        word = signal_of(self.kind, 1004.0)
        x = np.frombuffer(signals.samples(word, -10.0, 2.0), np.int16).astype(float)
        self.sent = np.concatenate([np.zeros(300), x, np.zeros(12000)])

    def __call__(self, received: np.ndarray, **question: Any) -> Verdict:
        file = record(self.directory / "a.wav", received, self.sent)
        fields = {"kind": self.kind, "signal": signal_of(self.kind, 1004.0)} | self.fields
        return judge(Question(**(fields | question)), file, None)

    def back(self, loss_db: float, delay: int = 800, rms: float = 30.0) -> np.ndarray:
        out = noise(rms, len(self.sent))
        out[delay:] += self.sent[:-delay] * 10 ** (-loss_db / 20)
        return out


@pytest.mark.parametrize(
    ("loss_db", "more", "verdict", "ok"),
    [
        (0.0, {}, "closed", True),
        (9.0, {}, "closed", True),
        (15.0, {}, "wrong level", False),
        (-5.0, {}, "wrong level", False),
        (50.0, {}, "open", False),
        (0.0, {"expect": "open"}, "closed", False),
        (50.0, {"expect": "open"}, "open", True),
        (14.0, {"two_wire": True}, "hybrid echo", True),
        (3.0, {"two_wire": True}, "wrong level", False),
        (3.0, {"two_wire": True, "expect": "closed"}, "closed", True),
        (3.0, {"limits": Limits(max_delay_ms=50.0)}, "late", False),
        (3.0, {"limits": Limits(max_delay_ms=150.0)}, "closed", True),
        (3.0, {"limits": Limits(min_snr_db=55.0)}, "noisy", False),
        (3.0, {"baseline": {"attenuation_db": 2.0}}, "closed", True),
        (9.5, {"baseline": {"attenuation_db": 2.0}}, "attenuated", False),
        (0.0, {"baseline": {"attenuation_db": 8.0}}, "louder", False),
    ],
)
def test_a_loop(
    tmp_path: Path, loss_db: float, more: dict[str, Any], verdict: str, ok: bool
) -> None:
    bench = Bench(tmp_path, "loop")
    found = bench(bench.back(loss_db), **more)
    assert (found.verdict, found.ok) == (verdict, ok), found
    if loss_db < 40:
        assert found.figures["attenuation_db"] == pytest.approx(loss_db, abs=0.3)
        assert found.figures["delay_ms"] == pytest.approx(100.0, abs=0.2)


def test_silence_and_something_else_are_open(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "loop")
    assert bench(np.zeros(len(bench.sent))).detail == "nothing comes back"
    assert bench(noise(2.0, len(bench.sent))).detail == "nothing comes back"
    assert "something else" in bench(noise(900.0, len(bench.sent))).detail


def test_loudspeaker_and_microphone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "acoustic")
    good = bench(bench.back(20.0, rms=20.0))
    assert (good.verdict, good.ok) == ("ok", True)
    assert bench(noise(40.0, len(bench.sent))).verdict == "loudspeaker silent"
    assert bench(np.zeros(len(bench.sent))).verdict == "microphone silent"
    weak = bench(bench.back(32.0, rms=20.0), baseline=good.figures)
    assert (weak.verdict, weak.ok) == ("attenuated", False)
    assert "12.0 dB weaker" in weak.detail
    same = bench(bench.back(21.0, rms=20.0), baseline=good.figures)
    assert (same.verdict, same.figures["change_db"]) == ("ok", pytest.approx(-1.0, abs=0.2))


def test_a_loudspeaker_that_lost_its_treble(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "acoustic")
    good = bench(bench.back(20.0, rms=5.0))
    spectrum = np.fft.rfft(bench.back(20.0, rms=5.0))
    spectrum[np.fft.rfftfreq(len(bench.sent), 1 / RATE) > 2500] *= 0.1
    torn = bench(np.fft.irfft(spectrum, len(bench.sent)), baseline=good.figures)
    assert (torn.verdict, torn.ok) == ("changed", False)
    assert "at 3000 Hz" in torn.detail


def test_another_ear(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "acoustic")
    mouth = record(tmp_path / "m.wav", np.zeros(len(bench.sent)), bench.sent)
    ear = record(tmp_path / "e.wav", bench.back(20.0, delay=400), np.zeros(len(bench.sent)))
    fields = {"kind": bench.kind, "signal": "sweep", "limits": Limits()}
    found = judge(Question(**fields), mouth, ear)
    assert (found.verdict, round(found.figures["delay_ms"])) == ("ok", 50)


@pytest.mark.parametrize(
    ("received", "verdict"),
    [
        (lambda t: 0 * t, "silent"),
        (lambda t: noise(20.0, len(t)), "ok"),
        (lambda t: 400 * np.sin(2 * np.pi * 50 * t), "hum"),
        (lambda t: noise(600.0, len(t)), "noisy"),
        (lambda t: 500 + noise(20.0, len(t)), "dc"),
    ],
)
def test_what_comes_back_while_a_tone_plays(tmp_path: Path, received: Any, verdict: str) -> None:
    bench = Bench(tmp_path, "tone")
    found = bench(received(np.arange(len(bench.sent)) / RATE))
    assert (found.verdict, found.ok) == (verdict, verdict == "ok")
    assert bench(np.zeros(len(bench.sent)), one_way=True).ok


def test_a_wideband_recording_is_the_same_path(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "loop")
    twice = [np.repeat(each, 2) for each in (bench.back(6.0), bench.sent)]
    file = record(tmp_path / "w.wav", twice[0], twice[1], 16000)
    found = judge(Question(kind=bench.kind, signal="noise", limits=Limits()), file, None)
    assert found.verdict == "closed"
    assert found.figures["attenuation_db"] == pytest.approx(6.0, abs=0.3)


def test_no_recording_is_an_error(tmp_path: Path) -> None:
    question = Question(kind=PathTestKind.LOOP, signal="noise", limits=Limits())
    with pytest.raises(DeviceError, match=r"none\.wav"):
        judge(question, tmp_path / "none.wav", None)
    (tmp_path / "bad.wav").write_bytes(b"RIFF....WAVE")
    with pytest.raises(DeviceError, match=r"bad\.wav"):
        judge(question, tmp_path / "bad.wav", None)
