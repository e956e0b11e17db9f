"""Stations of the call-point bus through a real gateway: who hears whom, each at its frequency."""

from __future__ import annotations

import array
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from gateway._codecs import g711
from gateway.core.events import FloorRequested, InputChanged, LegAnswered
from gateway.lab.intercom_bus import CallPoint, CallPointBus, tone
from gateway.testing.audio import write_wav
from tests.adapters.test_intercom import steady
from tests.interop.peers import ANNA, assert_hears, box, phone, until

pytestmark = pytest.mark.interop

PATIENT_S = 1.5
"""A stall of the test itself is not to make a station let go."""
STATION = """
[adapters.{name}]
kind = "intercom"
port = "{path}"
[adapters.{name}.stations.km3]
address = 3
number = "{number}"
calls = "{calls}"
duplex = "{duplex}"
"""


def loudspeaker(station: CallPoint, path: Path) -> Path:
    samples = array.array("h", g711.decode_ulaw(bytes(station.heard)))
    return write_wav(path, samples)


async def hears(station: CallPoint, since: int, *hz: float) -> list[float]:
    """Levels of these in the latest 0.8 s of its loudspeaker, once the first has been there so
    long; `since`: octets that it had heard before."""

    def levels() -> list[float]:
        latest = bytes(station.heard[since:][-6400:])
        return [steady(memoryview(g711.decode_ulaw(latest)).cast("h"), each) for each in hz]

    await until(lambda: len(station.heard) >= since + 6400 and levels()[0] > -12, f"{hz[0]} Hz")
    return levels()


async def test_a_telephone_and_a_call_point(tmp_path: Path) -> None:
    station = CallPoint(3, microphone=tone(700))
    async with CallPointBus(station, watchdog_s=PATIENT_S) as bus:
        more = STATION.format(
            name="tunnel", path=bus.path, number="103", calls="201", duplex="switched"
        )
        async with box(ANNA, more) as gateway:
            async with phone(tmp_path, "anna", "a1", gateway, hz=1000) as anna:
                await gateway.up("sip/anna", "tunnel/km3")
                # There and back: each calls the other once.
                await anna.dial(gateway.uri("103"))
                await until(lambda: station.state == "ringing", "it rings at the call point")
                station.answer()
                await anna.wait("CALL_ESTABLISHED")
                await asyncio.sleep(1.6)
                told = len(station.heard)
                skip = len(gateway.seen)
                station.press()
                await gateway.wait(InputChanged, skip=skip)
                await asyncio.sleep(2.5)
                station.release()
                await asyncio.sleep(0.1)
                station.hang_up()
                await anna.wait("CALL_CLOSED")
                heard = loudspeaker(station, tmp_path / "heard.wav")
                assert told > 9000
                assert_hears(heard, 1000, 700)
                assert_hears(anna.heard(), 700, 1000)

                station.call()
                await anna.wait("CALL_INCOMING")
                await anna.accept()
                await until(lambda: station.state == "talking", "it talks")
                await anna.hang_up()
                await until(lambda: station.state == "idle", "the call is over")
            legs = await gateway.legs(4)
    assert {leg.cause for leg in legs.values()} == {"normal"}
    assert legs["tunnel/km3#1"].direction == "out"
    assert legs["tunnel/km3#2"].direction == "in"


async def test_two_half_duplex_call_points_on_two_buses(tmp_path: Path) -> None:
    east, west = CallPoint(3, microphone=tone(700)), CallPoint(3, microphone=tone(1300))
    async with (
        CallPointBus(east, watchdog_s=PATIENT_S) as one,
        CallPointBus(west, watchdog_s=PATIENT_S) as two,
    ):
        more = STATION.format(
            name="east", path=one.path, number="103", calls="203", duplex="half"
        ) + STATION.format(name="west", path=two.path, number="203", calls="103", duplex="half")
        async with box(ANNA, more) as gateway:
            await gateway.up("east/km3", "west/km3")
            east.call()
            await until(lambda: west.state == "ringing", "it rings in the west")
            west.answer()
            await gateway.wait(LegAnswered, lambda event: event.leg == "east/km3#1")
            for speaker, listener, hz, not_hz in ((east, west, 700, 1300), (west, east, 1300, 700)):
                n_heard = len(speaker.heard)
                began = len(listener.heard)
                skip = len(gateway.seen)
                speaker.press()
                await gateway.wait(FloorRequested, skip=skip)
                levels = await hears(listener, began, hz, not_hz)
                speaker.release()
                await asyncio.sleep(0.2)
                assert len(speaker.heard) == n_heard, "the speaker hears itself"
                assert levels[0] == pytest.approx(-9.1, abs=1.5)
                assert levels[1] < -45
            west.hang_up()
            await until(lambda: east.state == "idle", "both have ended")
            await gateway.legs(2)


KILLED = """
[gateway]
name = "lab"
data_dir = "{home}/data"
[control]
socket = "{home}/s"
[media]
realtime = false
local_ip = "127.0.0.1"
[adapters.loopback.ports.echo]
number = "600"
"""


async def test_a_gateway_that_is_killed_leaves_nobody_connected(tmp_path: Path) -> None:
    station = CallPoint(3)
    home = Path(tempfile.mkdtemp(prefix="box-"))  # a socket's path may have 107 octets
    try:
        async with CallPointBus(station) as bus:
            (home / "gateway.toml").write_text(
                KILLED.format(home=home)
                + STATION.format(
                    name="tunnel", path=bus.path, number="103", calls="600", duplex="switched"
                )
            )
            daemon = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway", "--config", str(home / "gateway.toml"), "run",
                stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            try:
                await until(lambda: station.frames > 20, "the gateway polls", 20.0)
                station.call()
                await until(lambda: station.state == "talking", "the call is up")
                await asyncio.sleep(0.5)
            finally:
                daemon.kill()
                killed = asyncio.get_running_loop().time()
                await daemon.wait()
            await until(lambda: station.state == "idle", "the station lets go")
            assert station.released == 1
            assert station.released_at - killed < 2.0
    finally:
        shutil.rmtree(home)
