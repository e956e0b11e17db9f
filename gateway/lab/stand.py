"""Stand: the lab set up and running. What a person could do in it is a method.

Around the gateway, which runs as a process of its own as on any box: a virtual line card with two
telephones and an exchange line, a broker with an alarm panel, and baresip as the outside caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from string import Template
from typing import Any, Final

from gateway.client import Client, CommandError, lab_directory
from gateway.errors import DeviceError
from gateway.lab.broker import Panel, broker
from gateway.lab.linecard import Exchange, LineCard, Telephone
from gateway.lab.softphone import Softphone, free_port
from gateway.testing.audio import level, level_at, read_wav, tone, write_wav

TEMPLATE: Final = Path(__file__).parents[2] / "hardware" / "lab" / "gateway.toml"
PHONES: Final = (1, 2)
LINE: Final = 3
"""The FXO port."""
_START_S: Final = 20.0
_RATE: Final = 8000
SOFTPHONE_HZ: Final = 1000.0
"""The softphone's voice begins with this tone, so that its arrival can be measured."""


def directory() -> Path:
    """The lab's directory, the same for every command of this user.

    Raises `DeviceError` when somebody else made it: what lies in it is trusted.
    """
    place = lab_directory()
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
        for leftover in ("data", "softphone", "heard"):
            shutil.rmtree(self.directory / leftover, ignore_errors=True)
        (self.directory / "heard").mkdir()
        sounds = self.directory / "sounds"
        sounds.mkdir(exist_ok=True)
        self.card = await enter(LineCard.start(fxs=len(PHONES), fxo=1))
        broker_port = await enter(broker())
        self.panel = await enter(Panel(broker_port))
        self.sip_port = free_port(socket.SOCK_DGRAM)
        configuration = self.directory / "gateway.toml"
        configuration.write_text(
            Template(TEMPLATE.read_text()).substitute(
                directory=self.directory,
                card=self.card.directory,
                sip=self.sip_port,
                broker=broker_port,
            )
        )
        await enter(self._daemon(configuration))
        voice = await self._voice(sounds)
        self.softphone = Softphone(
            account=f"<sip:anna@127.0.0.1:{self.sip_port}>;auth_pass=lab;regint=60;"
            "audio_codecs=PCMU/8000/1",
            microphone=voice,
            directory=self.directory / "softphone",
        )
        await enter(self.softphone)
        await self.softphone.registered()
        self.addresses = {
            "SIP": f"udp and tcp 127.0.0.1:{self.sip_port} (user anna, password lab)",
            "MQTT broker": f"127.0.0.1:{broker_port}",
            "line card": str(self.card.directory),
            "control": str(self.socket),
            "configuration": str(configuration),
            "recordings": str(self.directory / "heard"),
        }

    @contextlib.asynccontextmanager
    async def _daemon(self, configuration: Path) -> AsyncIterator[None]:
        with (self.directory / "gateway.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway", "--config", str(configuration), "run",
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            await self._until_up(process)
            yield
        finally:
            if process.returncode is None:
                process.terminate()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), 10.0)
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def _until_up(self, process: asyncio.subprocess.Process) -> None:
        deadline = time.monotonic() + _START_S
        while True:
            with contextlib.suppress(CommandError):
                places = await self.ask("/v1/endpoints")
                down = [p["id"] for p in places if p["condition"] != "up" and p["id"] != "sip/anna"]
                if places and not down:
                    return
            if process.returncode is not None or time.monotonic() > deadline:
                log = (self.directory / "gateway.log").read_text(errors="replace")
                raise DeviceError(f"the gateway did not come up:\n{log[-1500:]}")
            await asyncio.sleep(0.1)

    async def _voice(self, sounds: Path) -> Path:
        """What the softphone says: a tone to be measured, then words to be heard."""
        spoken: list[int] = []
        if shutil.which("espeak-ng") and shutil.which("sox"):
            words = "This is Anna on the softphone. If you can hear me, the call came through."
            raw, resampled = sounds / "anna-22k.wav", sounds / "anna-8k.wav"
            for command in (
                ("espeak-ng", "-w", str(raw), words),
                ("sox", str(raw), "-r", str(_RATE), "-c", "1", "-b", "16", str(resampled)),
            ):
                process = await asyncio.create_subprocess_exec(*command)
                await process.wait()
            if resampled.exists():
                channels, _ = read_wav(resampled)
                spoken = list(channels[0])
        one = [*tone(SOFTPHONE_HZ, 2.0, rate=_RATE), *spoken, *([0] * (_RATE // 2))]
        return write_wav(sounds / "anna.wav", one * 10, rate=_RATE)

    # What a person can do here

    async def ask(self, path: str, **query: Any) -> Any:
        """An answer of the gateway's control interface. Raises `CommandError`."""
        return await asyncio.to_thread(Client(str(self.socket)).get, path, **query)

    def phone(self, number: int) -> Telephone:
        """Telephone 1 or 2. Raises `DeviceError` for another."""
        if number not in PHONES:
            raise DeviceError(f"there is no telephone {number}: the lab has 1 and 2")
        return self.card.telephone(number)

    @property
    def line(self) -> Exchange:
        """The exchange's end of the outside line."""
        return self.card.exchange(LINE)

    async def listen(self, phone: int, seconds: float, name: str) -> Heard:
        """Record what a telephone hears; written as a WAV file as well."""
        telephone = self.phone(phone)
        await telephone.record()
        await asyncio.sleep(seconds)
        raw = await telephone.recorded()
        samples = memoryview(raw[: len(raw) & ~1]).cast("h")
        path = write_wav(self.directory / "heard" / f"{name}.wav", list(samples), rate=_RATE)
        return Heard(path, list(samples))

    async def raise_alarm(self) -> None:
        """The panel reports a fire."""
        while not self.panel.acknowledged.empty():
            self.panel.acknowledged.get_nowait()
        self.panel.report("triggered")

    async def calm(self) -> None:
        """The panel is reset."""
        self.panel.report("disarmed")


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
        half = _RATE // 2
        windows = [
            level_at(self.samples[at : at + half], hz)
            for at in range(0, max(1, len(self.samples) - half), half // 2)
        ]
        return max(windows, default=-99.0)


def spoken_number(text: str) -> int:
    """``1`` of ``1`` or ``phone1``. Raises `DeviceError`."""
    found = re.fullmatch(r"(?:phone)?(\d)", text)
    if not found:
        raise DeviceError(f"{text!r} is not a telephone: write 1 or 2")
    return int(found[1])
