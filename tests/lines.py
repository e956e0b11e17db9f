"""Signals on two-wire lines, by numpy and foreign programs: speech, noise, a hybrid's echo."""

from __future__ import annotations

import subprocess
from functools import lru_cache

import numpy as np

RATE = 8000
FULL_SCALE = 32768.0
HARVARD = (
    "The birch canoe slid on the smooth planks. Glue the sheet to the dark blue background. "
    "It is easy to tell the depth of a well. These days a chicken leg is a rare dish. "
    "Rice is often served in round bowls. The juice of lemons makes fine punch."
)
OTHER = (
    "The box was thrown beside the parked truck. The hogs were fed chopped corn and garbage. "
    "Four hours of steady work faced us. A large size in stockings is hard to sell."
)


def dbm0(pcm: np.ndarray) -> float:
    """Level of everything; a full-scale sine has +3.14 dBm0."""
    mean = float(np.mean(np.asarray(pcm, float) ** 2)) if len(pcm) else 0.0
    return float(10 * np.log10(max(mean, 1e-3) / (FULL_SCALE**2 / 2)) + 3.14)


def at_level(pcm: np.ndarray, level: float) -> np.ndarray:
    """The same at another level in dBm0."""
    out = np.asarray(pcm, float) * 10 ** ((level - dbm0(pcm)) / 20)
    return np.clip(np.round(out), -32768, 32767).astype(np.int16)


def white(seconds: float, level: float = -15.0, seed: int = 1) -> np.ndarray:
    """White noise."""
    return at_level(np.random.default_rng(seed).normal(size=int(seconds * RATE)), level)


@lru_cache(maxsize=8)
def _spoken(text: str, voice: str) -> np.ndarray:
    raw = subprocess.run(
        ["espeak-ng", "-v", voice, "-s", "150", "--stdout", text], capture_output=True, check=True
    ).stdout
    narrow = subprocess.run(
        ["sox", "-t", "wav", "-", "-t", "raw", "-r", "8000", "-c", "1", "-e", "signed", "-b", "16",
         "-", "gain", "-6", "highpass", "200", "silence", "1", "0.02", "0.5%"],
        input=raw, capture_output=True, check=True,
    ).stdout  # fmt: skip
    return np.frombuffer(narrow[: len(narrow) // 2 * 2], np.int16)


def spoken(text: str = HARVARD, voice: str = "en", level: float = -15.0) -> np.ndarray:
    """Speech by espeak-ng, brought to 8 kHz by sox."""
    return at_level(_spoken(text, voice), level)


def hybrid(loss_db: float, delay: int = 16) -> np.ndarray:
    """Impulse response of a hybrid's reflection, 8 ms behind `delay` samples.

    Band-limited and dispersive as the echo path models of G.168 Annex D are: a reflection whose
    low frequencies come later and die away slower than the high ones.
    """
    t = np.arange(64) / RATE
    h = np.zeros(64)
    for hz in range(300, 3400, 100):
        lag, decay = 0.0012 * (700 / (hz + 400)), 900 + 0.5 * hz
        since = t - lag
        h += np.where(since >= 0, np.exp(-decay * since) * np.cos(2 * np.pi * hz * since), 0.0)
    h *= 10 ** (-loss_db / 20) / np.sqrt(np.sum(h**2))
    return np.concatenate([np.zeros(delay), h])


def echo_of(sent: np.ndarray, path: np.ndarray) -> np.ndarray:
    """What comes back of a signal, as float samples."""
    return np.convolve(np.asarray(sent, float), path)[: len(sent)]


def ulaw(pcm: np.ndarray) -> np.ndarray:
    """Samples as they are after mu-law (G.711), by the formula of the standard's segments."""
    v = np.clip(np.abs(np.asarray(pcm, float)) + 132, 0, 32635)
    step = 2.0 ** np.maximum(np.floor(np.log2(np.maximum(v, 132))) - 4, 3)
    return (np.sign(pcm) * ((np.floor(v / step) + 0.5) * step - 132)).astype(np.int16)


def erle(echo: np.ndarray, left: np.ndarray) -> float:
    """Echo return loss enhancement in dB: how much weaker what is left is."""
    return float(
        10 * np.log10((np.sum(np.asarray(echo, float) ** 2) + 1)
                      / (np.sum(np.asarray(left, float) ** 2) + 1))
    )  # fmt: skip
