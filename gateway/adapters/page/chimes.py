"""Chimes: what a zone hears before a page, by name, by script or from a file.

A script is steps separated by commas: ``880/300`` is 880 Hz for 300 ms, ``440+554/500`` two
frequencies, ``500>1200/3500`` a sweep, ``0/200`` silence, ``@-6`` behind a step its level in dBm0
(-10 if not given), ``~`` behind it: dies away like a bell.
"""

from __future__ import annotations

import array
import math
import re
from pathlib import Path
from typing import Final

RATE: Final = 16000
"""Hz of what is made."""
NAMES: Final = {
    "gong": "392+784/1600@-8~",
    "two_tone": "659/700@-8~,523/1300@-8~",
    "three_tone": "523/600@-8~,659/600@-8~,784/1300@-8~",
    "attention": "1000/500,0/250,1000/500,0/250",
    "general_alarm": "1000/1000@-5,0/1000,1000/1000@-5,0/1000,1000/1000@-5,0/1000",
    "evacuation": "500>1200/3500@-5,0/500,500>1200/3500@-5,0/500",
}
MAXIMUM_S: Final = 30.0
_STEP: Final = re.compile(
    r"(?P<f>\d+(?:\.\d+)?)(?:(?P<how>[+>])(?P<g>\d+(?:\.\d+)?))?/(?P<ms>\d+)"
    r"(?:@(?P<level>-?\d+(?:\.\d+)?))?(?P<bell>~?)\Z"
)
_RAMP_S: Final = 0.004
_FULL_SCALE_DBM0: Final = 3.14


def is_file(chime: str) -> bool:
    """Whether the chime is a WAV file."""
    return chime.lower().endswith(".wav")


def check(chime: str) -> None:
    """Raises `ValueError` saying what is wrong with it; an empty one is none."""
    if is_file(chime):
        if not Path(chime).is_absolute():
            raise ValueError(f"chime {chime!r}: write the whole path, beginning with /")
    elif chime:
        _steps(chime)


def _steps(chime: str) -> list[re.Match[str]]:
    found = []
    for text in NAMES.get(chime, chime).split(","):
        step = _STEP.match(text.strip())
        if step is None or any(float(step[f] or 0) > RATE / 2 - 500 for f in ("f", "g")):
            raise ValueError(
                f"chime {chime!r}: none of {', '.join(NAMES)}, no .wav file, and {text!r} is no "
                "step like 880/300"
            )
        found.append(step)
    seconds = sum(int(step["ms"]) for step in found) / 1000
    if not 0 < seconds <= MAXIMUM_S:
        raise ValueError(f"chime {chime!r} lasts {seconds:g} s; at most {MAXIMUM_S:g}")
    return found


def render(chime: str) -> bytes:
    """Signed 16-bit mono samples at `RATE` of a name or script. Raises `ValueError`."""
    samples = array.array("h")
    for step in _steps(chime):
        seconds = int(step["ms"]) / 1000
        n_samples = round(seconds * RATE)
        f, g = float(step["f"]), float(step["g"] or 0)
        tones = [(f, f)] if not g else [(f, f), (g, g)] if step["how"] == "+" else [(f, g)]
        if not f:
            samples.extend([0] * n_samples)
            continue
        level = float(step["level"] or -10) - 3.01 * (len(tones) - 1)
        peak = min(32767 * 10 ** ((level - _FULL_SCALE_DBM0) / 20), 32767 / len(tones))
        for n in range(n_samples):
            t = n / RATE
            # Without a ramp each step begins and ends with a click.
            shape = min(1.0, t / _RAMP_S, (n_samples - n) / RATE / _RAMP_S)
            if step["bell"]:
                shape *= math.exp(-4.0 * t / seconds)
            value = sum(
                math.sin(math.tau * (a * t + (b - a) * t * t / (2 * seconds))) for a, b in tones
            )
            samples.append(round(peak * shape * value))
    return samples.tobytes()
