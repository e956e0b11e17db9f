"""The analog adapter on the real kernel driver: run in the guest (tests/guest), skipped elsewhere.

Channels 1 and 5 are an FXS and an FXO port, cabled inside the kernel: the adapter calls itself.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.adapters.analog import Analog
from gateway.core.actions import Answer, Hangup, Ring, SendDigits
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition
from gateway.core.events import (
    DigitPressed,
    LegAnswered,
    LegEnded,
    LegFlashed,
    LegOffered,
    LegProgressed,
    LegRinging,
)
from gateway.media.engine import Engine
from gateway.testing import TestHost
from gateway.testing.audio import level_at, read_wav

pytestmark = pytest.mark.skipif(
    not os.path.exists("/sys/module/dahdi"), reason="the dahdi kernel module is not loaded"
)

PORTS = {
    "1": {"kind": "fxs", "ring_ms": [600, 2600]},
    "5": {
        "kind": "fxo",
        "caller_id_window_s": 2.3,
        "ring_timeout_s": 3.0,
        "answer": ["timer"],
        "answer_timer_s": 0.5,
        "guard_s": 0.5,
    },
}


@pytest.fixture
async def host() -> AsyncIterator[TestHost]:
    engine = Engine(max_streams=8, ports=(31400, 31499), realtime=True)
    await engine.start()
    made = TestHost("analog", engine=engine)
    made.make(Analog, {"ports": PORTS})
    async with made.running():
        yield made
    assert made.refused == []
    await engine.stop()


async def hears(host: TestHost, listener: str, speaker: str, tone: str, path: Path) -> float:
    """Level of the tone's first frequency at the other end."""
    host.stream(listener).record(str(path), both=False)
    host.stream(speaker).play_tone(tone)
    await asyncio.sleep(1.0)
    host.stream(listener).stop_record()
    host.stream(speaker).stop_play()
    await host.recorded(path)
    (samples, *_), _ = read_wav(path)
    hz = {"dial": 350, "ringback": 480}[tone]
    return max(level_at(samples[n : n + 1600], hz) for n in range(0, len(samples) - 1600, 400))


async def test_a_day_of_a_line(host: TestHost, tmp_path: Path) -> None:
    adapter = host.adapter
    assert {place.condition for place in host.endpoints.values()} == {Condition.UP}
    assert host.endpoints["fxo/5"].detail["port"] == "channel 5, FXO port, signalled fxs_ks"
    await asyncio.sleep(2.1)  # the driver reports no ringing so soon after opening

    # The FXS port rings the FXO port, with caller ID. A translated guest loses a block of audio now
    # and then, and with it the message: then the caller tries again.
    for attempt in (1, 2, 3):
        fxs = host.dial("fxs/1", calling="5551234567", display="GATEWAY TEST")
        await host.wait_for(LegRinging, leg=fxs)
        offered = await host.wait_for(LegOffered, endpoint="fxo/5", count=attempt, within_s=30)
        if offered.calling:
            break
        adapter.hangup(Hangup(leg=fxs, cause=Cause.CANCELLED))
        ended = await host.wait_for(LegEnded, leg=offered.leg, within_s=30)
        assert (ended.cause, ended.detail) == (Cause.CANCELLED, "ring stopped")
    assert (offered.calling, offered.display) == ("5551234567", "GATEWAY TEST")
    fxo = offered.leg
    adapter.answer(Answer(leg=fxo))
    await host.wait_for(LegAnswered, leg=fxo)
    await host.wait_for(LegAnswered, leg=fxs)
    await asyncio.sleep(0.7)  # the driver's own settling
    assert await hears(host, fxo, fxs, "dial", tmp_path / "fxo.wav") > -16
    assert await hears(host, fxs, fxo, "ringback", tmp_path / "fxs.wav") > -16
    adapter.send_digits(SendDigits(leg=fxo, digits="7"))
    await host.wait_for(DigitPressed, leg=fxs, digit="7")
    adapter.send_digits(SendDigits(leg=fxo, digits="!"))
    await host.wait_for(LegFlashed, leg=fxs)
    await asyncio.sleep(0.5)
    adapter.hangup(Hangup(leg=fxo))
    ended = await host.wait_for(LegEnded, leg=fxs)
    assert (ended.cause, ended.detail) == (Cause.NORMAL, "on hook")

    # The FXO port calls through the FXS port: dial tone, DTMF, answer, battery drop.
    await asyncio.sleep(0.5)
    fxo = host.dial("fxo/5", "123")
    offered = await host.wait_for(LegOffered, endpoint="fxs/1", within_s=30)
    assert offered.called == "123"
    await host.wait_for(LegProgressed, leg=fxo)
    adapter.ring(Ring(leg=offered.leg))
    adapter.answer(Answer(leg=offered.leg))
    await host.wait_for(LegAnswered, leg=offered.leg)
    await host.wait_for(LegAnswered, leg=fxo)
    await asyncio.sleep(0.7)
    adapter.hangup(Hangup(leg=offered.leg))
    ended = await host.wait_for(LegEnded, leg=fxo)
    assert (ended.cause, ended.detail) == (Cause.NORMAL, "cpc")
    await asyncio.sleep(2.0)
    assert host.legs == []
