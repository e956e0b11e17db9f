"""Numbers for what was heard: MOS-LQO, delay, and what a codec alone would have made of it."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass

import numpy as np

from tests.quality.speech import Material, resample, run

FRAME_S = 0.02


@dataclass(frozen=True)
class Codec:
    """A codec of RTP as ffmpeg has it."""

    name: str
    payload_type: int
    rate: int
    muxer: str
    encoder: str

    def encode(self, pcm: np.ndarray) -> bytes:
        """Octets of a whole signal; 160 are 20 ms with each of them."""
        return run("ffmpeg", "-v", "error", "-f", "s16le", "-ar", str(self.rate), "-ac", "1", "-i",
                   "-", "-c:a", self.encoder, "-f", self.muxer, "-",
                   data=pcm.astype(np.int16).tobytes())  # fmt: skip

    def decode(self, octets: bytes) -> np.ndarray:
        """Samples of octets that follow each other."""
        rate = [] if self.muxer == "g722" else ["-ar", "8000", "-ac", "1"]
        out = run("ffmpeg", "-v", "error", "-f", self.muxer, *rate, "-i", "-", "-f", "s16le", "-",
                  data=octets)  # fmt: skip
        return np.frombuffer(out, np.int16)

    @property
    def n_samples(self) -> int:
        return self.rate // 50


PCMU = Codec("PCMU", 0, 8000, "mulaw", "pcm_mulaw")
PCMA = Codec("PCMA", 8, 8000, "alaw", "pcm_alaw")
G722 = Codec("G722", 9, 16000, "g722", "g722")


@dataclass(frozen=True)
class Weather:
    """What a network does to packets: the same ones each time."""

    loss: float = 0.0
    """Percent."""
    jitter_ms: int = 0
    """Each packet comes so much later at most; none overtakes another."""
    burst: bool = False
    """Losses come three in a row on average."""
    pattern: int = 0
    """Which of several networks of this kind: a few bursts are no average."""

    def __str__(self) -> str:
        words = [f"{self.loss:g} % lost" + (" in bursts" if self.burst else "")] * bool(self.loss)
        words += [f"jitter {self.jitter_ms} ms"] * bool(self.jitter_ms)
        return ", ".join(words) or "nothing"

    def schedule(self, n: int) -> list[tuple[float, int]]:
        """When each of `n` packets is sent, in seconds; those that are lost are left out."""
        losing, shaking = (
            random.Random(f"loss {self.loss} {self.burst} {self.pattern}"),
            random.Random("jitter"),
        )
        found: list[tuple[float, int]] = []
        before, bad = 0.0, False
        for i in range(n):
            if self.burst:
                stay = 2 / 3 if bad else self.loss / (300 - 3 * self.loss)
                bad = losing.random() < stay
            else:
                bad = losing.random() * 100 < self.loss
            at = i * FRAME_S + shaking.random() * self.jitter_ms / 1000
            if not bad:
                before = max(before, at)
                found.append((before, i))
        return found


RATES = tuple(Weather(loss) for loss in (0, 1, 3, 5, 10))
BURSTS = tuple(Weather(loss, burst=True) for loss in (3, 10))
SHAKEN = tuple(Weather(loss, jitter) for jitter in (20, 40, 60) for loss in (0, 3))
WEATHERS = RATES + BURSTS + SHAKEN
PATTERNS = 3


def repeated(frames: dict[int, np.ndarray], n: int, n_samples: int) -> np.ndarray:
    """`n` frames, in place of each that is missing the one before it: plain repetition."""
    last = np.zeros(n_samples, np.int16)
    out = []
    for i in range(n):
        last = frames.get(i, last)
        out.append(last)
    return np.concatenate(out) if out else last[:0]


def received(octets: bytes, indices: list[int], codec: Codec) -> dict[int, np.ndarray]:
    """Decoded frames by number, of the packets that came: the decoder knows of no others."""
    pcm = codec.decode(b"".join(octets[160 * i : 160 * i + 160] for i in indices))
    n = codec.n_samples
    return {i: pcm[k * n : k * n + n] for k, i in enumerate(indices)}


def chain(material: Material, near: Codec, far: Codec, weather: Weather) -> np.ndarray:
    """What the far end would hear if nothing but the codecs and plain repetition were between."""
    octets = near.encode(material.at(near.rate))
    n = len(octets) // 160
    indices = [i for _, i in weather.schedule(n)]
    pcm = repeated(received(octets, indices, near), n, near.n_samples)
    if near is not far:
        pcm = far.decode(far.encode(resample(pcm, near.rate, far.rate)))
    return resample(pcm, far.rate, 8000)


def find(piece: np.ndarray, heard: np.ndarray) -> int:
    """At which sample of `heard` a piece begins."""
    n = 1 << int(np.ceil(np.log2(len(piece) + len(heard))))
    a, b = np.fft.rfft(piece.astype(float), n), np.fft.rfft(heard.astype(float), n)
    likeness = np.fft.irfft(b * np.conj(a), n)
    at = int(np.argmax(likeness))
    return at if at < len(heard) else at - n


def mos(material: Material, heard: np.ndarray) -> float:
    """Mean MOS-LQO (P.862 with P.862.1, narrow band) of the sentences in what was heard (8 kHz)."""
    try:
        from pesq import NoUtterancesError, pesq
    except ImportError:
        sys.exit("PESQ is not installed: pip install 'crosspoint-gateway[quality]'")
    scores = []
    for begin, end in material.spans:
        piece = material.narrow[int(8000 * begin) : int(8000 * end)]
        at = find(piece, heard)
        cut = heard[max(at, 0) : max(at, 0) + len(piece)]
        if len(cut) < len(piece) // 2:
            return 1.0
        try:
            scores.append(float(pesq(8000, piece, cut, "nb")))
        except NoUtterancesError:
            scores.append(1.0)
    return float(np.mean(scores))


def shifts(material: Material, heard: np.ndarray) -> list[int]:
    """By how many samples (8 kHz) each sentence comes later in `heard` than in the source."""
    found = []
    for begin, end in material.spans:
        at = int(8000 * begin)
        found.append(find(material.narrow[at : int(8000 * end)], heard) - at)
    return found
