"""RTP to a station of the call-point bus."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from gateway.lab.intercom_bus import CallPoint, CallPointBus
from tests.interop.peers import until
from tests.quality.judge import PCMU, RATES
from tests.quality.networks import EXTENSIONS, Heard, play, site
from tests.quality.report import Report
from tests.quality.speech import Material

STATIONS = """
[adapters.intercom]
port = "{path}"
baud = 921600
[adapters.intercom.stations]
"""


class Station(CallPoint):
    """A station whose loudspeaker is listened to."""

    def __init__(self, address: int) -> None:
        super().__init__(address, True)
        self.number = f"1{address}"
        self.octets: list[bytes] = []
        self.listened = Heard()

    def play(self, audio: bytes) -> None:
        self.octets.append(audio)
        self.listened.add(np.zeros(len(audio), np.int16))


class Listener:
    """Somebody at a station."""

    def __init__(self, station: Station) -> None:
        self.station, self.number = station, station.number

    async def answer(self) -> None:
        """Press its button when it rings."""
        await until(lambda: self.station.state == "ringing", "it rings")
        self.station.answer()

    async def listen(self) -> None:
        """From now on."""
        self.station.octets.clear()
        self.station.listened.on = True

    async def heard(self) -> Heard:
        """Decoded by libavcodec, with the times at which the pieces came."""
        found = self.station.listened
        pcm = await asyncio.to_thread(PCMU.decode, b"".join(self.station.octets))
        ends = np.cumsum([len(piece) for piece in found.pieces])
        found.on = False
        found.pieces = np.split(pcm[: ends[-1]], ends[:-1]) if len(ends) else []
        return found

    async def hang_up(self) -> None:
        """End it."""
        self.station.hang_up()


async def measure(report: Report, home: Path, *, quick: bool = False) -> None:
    """A station for each weather, all on one bus."""
    material = Material(home)
    weathers = (RATES[0], RATES[2]) if quick else RATES
    stations = [Station(n + 1) for n in range(len(weathers))]
    async with CallPointBus(*stations) as bus:
        text = STATIONS.format(path=bus.path) + "".join(
            f'{s.number.replace("1", "s", 1)} = {{ address = {s.address}, number = "{s.number}", '
            'duplex = "full" }\n'
            for s in stations
        )
        async with site(home, text + EXTENSIONS) as (gateway, trunk):
            await gateway.up(*(f"intercom/s{s.address}" for s in stations))
            places = [(Listener(s), w) for s, w in zip(stations, weathers, strict=True)]
            await play(report, "intercom", "PCMU to a station", gateway, trunk, places, material,
                       None, home)  # fmt: skip
