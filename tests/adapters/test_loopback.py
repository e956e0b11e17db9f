"""Loopback keeps every promise, and its audio is what it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from gateway.adapters.loopback import Loopback
from gateway.core.actions import Answer, Hangup, SendDigits
from gateway.core.causes import Cause
from gateway.core.events import LegAnswered, LegEnded, LegOffered
from gateway.media.engine import Engine
from gateway.testing import PROMISES, Scenario, TestHost, check_adapter
from gateway.testing.audio import read_wav, steady_level_at, tone, write_wav
from gateway.testing.clock import run_turned

CONFIG = {"ports": {"echo": {}, "tone": {"tone_hz": 440}, "busy": {"busy": True}}}


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    made = Engine(max_streams=8, ports=(31000, 31099), realtime=False)
    await made.start()
    yield made
    await made.stop()


async def test_promises(engine: Engine) -> None:
    scenario = Scenario(
        dial="loopback/echo",
        offer=lambda adapter, _: adapter.call("tone", "600") and None,
        answer=lambda adapter, _: None,
        engine=engine,
    )
    report = await check_adapter(Loopback, CONFIG, scenario)
    # There is no outside that could send garbage.
    assert set(report.kept) == set(PROMISES) - {"A14"}


async def test_the_tone_is_heard_and_the_echo_comes_back(engine: Engine, tmp_path: Path) -> None:
    host = TestHost("loopback", engine=engine)
    host.make(Loopback, CONFIG)
    spoken = write_wav(tmp_path / "spoken.wav", tone(1000, 2.0, dbm0=-12))
    async with host.running():
        legs = {name: host.dial(f"loopback/{name}") for name in ("tone", "echo")}
        for name, leg in legs.items():
            await host.wait_for(LegAnswered, leg=leg)
            host.stream(leg).record(str(tmp_path / f"{name}.wav"))
        host.stream(legs["echo"]).play_file(str(spoken))
        await asyncio.sleep(1.2)
        for name, leg in legs.items():
            host.stream(leg).stop_record()
            await host.recorded(tmp_path / f"{name}.wav")
    heard = {name: read_wav(tmp_path / f"{name}.wav")[0][0][1600:8000] for name in legs}
    # 8000 of 32767 at the peak is 9.1 dB below what full scale is, 3.14 dBm0.
    assert steady_level_at(heard["tone"], 440) == pytest.approx(-9.1, abs=0.3)
    assert steady_level_at(heard["echo"], 1000) == pytest.approx(-12.0, abs=0.5)
    assert steady_level_at(heard["echo"], 440) < -50
    # Nothing but the tone: a sine of 440 Hz is 2 cos(w) times what was a sample ago, less what was
    # two ago. Half the samples are within the rounding of it however often a block was late.
    now = np.array(heard["tone"], float)
    off = now[2:] - 2 * np.cos(2 * np.pi * 440 / 8000) * now[1:-1] + now[:-2]
    assert np.median(np.abs(off)) < 3


def test_ringing_talking_and_calling_take_the_time_that_is_configured() -> None:
    async def main() -> None:
        host = TestHost("loopback")
        adapter = host.make(
            Loopback,
            {
                "ports": {
                    "slow": {"answer_s": 7.0, "talk_s": 20.0},
                    "probe": {"calls": "600", "every_s": 30.0, "talk_s": 5.0, "number": "1"},
                }
            },
        )
        async with host.running():
            begin = host.now()
            leg = host.dial("loopback/slow")
            offered = await host.wait_for(LegOffered)
            assert (offered.called, offered.calling, offered.demanded_at) == ("600", "1", begin)
            adapter.answer(Answer(leg=offered.leg))
            adapter.answer(Answer(leg=offered.leg))
            await host.wait_for(LegEnded, leg=offered.leg, within_s=100)
            assert host.now() - begin == pytest.approx(5.0, abs=0.1)
            await host.wait_for(LegAnswered, leg=leg, within_s=100)
            assert host.now() - begin == pytest.approx(7.0, abs=0.1)
            await host.wait_for(LegEnded, leg=leg, within_s=100)
            assert host.now() - begin == pytest.approx(27.0, abs=0.1)
            await host.wait_for(LegOffered, count=2, within_s=100)
            assert host.now() - begin == pytest.approx(30.0, abs=0.1)
        assert host.refused == []

    run_turned(main())


async def test_busy() -> None:
    host = TestHost("loopback")
    adapter = host.make(Loopback, CONFIG)
    async with host.running():
        for endpoint in ("loopback/busy", "loopback/echo", "loopback/echo"):
            leg = host.dial(endpoint)
        assert host.of(LegEnded, leg="loopback/busy#1")[0].cause is Cause.BUSY
        assert host.of(LegEnded, leg=leg)[0].cause is Cause.BUSY
        adapter.send_digits(SendDigits(leg="loopback/echo#1", digits="12"))
        assert host.counters["digits"] == 2
        adapter.hangup(Hangup(leg="loopback/echo#1"))
        assert host.legs == []


async def test_without_a_free_stream_the_leg_ends_and_the_adapter_lives() -> None:
    host = TestHost("loopback", engine=Engine(max_streams=1, ports=(31100, 31101), realtime=False))
    host.make(Loopback, CONFIG)
    await host.engine.start()  # type: ignore[attr-defined]
    try:
        async with host.running():
            first, second = host.dial("loopback/tone"), host.dial("loopback/echo")
            await host.wait_for(LegAnswered, leg=first)
            ended = await host.wait_for(LegEnded, leg=second)
            assert ended.cause is Cause.RESOURCE_UNAVAILABLE
            assert host.legs == [first]
    finally:
        await host.engine.stop()  # type: ignore[attr-defined]
