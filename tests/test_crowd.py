"""The judge of many calls hears who speaks, and whether anybody else does."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.bench.crowd import HZ, LEVEL_DBM0, RECORD, speech, wrong_voices
from tests.media.peers import g711_encode, sine

SECONDS = 3


def said(talker: int, codec: str) -> bytes:
    return speech(codec)[talker * 8000 : (talker + 1) * 8000] * SECONDS


def judged(
    folder: Path, heard: dict[int, bytes], codecs: tuple[str, str]
) -> tuple[int, int, float]:
    """Verdict on what legs heard, written as the generator writes it, in the order of arrival."""
    records = [
        (leg, (65500 + n) & 0xFFFF, 160, np.frombuffer(octets[at : at + 160], np.uint8))
        for leg, octets in heard.items()
        for n, at in enumerate(range(0, len(octets), 160))
    ]
    records[3], records[4] = records[4], records[3]
    np.array(records, RECORD).tofile(folder / "heard")
    return wrong_voices(folder / "heard", codecs)


@pytest.mark.parametrize("codec", ["PCMU", "PCMA", "G722"])
def test_own_far_ends_are_heard(tmp_path: Path, codec: str) -> None:
    if codec == "G722" and shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    heard = {leg: said(leg ^ 1, codec) for leg in (0, 1)}
    legs, wrong, loudest = judged(tmp_path, heard, (codec, codec))
    assert (legs, wrong) == (2, 0)
    assert loudest < -55


def test_another_call_is_noticed(tmp_path: Path) -> None:
    mixed = sum(
        sine(hz, SECONDS, level_dbm0=level).astype(int)
        for hz, level in ((HZ[3], LEVEL_DBM0), (HZ[9], -45.0))
    )
    heard = {
        0: said(1, "PCMU"),
        1: said(5, "PCMU"),
        2: g711_encode(mixed, 0),
        3: bytes(8000 * SECONDS),
    }
    legs, wrong, loudest = judged(tmp_path, heard, ("PCMU", "PCMU"))
    assert (legs, wrong) == (4, 3)
    assert loudest == pytest.approx(LEVEL_DBM0, abs=0.5)  # leg 1 hears another


def test_a_gap_is_no_wrong_voice(tmp_path: Path) -> None:
    octets = said(1, "PCMU")
    heard = {0: octets[:12000] + octets[12160:]}
    assert judged(tmp_path, heard, ("PCMU", "PCMU"))[:2] == (1, 0)
