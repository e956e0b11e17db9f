"""Digits: the corpus and talk-off, our receiver beside spandsp's."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from tests._codecs.conftest import CORPORA, read_wav
from tests._codecs.test_dtmf import digits, distance, spandsp_digits
from tests.quality.report import Report
from tests.quality.speech import talk_off


async def measure(report: Report, home: Path, *, quick: bool = False) -> None:
    """Errors (digits missing, wrong or too many) of each file; false digits in speech."""
    folder = CORPORA / "dtmf"
    if folder.is_dir():
        for line in (folder / "manifest.tsv").read_text().splitlines():
            name, expected, _ = line.split("\t")
            pcm = read_wav(folder / name)
            theirs = spandsp_digits(pcm)
            errors = distance(digits(pcm), expected)
            row = {
                "file": name, "digits": len(expected), "errors": errors,
                "spandsp": None if theirs is None else distance(theirs, expected),
            }  # fmt: skip
            limit = row["spandsp"] if isinstance(row["spandsp"], int) else 0
            report.add("dtmf", row, [("no worse than spandsp", errors <= limit)])
    else:
        report.say(f"there is no {folder}: set CROSSPOINT_CORPORA for the corpus of digits")
    for voice, pcm in await asyncio.to_thread(talk_off, home):
        # As it comes, and louder and quieter: a receiver's thresholds are absolute.
        for gain_db in (0,) if quick else (0, -12, 6):
            scaled = pcm.astype(float) * 10 ** (gain_db / 20)
            octets = np.clip(scaled, -32768, 32767).astype(np.int16).tobytes()
            ours, theirs = digits(octets), spandsp_digits(octets)
            row = {
                "file": f"{voice}{gain_db:+d} dB" if gain_db else voice,
                "seconds": round(len(pcm) / 8000), "false digits": len(ours),
                "spandsp": None if theirs is None else len(theirs),
            }  # fmt: skip
            report.add("talk-off", row, [("no false digit", not ours)])
