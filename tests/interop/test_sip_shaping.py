"""Gains, automatic gain and noise gate of telephones, heard in a telephone that is not ours."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import numpy as np
import pytest

from gateway.testing.audio import level_at, read_wav, write_wav
from tests.interop.peers import box, phone
from tests.lines import at_level, dbm0, white

pytestmark = pytest.mark.interop

SITE = """
codecs = ["PCMU"]
digest = ["MD5"]
[adapters.sip.phones.bert]
password = "p"
number = "200"
gain_out_db = 3.0
[adapters.sip.phones.soft]
password = "p"
gain_in_db = -12.0
[adapters.sip.phones.far]
password = "p"
agc = { target_dbm0 = -18, release_ms = 200 }
[adapters.sip.phones.noisy]
password = "p"
gate = { dbm0 = -45 }
"""
SPEAKS = {"soft": -10.0, "far": -28.0, "noisy": -55.0}
"""dBm0; the last one noise, the others a tone."""


def usual(recording: Path, hz: float) -> float:
    """Median level of the tenths of a second: of a tone at its frequency, of noise as a whole."""
    (samples, *_), _ = read_wav(recording)
    half = samples[len(samples) // 3 :]
    parts = [half[n : n + 800] for n in range(0, len(half) - 800, 800)]
    assert len(parts) >= 5, f"{recording}: only {len(samples) / 8000:.2f} s"
    return float(np.median([level_at(part, hz) if hz else dbm0(np.array(part)) for part in parts]))


async def test_what_a_telephone_hears_of_others_that_are_shaped(tmp_path: Path) -> None:
    heard = {}
    async with contextlib.AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(box(SITE))
        bert = await stack.enter_async_context(phone(tmp_path, "bert", "p", gateway, hz=440))
        callers = {}
        for user, spoken in SPEAKS.items():
            one = phone(tmp_path, user, "p", gateway, hz=1000)
            pcm = white(30.0, spoken) if user == "noisy" else None
            if pcm is None:
                at = np.arange(30 * 8000)
                pcm = at_level(np.sin(2 * np.pi * 1000 * at / 8000), spoken)
            one.microphone = write_wav(tmp_path / f"{user}.wav", [int(each) for each in pcm])
            callers[user] = await stack.enter_async_context(one)
        await gateway.up("sip/bert", *(f"sip/{user}" for user in SPEAKS))
        for user, caller in callers.items():
            n = len(bert.events)
            await caller.dial(gateway.uri("200"))
            await bert.wait("CALL_INCOMING", skip=n)
            await bert.accept()
            await bert.wait("CALL_ESTABLISHED", skip=n)
            await asyncio.sleep(2.5)
            await caller.hang_up()
            await bert.wait("CALL_CLOSED", skip=n)
            heard[user] = usual(bert.heard(), 0.0 if user == "noisy" else 1000.0)
    # Bert's own 3 dB on top.
    assert heard["soft"] == pytest.approx(-10 - 12 + 3, abs=1.0)
    assert heard["far"] == pytest.approx(-18 + 3, abs=1.5)
    assert heard["noisy"] < -70
