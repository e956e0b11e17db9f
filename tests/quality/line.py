"""RTP to a telephone on the virtual line card."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gateway.lab import linecard
from gateway.lab.linecard import LineCard, Telephone
from tests.quality.judge import RATES, WEATHERS, Weather
from tests.quality.networks import EXTENSIONS, Heard, play, site, time
from tests.quality.report import Report
from tests.quality.speech import Material

PORT = """
[adapters.analog.ports.{n}]
kind = "fxs"
number = "1{n}"
caller_id = "off"
"""
SHAKEN = Weather(3, 40)


class Subscriber:
    """A telephone, and what is heard in its handset."""

    def __init__(self, card: LineCard, port: int) -> None:
        self.telephone: Telephone = card.telephone(port)
        self.number = f"1{port}"
        self._since = 0.0

    async def answer(self) -> None:
        """Lift it when it rings."""
        await self.telephone.wait_for("ringing", "on", within=10)
        await self.telephone.lift()

    async def listen(self) -> None:
        """Record."""
        await self.telephone.record()
        self._since = time.time()

    async def heard(self) -> Heard:
        """The recording, which began when the card had said so."""
        raw = await self.telephone.recorded()
        found = Heard()
        found.on = True
        found.add(np.frombuffer(raw[: len(raw) & ~1], np.int16), self._since)
        return found

    async def hang_up(self) -> None:
        """Put it down."""
        await self.telephone.hang_up()


async def measure(report: Report, home: Path, *, quick: bool = False) -> None:
    """A telephone for each weather."""
    if reason := linecard.why_not():
        report.say(f"not measured: {reason}")
        return
    material = Material(home)
    weathers = (RATES[0], RATES[2]) if quick else (*RATES, SHAKEN)
    assert SHAKEN in WEATHERS
    async with LineCard.start(fxs=len(weathers), fxo=0) as card:
        ports = "".join(PORT.format(n=n + 1) for n in range(len(weathers)))
        analog = f'[adapters.analog]\ndevice_dir = "{card.directory}"\n{ports}'
        async with site(home, analog + EXTENSIONS) as (gateway, trunk):
            await gateway.up(*(f"fxs/{n + 1}" for n in range(len(weathers))))
            places = [(Subscriber(card, n + 1), weather) for n, weather in enumerate(weathers)]
            await play(report, "line", "PCMU to a line", gateway, trunk, places, material, None,
                       home)  # fmt: skip
