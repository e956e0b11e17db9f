"""Line: one open serial line and the engine that drives it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.drivers.serial import SerialPort, Settings
from gateway.protocols.intercom.fields import Value
from gateway.protocols.intercom.link import Happening, Link

_LONGEST: Final = 4096
"""Octets of an unfinished answer that are remembered."""


class Line:
    """Carries octets and time to a `Link`; `happened` gets what comes of it.

    Driven by `open` and `close`; `lost` holds the reason once the line is gone.
    """

    def __init__(
        self,
        link: Link,
        now: Callable[[], float],
        happened: Callable[[Line, Happening], None],
        told: Callable[[bytes, bool], None],
    ) -> None:
        """told: octets as they went over the line, and whether we sent them; polls and speech only
        where something else than before comes back."""
        self.link = link
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._now, self._happened, self._told = now, happened, told
        self._port: SerialPort | None = None
        self._asked = b""
        self._came = bytearray()
        self._timer: asyncio.TimerHandle | None = None

    async def open(self, url: str, settings: Settings) -> None:
        """Open the port and begin. Raises `DeviceError`."""
        self._port = await SerialPort.open(url, settings, self._received, self.end)
        self._tell(self.link.start(self._now()))

    def request(self, name: str, station: str, values: dict[str, Value]) -> int:
        """Queue a command; its number. Raises `UsageError`."""
        number = self.link.request(name, station, self._now(), **values)
        self._kick()
        return number

    def speak(self, station: str, audio: bytes | None) -> bool:
        """Send 20 ms of speech, or ask for the station's; False when the last never got out."""
        in_time = self.link.speak(station, self._now(), audio)
        self._kick()
        return in_time

    def write_now(self, data: bytes) -> None:
        """Past all queues, for when there is no time left."""
        if self._port is not None:
            self._told(data, True)
            self._port.write(data)

    def end(self, why: str) -> None:
        """The line is of no more use."""
        if not self.lost.done():
            self.lost.set_result(why)

    def close(self) -> None:
        """Close the port; harmless twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        port, self._port = self._port, None
        if port is not None:
            port.close()

    def _received(self, data: bytes) -> None:
        if self._port is None:
            return
        happenings = self.link.receive(data, self._now())
        self._came += data
        self._note()
        self._tell(happenings)

    def _tick(self) -> None:
        self._timer = None
        if self._port is not None:
            happenings = self.link.advance(self._now())
            self._note()
            self._tell(happenings)

    def _note(self) -> None:
        """Tell what came, with the question before it, unless it is what comes all day."""
        if not self._came:
            return
        if not self.link.routine_in:
            if self._asked:
                self._told(self._asked, True)
            self._told(bytes(self._came), False)
        elif self.link.pending:
            del self._came[:-_LONGEST]
            return
        self._asked = b""
        self._came.clear()

    def _tell(self, happenings: list[Happening]) -> None:
        self._kick()
        for each in happenings:
            self._happened(self, each)

    def _kick(self) -> None:
        if self._port is None:
            return
        data = self.link.take()
        if data:
            # A line is polled for years: what changes nothing is not worth remembering.
            if self.link.routine_out:
                self._asked = data
            else:
                self._asked = b""
                self._told(data, True)
            self._port.write(data)
        if self._timer is not None:
            self._timer.cancel()
        wait = max(0.0, self.link.due() - self._now())
        self._timer = asyncio.get_running_loop().call_later(wait, self._tick)
