"""Stand: the lab set up and running. What a person could do in it is a method.

Around the gateway, which runs as a process of its own as on any box: a virtual line card with two
telephones and an exchange line, a broker with an alarm panel, baresip as the outside caller, an
intercom bus with two stations, a radio, a module of a mobile network, a hall with a loudspeaker, a
cabinet with contacts and relays, and another PBX if pyVoIP is installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
from pathlib import Path
from string import Template
from typing import Any, Final

from gateway.client import lab_directory
from gateway.errors import DeviceError
from gateway.lab import intercom_bus
from gateway.lab import pbx as other_pbx
from gateway.lab.broker import Panel, broker
from gateway.lab.cabinet import Cabinet, cabinet
from gateway.lab.daemon import Daemon, daemon
from gateway.lab.hall import Hall, hall
from gateway.lab.heard import RATE, Ear, Heard, LineEar, MobileEar, StationEar
from gateway.lab.intercom_bus import CallPoint, CallPointBus
from gateway.lab.linecard import Exchange, LineCard, Outside, Telephone
from gateway.lab.pbx import Pbx
from gateway.lab.radio_module import RadioModule, delivered
from gateway.lab.softphone import Softphone, free_port
from gateway.lab.transceiver import VOICE_HZ, Transceiver
from gateway.protocols.modem import pdu
from gateway.testing.audio import read_wav, tone, write_wav

SITE: Final = Path(__file__).parents[2] / "hardware" / "lab"
PHONES: Final = (1, 2)
LINE: Final = 3
"""The FXO port."""
ACCOUNT: Final = "pyvoip/line"
SOFTPHONE_HZ: Final = 1000.0
"""The softphone's voice begins with this tone, so that its arrival can be measured."""
TELEPHONE_HZ: Final = 440.0
LINE_HZ: Final = 620.0
STATION_HZ: Final = {"gate": 700.0, "platform": 760.0}
MOBILE_HZ: Final = 900.0
BELL_HZ: Final = 560.0
# Everything around the gateway shares one thread here, which may be held up for longer than a
# station of its own would be.
_WATCHDOG_S: Final = 1.5


def directory() -> Path:
    """The lab's directory, the same for every command of this user.

    Raises `DeviceError` when somebody else made it: what lies in it is trusted.
    """
    place = Path(lab_directory())
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    if place.stat().st_uid != os.getuid():
        raise DeviceError(f"{place} belongs to somebody else; set CROSSPOINT_LAB to another place")
    return place


class Stand:
    """The running lab; an asynchronous context manager."""

    def __init__(self) -> None:
        self.directory = directory()
        self.socket = self.directory / "control.sock"
        self.addresses: dict[str, str] = {}
        """What is reachable where, for people."""
        self._stack = contextlib.AsyncExitStack()
        self.card: LineCard
        self.panel: Panel
        self.softphone: Softphone
        self.bus: CallPointBus
        self.stations: dict[str, CallPoint] = {}
        self.radio: Transceiver
        self.module: RadioModule
        self.hall: Hall
        self.cabinet: Cabinet
        self.pbx: Pbx | None = None
        self.no_pbx = other_pbx.why_not()
        """Why there is no other PBX."""
        self.gateway: Daemon
        self.sip_port = 0

    async def __aenter__(self) -> Stand:
        try:
            await self._set_up()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _set_up(self) -> None:
        enter = self._stack.enter_async_context
        for leftover in ("data", "softphone", "heard", "radio", "pbx"):
            shutil.rmtree(self.directory / leftover, ignore_errors=True)
        (self.directory / "heard").mkdir()
        sounds = self.directory / "sounds"
        sounds.mkdir(exist_ok=True)
        write_wav(sounds / "bell.wav", tone(BELL_HZ, 1.5, rate=RATE), rate=RATE)
        self.card = await enter(LineCard.start(fxs=len(PHONES), fxo=1))
        broker_port = await enter(broker())
        self.panel = await enter(Panel(broker_port))
        self.stations = {
            name: CallPoint(address, microphone=intercom_bus.tone(hz))
            for address, (name, hz) in enumerate(STATION_HZ.items(), 1)
        }
        self.bus = await enter(CallPointBus(*self.stations.values(), watchdog_s=_WATCHDOG_S))
        self.radio = await enter(Transceiver(self.directory / "radio"))
        self.module = await enter(RadioModule(hz=MOBILE_HZ))
        self.hall = await enter(hall())
        self.cabinet = await enter(cabinet())
        if not self.no_pbx:
            self.pbx = await enter(other_pbx.pbx(self.directory / "pbx"))
        self.sip_port = free_port(socket.SOCK_DGRAM)
        configuration = self._configuration(broker_port)
        log = self.directory / "gateway.log"
        self.gateway = await enter(
            daemon(configuration, self.socket, log, later=("sip/anna", ACCOUNT))
        )
        self.softphone = Softphone(
            account=f"<sip:anna@127.0.0.1:{self.sip_port}>;auth_pass=lab;regint=60;"
            "audio_codecs=PCMU/8000/1",
            microphone=await self._voice(sounds),
            directory=self.directory / "softphone",
        )
        await enter(self.softphone)
        await self.softphone.registered()
        if self.pbx is not None:
            await self.gateway.until_up(ACCOUNT)
        self._list_addresses(broker_port, configuration)

    def _configuration(self, broker_port: int) -> Path:
        template = (SITE / "gateway.toml").read_text()
        if self.pbx is not None:
            template += "\n" + (SITE / "account.toml").read_text()
        configuration = self.directory / "gateway.toml"
        configuration.write_text(
            Template(template).substitute(
                directory=self.directory,
                card=self.card.directory,
                sip=self.sip_port,
                broker=broker_port,
                bus=self.bus.path,
                at=self.module.path,
                pcm=self.module.pcm_path,
                rig=self.radio.rig_port,
                squelch=self.radio.squelch_path,
                receives=self.radio.receives_at,
                transmits=self.radio.transmits_at,
                group=f"{self.hall.group}:{self.hall.port}",
                cabinet=self.cabinet.port,
                pbx=self.pbx.port if self.pbx else 0,
            )
        )
        return configuration

    def _list_addresses(self, broker_port: int, configuration: Path) -> None:
        other = f"udp 127.0.0.1:{self.pbx.port} (user dora, password lab)" if self.pbx else ""
        self.addresses = {
            "SIP": f"udp and tcp 127.0.0.1:{self.sip_port} (user anna, password lab)",
            "line card": str(self.card.directory),
            "intercom bus": self.bus.path,
            "radio": f"rigctld 127.0.0.1:{self.radio.rig_port}, squelch {self.radio.squelch_path}",
            "radio module": f"AT {self.module.path}, PCM {self.module.pcm_path}",
            "hall": f"RTP to {self.hall.group}:{self.hall.port} on lo",
            "cabinet": f"Modbus TCP 127.0.0.1:{self.cabinet.port}",
            "MQTT broker": f"127.0.0.1:{broker_port}",
            "other PBX": other or f"none: {self.no_pbx}",
            "control": str(self.socket),
            "configuration": str(configuration),
            "recordings": str(self.directory / "heard"),
        }

    async def _voice(self, sounds: Path) -> Path:
        """What the softphone says: a tone to be measured, then words to be heard."""
        spoken: list[int] = []
        if shutil.which("espeak-ng") and shutil.which("sox"):
            words = "This is Anna on the softphone. If you can hear me, the call came through."
            raw, resampled = sounds / "anna-22k.wav", sounds / "anna-8k.wav"
            for command in (
                ("espeak-ng", "-w", str(raw), words),
                ("sox", str(raw), "-r", str(RATE), "-c", "1", "-b", "16", str(resampled)),
            ):
                process = await asyncio.create_subprocess_exec(*command)
                await process.wait()
            if resampled.exists():
                channels, _ = read_wav(resampled)
                spoken = list(channels[0])
        one = [*tone(SOFTPHONE_HZ, 4.0, rate=RATE), *spoken, *([0] * (RATE // 2))]
        return write_wav(sounds / "anna.wav", one * 10, rate=RATE)

    # What a person can do here

    async def ask(self, path: str, **query: Any) -> Any:
        """An answer of the gateway's control interface. Raises `CommandError`."""
        return await self.gateway.ask(path, **query)

    def phone(self, number: int) -> Telephone:
        """Telephone 1 or 2. Raises `DeviceError` for another."""
        if number not in PHONES:
            raise DeviceError(f"there is no telephone {number}: the lab has 1 and 2")
        return self.card.telephone(number)

    def station(self, name: str) -> CallPoint:
        """A station of the intercom. Raises `DeviceError` when there is none of that name."""
        if name not in self.stations:
            raise DeviceError(f"there is no station {name!r}: the lab has {', '.join(STATION_HZ)}")
        return self.stations[name]

    @property
    def line(self) -> Exchange:
        """The exchange's end of the outside line."""
        return self.card.exchange(LINE)

    async def call_in(self, number: str = "") -> None:
        """Let the exchange ring until it is answered; with a number it sends caller ID.

        Raises `TimeoutError` when the line does not take it.
        """
        if number:
            since = len(self.card.facts)
            await self.line.ring(count=1)
            await self.line.wait_for("rung", since=since)
            await asyncio.sleep(0.4)
            await self.line.send_caller_id(number)
        await self.line.ring(count=0)

    def mobile_calls(self, number: str = "") -> None:
        """Somebody in the mobile network calls. Raises `DeviceError`: there is a call already."""
        if self.module.call is not None:
            raise DeviceError("there is a call already")
        self.module.say(self.module.ring(number))

    def mobile_answers(self) -> None:
        """Whoever is called there answers. Raises `DeviceError`: nobody is called."""
        if self.module.call is None or self.module.call[0] == 1:
            raise DeviceError("nobody is called there")
        self.module.say(self.module.state(0))

    @property
    def mobile_state(self) -> str:
        """``idle``, ``talking``, ``calling`` (us) or ``dialled`` (by us)."""
        if self.module.call is None:
            return "idle"
        to_us, state, _ = self.module.call
        return "talking" if state == 0 else "calling" if to_us else "dialled"

    def mobile_hangs_up(self) -> None:
        """The telephone there hangs up."""
        self.module.call = None
        self.module.say(b"\r\nNO CARRIER\r\n")

    def mobile_writes(self, number: str, text: str) -> None:
        """Somebody there writes a text. Raises `UsageError`: no number, or too long a text."""
        parts = pdu.submitted(number, text, len(self.module.commands) % 256)
        self.module.say(self.module.deliver(*(delivered(each.hexadecimal) for each in parts)))

    def outside(self, place: str) -> Outside:
        """The far end of an analog line: ``1``, ``2`` or ``line``. Raises `DeviceError`."""
        if place == "line":
            return self.line
        if place.isdigit():
            return self.phone(int(place))
        raise DeviceError(f"{place!r} is not a telephone: write 1 or 2")

    def ear(self, place: str) -> Ear:
        """Where one can listen: a telephone, a station, ``line``, ``hall``, ``mobile`` or
        ``radio``.

        Raises `DeviceError`.
        """
        if place in self.stations:
            return StationEar(self.stations[place])
        if place == "hall":
            return self.hall.tape
        if place == "radio":
            return self.radio.tape
        if place == "mobile":
            return MobileEar(self.module)
        return LineEar(self.outside(place))

    async def listen(self, place: str, seconds: float, name: str) -> Heard:
        """Record what is heard in a place; written as a WAV file as well."""
        ear = self.ear(place)
        await ear.begin()
        await asyncio.sleep(seconds)
        raw = await ear.end()
        samples = list(memoryview(raw[: len(raw) & ~1]).cast("h"))
        path = write_wav(self.directory / "heard" / f"{name}.wav", samples, rate=RATE)
        return Heard(path, samples)

    async def talk(self, place: str, seconds: float) -> float:
        """Say the tone of a place for some time: a telephone, the outside line, a station with its
        talk key, the radio with its carrier; the frequency in Hz. Raises `DeviceError`."""
        if place == "radio":
            await self.radio.talk(seconds)
            return VOICE_HZ
        if place in self.stations:
            station = self.stations[place]
            station.press()
            try:
                await asyncio.sleep(seconds)
            finally:
                station.release()
            return STATION_HZ[place]
        hz = LINE_HZ if place == "line" else TELEPHONE_HZ
        outside = self.outside(place)
        await outside.tone(f"{hz:.0f}", -10.0)
        try:
            await asyncio.sleep(seconds)
        finally:
            await outside.stop()
        return hz

    async def bells(self) -> list[str]:
        """The next ten bells, as the gateway will ring them."""
        (place,) = await self.ask("/v1/endpoints", endpoint="page/bells")
        detail = place["detail"]
        return [detail[key] for key in sorted(detail) if key.startswith("next ")]

    async def ring_bell(self) -> None:
        """Press the push that rings the shift bell."""
        await self.cabinet.close("push")
        # As long as a finger stays there: a contact counts when it has not moved for 0.1 s.
        await asyncio.sleep(0.5)
        await self.cabinet.close("push", False)

    async def raise_alarm(self) -> None:
        """The panel reports a fire."""
        while not self.panel.acknowledged.empty():
            self.panel.acknowledged.get_nowait()
        self.panel.report("triggered")

    async def calm(self) -> None:
        """The panel is reset."""
        self.panel.report("disarmed")
