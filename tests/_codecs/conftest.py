"""Corpora and audio helpers shared by the codec tests."""

import os
import shutil
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

CORPORA = Path(
    os.environ.get("CROSSPOINT_CORPORA", Path(__file__).parents[3] / "shared" / "corpora")
)


@pytest.fixture(scope="session")
def corpus() -> Callable[[str], Path]:
    """A folder of the reference corpora; skips where it is not present."""

    def find(name: str) -> Path:
        folder = CORPORA / name
        if not folder.is_dir():
            pytest.skip(f"no corpus {folder} (set CROSSPOINT_CORPORA)")
        return folder

    return find


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """The path of a foreign program; skips where it is not installed."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            pytest.skip(f"{name} is not installed")
        return path

    return find


def read_wav(path: Path) -> bytes:
    with wave.open(str(path)) as f:
        return f.readframes(f.getnframes())


def write_wav(path: Path, pcm: bytes, rate: int = 8000) -> Path:
    with wave.open(str(path), "wb") as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(rate)
        f.writeframes(pcm)
    return path


def sine(hz: float, n: int, rate: int = 8000, peak: float = 8000.0) -> np.ndarray:
    return np.round(peak * np.sin(2 * np.pi * hz * np.arange(n) / rate)).astype(np.int16)
