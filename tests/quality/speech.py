"""Speech to measure with: synthesised here by flite and espeak-ng, so no recording is kept.

flite's voices are cut from recordings of people (unit selection), so pitch and noise are a
person's; espeak-ng's are made of formants, in many languages.
"""

from __future__ import annotations

import subprocess
import sys
import wave
from pathlib import Path

import numpy as np

SENTENCES = (
    ("slt", "The lift stands still on the fourth floor. Somebody is inside, and wants to talk."),
    ("rms", "A train has stopped in the northern tunnel. Please close the gates, and wait for us."),
    ("awb", "We heard the pump start at half past six. Since then the water is falling slowly."),
    ("slt", "Who opened the yellow cabinet last night? Its door was ajar, with both keys missing."),
)
TALK_OFF = (
    "The quick brown fox jumps over the lazy dog near the bank of the river. Please call the "
    "control room and report one two three four five six seven eight nine zero. Elevator "
    "emergency, all units respond. Who are you? Sally sells sea shells by the sea shore. La la la, "
    "do re mi fa sol la si do, ooh, aah, eee. How now, brown cow? We were away a year ago. I owe "
    "you a yo-yo, you owe me an oboe. Many mummies mumble in the moonlight. Are our oars over "
    "here, or in our other harbour? Mee, may, my, mow, moo. No, no, no! Yeah, yeah. Hum, hmm, "
    "uh-huh. Ring the ding dong bell."
)
VOICES = ("en", "en+f3", "en+m5", "en+f5", "en+croak", "en-us", "de", "fr", "es", "it", "fi")
PAUSE_S = 0.5
_LEVEL = 32768 * 10 ** (-26 / 20)
"""-26 dBov, at which P.862 is calibrated."""


def run(*command: str | Path, data: bytes = b"") -> bytes:
    """What a program writes to its standard output."""
    try:
        return subprocess.run(
            [str(word) for word in command], input=data, capture_output=True, check=True
        ).stdout
    except FileNotFoundError:
        sys.exit(f"{command[0]} is not installed: hardware/lab/packages.sh test")
    except subprocess.CalledProcessError as error:
        sys.exit(f"{command[0]}: {error.stderr.decode(errors='replace')[-300:]}")


def resample(pcm: np.ndarray, rate: int, to: int) -> np.ndarray:
    """The same at another rate, by sox, without a shift."""
    if rate == to:
        return pcm
    raw = ("-t", "raw", "-e", "signed", "-b", "16", "-c", "1")
    out = run("sox", "-D", "-r", str(rate), *raw, "-", "-r", str(to), *raw, "-",
              data=pcm.astype(np.int16).tobytes())  # fmt: skip
    return np.frombuffer(out, np.int16)


def _read(path: Path) -> tuple[np.ndarray, int]:
    with wave.open(str(path), "rb") as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.int16), file.getframerate()


def _levelled(pcm: np.ndarray) -> np.ndarray:
    """Its level without the pauses, to within a decibel."""
    x = pcm.astype(float)
    loud = np.abs(x) > np.abs(x).max() / 100
    return np.clip(x * _LEVEL / np.sqrt((x[loud] ** 2).mean()), -32768, 32767).astype(np.int16)


class Material:
    """Sentences one after the other, at 16 and at 8 kHz, and where each begins and ends."""

    def __init__(self, directory: Path) -> None:
        pieces, self.spans = [], []
        at = PAUSE_S
        for n, (voice, text) in enumerate(SENTENCES):
            path = directory / f"sentence{n}.wav"
            run("flite", "-voice", voice, "-t", text, "-o", path)
            pcm = resample(*_read(path), 16000)
            pcm = _levelled(pcm[: len(pcm) // 320 * 320])
            pieces += [np.zeros(int(16000 * PAUSE_S), np.int16), pcm]
            self.spans.append((at, at + len(pcm) / 16000))
            """Seconds."""
            at += len(pcm) / 16000 + PAUSE_S
        pieces.append(np.zeros(16000, np.int16))
        self.wide = np.concatenate(pieces)
        self.wide = self.wide[: len(self.wide) // 320 * 320]
        self.narrow = resample(self.wide, 16000, 8000)[: len(self.wide) // 2]
        self.seconds = len(self.wide) / 16000

    def at(self, rate: int) -> np.ndarray:
        """The samples at 8000 or 16000 Hz."""
        return self.wide if rate == 16000 else self.narrow


def talk_off(directory: Path) -> list[tuple[str, np.ndarray]]:
    """About ten minutes of speech at 8 kHz, by voice: what is in no digit's favour is not left
    out (long vowels, laughter, hummed tones)."""
    found = []
    path = directory / "talk.wav"
    for voice in ("slt", "rms", "awb", "kal16"):
        run("flite", "-voice", voice, "-t", TALK_OFF, "-o", path)
        found.append((f"flite {voice}", resample(*_read(path), 8000)))
    for voice in VOICES:
        run("espeak-ng", "-v", voice, "-s", "150", "-w", path, TALK_OFF)
        found.append((f"espeak-ng {voice}", resample(*_read(path), 8000)))
    return found
