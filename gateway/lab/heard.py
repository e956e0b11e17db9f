"""What is heard somewhere in the lab, and what can be measured on it: 8 kHz, 16 bits, mono."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

from gateway._codecs import g711
from gateway.lab.intercom_bus import CallPoint
from gateway.lab.linecard import Outside
from gateway.lab.radio_module import RadioModule
from gateway.testing.audio import level, level_at

RATE: Final = 8000
_KEPT_OCTETS: Final = RATE * 2 * 60


class Ear(Protocol):
    """A place where one can listen."""

    async def begin(self) -> None:
        """What is heard from now on counts."""

    async def end(self) -> bytes:
        """The samples since `begin`."""


class Tape:
    """An ear that somebody feeds; it keeps the last minute."""

    def __init__(self) -> None:
        self._samples = bytearray()

    def feed(self, samples: bytes) -> None:
        """This is heard now."""
        self._samples += samples
        del self._samples[:-_KEPT_OCTETS]

    async def begin(self) -> None:
        self._samples.clear()

    async def end(self) -> bytes:
        return bytes(self._samples)


class LineEar:
    """The far end of an analog line: a telephone, or the exchange."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside

    async def begin(self) -> None:
        await self._outside.record()

    async def end(self) -> bytes:
        return await self._outside.recorded()


class StationEar:
    """The loudspeaker of an intercom station."""

    def __init__(self, station: CallPoint) -> None:
        self._station = station

    async def begin(self) -> None:
        self._station.heard.clear()

    async def end(self) -> bytes:
        return bytes(g711.decode_ulaw(bytes(self._station.heard)))


class MobileEar:
    """A telephone in the mobile network."""

    def __init__(self, module: RadioModule) -> None:
        self._module = module

    async def begin(self) -> None:
        self._module.heard.clear()

    async def end(self) -> bytes:
        return bytes(self._module.heard)


class Heard:
    """A recording and what can be measured on it."""

    def __init__(self, path: Path, samples: list[int]) -> None:
        self.path, self.samples = path, samples

    @property
    def level_dbm0(self) -> float:
        """Level of all of it."""
        return level(self.samples)

    def tone_dbm0(self, hz: float) -> float:
        """Level of one frequency in the loudest half second."""
        return loudest(self.samples, hz)


def loudest(samples: list[int], hz: float, *, rate: int = RATE) -> float:
    """Level of one frequency in the half second that has most of it, in dBm0."""
    half = rate // 2
    windows = [
        level_at(samples[at : at + half], hz, rate=rate)
        for at in range(0, max(1, len(samples) - half + 1), half // 2)
    ]
    return max(windows, default=-99.0)
