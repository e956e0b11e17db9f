"""The people of the matrix: one class for each network, with what a person can do there.

Each speaks a frequency of its own. What it hears is read while it is heard, so that a second of a
call can be measured in its middle.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import pty
import socket
import tty
from pathlib import Path
from typing import Any

from gateway._codecs import g711
from gateway.lab.intercom_bus import CallPoint
from gateway.lab.intercom_bus import tone as microphone_tone
from gateway.lab.linecard import Exchange, LineCard, Telephone
from gateway.lab.softphone import Softphone, free_port
from gateway.testing.audio import tone
from tests.interop.peers import until
from tests.interop.svxlink import Node, reflector

SPOKEN_S = 25
_RATE = 8000
_HEADER = 44
"""Of a WAV file."""


class Party:
    """Somebody at an endpoint of the gateway. What is common to all networks."""

    half = False
    """Has to be keyed: hears and speaks in turns."""

    def __init__(self, network: str, endpoint: str, number: str, hz: float) -> None:
        self.network, self.endpoint, self.number, self.hz = network, endpoint, number, hz

    def prepare(self) -> None:
        """A call comes or goes next: what was before does not count."""

    async def call(self, number: str) -> None:
        """Call somebody."""
        raise NotImplementedError

    async def answer(self) -> None:
        """Wait until it rings, and answer."""
        raise NotImplementedError

    async def speak(self) -> None:
        """Say the own frequency from now on."""

    async def press(self, digits: str) -> None:
        """Press keys."""
        raise NotImplementedError

    async def listen(self) -> None:
        """What is heard from now on counts."""
        raise NotImplementedError

    async def heard(self) -> list[int]:
        """What was heard since `listen`: 8 kHz, 16 bits."""
        raise NotImplementedError

    async def hang_up(self) -> None:
        """End the call."""
        raise NotImplementedError

    async def rest(self) -> None:
        """The call is over: be ready for the next."""

    async def cut_off(self) -> None:
        """The call was ended for a more urgent one, which comes at once."""
        await self.rest()


class SipPhone(Party):
    """baresip; `prefix` and `at` make a URI of a number."""

    def __init__(self, network: str, endpoint: str, number: str, hz: float, *, phone: Softphone,
                 at: str, prefix: str = "") -> None:  # fmt: skip
        super().__init__(network, endpoint, number, hz)
        self.phone, self._at, self._prefix = phone, at, prefix
        self._seen = 0
        self._from = 0

    def prepare(self) -> None:
        self._seen = len(self.phone.events)

    async def call(self, number: str) -> None:
        await self.phone.dial(f"sip:{self._prefix}{number}@{self._at}")

    async def answer(self) -> None:
        await self.phone.wait("CALL_INCOMING", skip=self._seen)
        await self.phone.accept()
        await self.phone.wait("CALL_ESTABLISHED", skip=self._seen)

    async def press(self, digits: str) -> None:
        await self.phone.press(digits)

    def _file(self) -> Path:
        # The recording is written as it is heard; its header is put right at the end.
        return self.phone.heard()

    async def listen(self) -> None:
        await until(lambda: any(self.phone.heard_directory.glob("dump-*-dec.wav")), "a recording")
        self._from = max(_HEADER, self._file().stat().st_size)

    async def heard(self) -> list[int]:
        data = self._file().read_bytes()[self._from :]
        return list(array.array("h", data[: len(data) & ~1]))

    async def hang_up(self) -> None:
        await self.phone.hang_up()

    async def rest(self) -> None:
        await self.phone.wait("CALL_CLOSED", skip=self._seen)


class _OnCard(Party):
    """At the far end of an analog line."""

    def __init__(self, network: str, endpoint: str, number: str, hz: float, *, card: LineCard,
                 line: Telephone | Exchange) -> None:  # fmt: skip
        super().__init__(network, endpoint, number, hz)
        self.card, self._outside = card, line
        self._since = 0
        # Made beforehand: the people share a thread with the gateway, which must not wait.
        self._voice = tone(hz, 1.0).tobytes() * SPOKEN_S

    def prepare(self) -> None:
        self._since = len(self.card.facts)

    async def speak(self) -> None:
        await self._outside.say(self._voice)

    async def press(self, digits: str) -> None:
        await self._outside.stop()
        await self._outside.dial_dtmf(digits)
        await self.speak()

    async def listen(self) -> None:
        await self._outside.record()

    async def heard(self) -> list[int]:
        raw = await self._outside.recorded()
        return list(array.array("h", raw[: len(raw) & ~1]))


class Handset(_OnCard):
    """A telephone at an FXS port."""

    def __init__(self, endpoint: str, number: str, hz: float, card: LineCard, port: int) -> None:
        self.telephone = card.telephone(port)
        super().__init__("fxs", endpoint, number, hz, card=card, line=self.telephone)

    async def call(self, number: str) -> None:
        await self.telephone.lift()
        await asyncio.sleep(0.3)
        await self.telephone.dial_dtmf(number)

    async def answer(self) -> None:
        await self.telephone.wait_for("ringing", "on", since=self._since, within=10)
        await self.telephone.lift()

    async def hang_up(self) -> None:
        await self.telephone.hang_up()

    async def rest(self) -> None:
        await self.telephone.hang_up()
        await asyncio.sleep(0.8)


class OutsideLine(_OnCard):
    """A subscriber of the telephone company, behind FXO ports.

    A line has no dial: whom the company's call reaches depends on the line that rings.
    """

    def __init__(self, endpoint: str, number: str, hz: float, card: LineCard, port: int) -> None:
        self.exchange = card.exchange(port)
        super().__init__("fxo", endpoint, number, hz, card=card, line=self.exchange)

    async def call(self, number: str) -> None:
        await self.exchange.ring((800, 1200))

    async def answer(self) -> None:
        await self.exchange.wait_for("seized", since=self._since, within=10)
        # The last digit, not how many: a block that a busy machine loses makes two of one.
        await self.exchange.wait_for("digit", "8", since=self._since, within=10)
        await asyncio.sleep(0.2)
        await self.exchange.battery("reversed")

    async def cut_off(self) -> None:
        await self.exchange.stop()
        fact = await self.exchange.wait_for("released", since=self._since, within=5)
        # The urgent call has a release of its own.
        self._since = self.card.facts.index(fact) + 1
        await self.exchange.battery("on")

    async def hang_up(self) -> None:
        await self.exchange.stop()
        await self.exchange.drop(500)

    async def rest(self) -> None:
        await self.exchange.stop()
        await self.exchange.stop_ring()
        await self.exchange.wait_for("released", since=self._since, within=5)
        await asyncio.sleep(0.6)
        await self.exchange.battery("on")
        await asyncio.sleep(0.5)


class CallPointUser(Party):
    """A station of the call-point bus."""

    def __init__(self, endpoint: str, number: str, hz: float, station: CallPoint) -> None:
        super().__init__("intercom", endpoint, number, hz)
        self.station = station
        station.microphone = microphone_tone(hz)
        self._from = 0

    async def call(self, number: str) -> None:
        self.station.call(number)

    async def answer(self) -> None:
        await until(lambda: self.station.state == "ringing", f"{self.endpoint} rings")
        self.station.answer()

    async def press(self, digits: str) -> None:
        for digit in digits:
            self.station.digit(digit)
            await asyncio.sleep(0.1)

    async def listen(self) -> None:
        self._from = len(self.station.heard)

    async def heard(self) -> list[int]:
        samples = g711.decode_ulaw(bytes(self.station.heard[self._from :]))
        return list(array.array("h", samples))

    async def hang_up(self) -> None:
        self.station.hang_up()

    async def rest(self) -> None:
        await until(lambda: self.station.state == "idle", f"{self.endpoint} is idle")

    async def cut_off(self) -> None:
        await until(lambda: self.station.state != "talking", f"{self.endpoint} is cut off")


class OnTheAir(Party):
    """Somebody with a radio."""

    half = True
    keyed: bool
    """Whether the gateway's side transmits."""
    received: bytearray
    """What was transmitted: 16 kHz, 16 bits."""
    config: dict[str, Any]
    """Its part of ``radios``."""

    def __init__(self, endpoint: str, number: str, hz: float) -> None:
        super().__init__("radio", endpoint, number, hz)
        self._from = 0

    async def be_quiet(self) -> None:
        """Let go of the talk key."""
        raise NotImplementedError

    async def call(self, number: str) -> None:
        await self.speak()

    async def answer(self) -> None:
        """A radio is connected by itself."""

    async def listen(self) -> None:
        self._from = len(self.received)

    async def heard(self) -> list[int]:
        data = bytes(self.received[self._from :])
        # Every second sample: nothing in a test is above 4 kHz.
        return list(array.array("h", data[: len(data) & ~3]))[::2]

    async def hang_up(self) -> None:
        """There is no hook: silence ends a call that began on the air."""
        await self.be_quiet()

    async def rest(self) -> None:
        await self.be_quiet()
        await until(lambda: not self.keyed, f"{self.endpoint} is released")
        await asyncio.sleep(0.4)

    async def cut_off(self) -> None:
        """Who is on the air only hears something else."""


class NodeUser(OnTheAir):
    """Somebody near a node of SvxLink: its receiver, squelch, transmitter and key."""

    def __init__(self, endpoint: str, number: str, hz: float, node: Node) -> None:
        super().__init__(endpoint, number, hz)
        self.node = node

    @property
    def keyed(self) -> bool:
        return self.node.keyed

    @property
    def received(self) -> bytearray:
        return self.node.heard

    @property
    def config(self) -> dict[str, Any]:
        return {"reflector": reflector(self.node)}

    async def speak(self) -> None:
        self.node.tone_hz = self.hz
        self.node.squelch(True)

    async def be_quiet(self) -> None:
        self.node.tone_hz = 0.0
        self.node.squelch(False)


class TransceiverUser(OnTheAir):
    """Somebody with a radio, and the transceiver at the gateway: key and carrier on
    pseudo-terminals, audio on UDP (16 kHz)."""

    def __init__(self, endpoint: str, number: str, hz: float) -> None:
        super().__init__(endpoint, number, hz)
        self.received = bytearray()
        self.keyed = self.speaking = self.closed = False
        self.key, self.carrier = pty.openpty(), pty.openpty()
        for pair in (self.key, self.carrier):
            tty.setraw(pair[1])
            os.set_blocking(pair[0], False)
        self._audio = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._audio.bind(("127.0.0.1", 0))
        self._audio.setblocking(False)
        self.port = free_port(socket.SOCK_DGRAM)
        self._second = tone(hz, 1.0, rate=16000).tobytes()

    @property
    def config(self) -> dict[str, Any]:
        return {
            "key": {"by": "pty", "path": os.ttyname(self.key[1])},
            "carrier": {"by": "pty", "path": os.ttyname(self.carrier[1])},
            "audio": {
                "by": "udp",
                "listen": f"127.0.0.1:{self.port}",
                "send": f"127.0.0.1:{self._audio.getsockname()[1]}",
                "idle_silence": False,
            },
        }

    async def air(self) -> None:
        """What the air does, until cancelled or closed."""
        loop = asyncio.get_running_loop()
        due, n = loop.time(), 0
        while not self.closed:
            with contextlib.suppress(BlockingIOError):
                self.keyed = os.read(self.key[0], 100).endswith(b"O")
            with contextlib.suppress(BlockingIOError):
                while True:
                    self.received += self._audio.recv(65536)
            if self.speaking:
                piece = self._second[640 * (n % 50) :][:640]
                self._audio.sendto(piece, ("127.0.0.1", self.port))
                n += 1
            due = max(due + 0.02, loop.time() - 0.1)
            await asyncio.sleep(due - loop.time())

    def close(self) -> None:
        """Pull everything out, if that has not been done."""
        if self.closed:
            return
        self.closed = True
        for fd in (*self.key, *self.carrier):
            os.close(fd)
        self._audio.close()

    async def speak(self) -> None:
        self.speaking = True
        os.write(self.carrier[0], b"T")

    async def be_quiet(self) -> None:
        self.speaking = False
        os.write(self.carrier[0], b"R")
