"""The lab's verbs: what `gateway lab VERB` does, line by line over a socket of the lab.

One line in, one line out: ``ok`` or ``error`` and the words to show.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import socket as sockets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from gateway.errors import DeviceError, UsageError
from gateway.lab.cabinet import CONTACTS, RELAYS
from gateway.lab.softphone import Softphone
from gateway.lab.stand import PHONES, Stand, directory

_MAXIMUM: Final = 4096

HELP: Final = {
    "lift": ("PHONE", "lift the handset of telephone 1 or 2"),
    "hangup": ("PHONE", "put it down"),
    "dial": ("PHONE DIGITS", "lift it if need be and dial, by tone"),
    "pulse": ("PHONE DIGITS", "the same with a rotary dial"),
    "press": ("PHONE|STATION DIGITS", "press keys during a call"),
    "flash": ("PHONE", "press the recall key"),
    "talk": ("PLACE [SECONDS]", "say a tone at 1, 2, gate, platform, line or on the radio"),
    "listen": ("PLACE [SECONDS]", "record 1, 2, gate, platform, line, mobile, hall or radio"),
    "station": (
        "gate|platform call [NUMBER]|answer|press|release|hangup",
        "an intercom station: its button and its talk key",
    ),
    "radio": ("carrier on|off|overs", "the other radio's talk key; what ours transmitted"),
    "anna": ("dial NUMBER|answer|hangup|press DIGITS", "the softphone"),
    "dora": ("dial NUMBER|answer|hangup|press DIGITS", "the telephone at the other PBX"),
    "line": ("ring [NUMBER]|stop|drop", "the exchange on the outside line"),
    "mobile": (
        "ring [NUMBER]|answer|hangup|text NUMBER WORDS|texts",
        "a telephone in the mobile network: it calls, and writes; what it was written",
    ),
    "contact": ("door|push|key open|close", "a contact of the cabinet"),
    "relay": ("[siren|lamp]", "how the relays are"),
    "bell": ("ring|next", "ring the shift bell now, or show the next ten"),
    "alarm": ("", "the panel reports a fire"),
    "calm": ("", "the panel is reset"),
    "state": ("", "hooks, stations, mobile, radio, contacts, relays and panel"),
}
"""Verb: its arguments, what it does."""


def socket_path() -> Path:
    """Where the running lab listens."""
    return directory() / "lab.sock"


class Verbs:
    """Serves the verbs of one stand."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        self._server: asyncio.Server | None = None
        self._recordings = 0
        self._lifted: set[int] = set()

    async def __aenter__(self) -> Verbs:
        path = socket_path()
        path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, path)
        path.chmod(0o600)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server:
            self._server.close()
        socket_path().unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = (await reader.readline())[:_MAXIMUM].decode("utf-8", "replace")
            writer.write((await self.do(line)).encode() + b"\n")
            await writer.drain()
        finally:
            writer.close()

    async def do(self, line: str) -> str:
        """Carry out one line; ``ok ...`` or ``error ...``."""
        try:
            verb, *arguments = shlex.split(line)
        except ValueError as error:
            return f"error {error}"
        work: Callable[..., Awaitable[str]] | None = getattr(self, f"_{verb}", None)
        if verb not in HELP or work is None:
            return f"error there is no verb {verb!r}: {', '.join(HELP)}"
        try:
            return f"ok {await work(*arguments)}".strip()
        except TypeError:
            return f"error usage: gateway lab {verb} {HELP[verb][0]}"
        except (DeviceError, UsageError, TimeoutError, ValueError) as error:
            return f"error {error or 'it took too long'}".replace("\n", " ")

    async def _lift(self, phone: str) -> str:
        number = spoken_number(phone)
        await self.stand.phone(number).lift()
        self._lifted.add(number)
        return f"telephone {number} is off hook"

    async def _hangup(self, phone: str) -> str:
        number = spoken_number(phone)
        await self.stand.phone(number).hang_up()
        self._lifted.discard(number)
        return f"telephone {number} is on hook"

    async def _dial(self, phone: str, digits: str) -> str:
        await self._ready(spoken_number(phone))
        await self.stand.phone(spoken_number(phone)).dial_dtmf(digits)
        return f"dialled {digits}"

    async def _pulse(self, phone: str, digits: str) -> str:
        await self._ready(spoken_number(phone))
        await self.stand.phone(spoken_number(phone)).dial_pulse(digits)
        return f"dialled {digits} by pulses"

    async def _ready(self, number: int) -> None:
        if number not in self._lifted:
            await self._lift(str(number))
            # A person listens for the dial tone before dialling.
            await asyncio.sleep(0.6)

    async def _press(self, place: str, digits: str) -> str:
        if place in self.stand.stations:
            for digit in digits:
                self.stand.station(place).digit(digit)
        else:
            await self.stand.phone(spoken_number(place)).dial_dtmf(digits)
        return f"pressed {digits}"

    async def _flash(self, phone: str) -> str:
        await self.stand.phone(spoken_number(phone)).flash()
        return "flashed"

    async def _talk(self, place: str, seconds: str = "3") -> str:
        hz = await self.stand.talk(_place(place), _seconds(seconds))
        return f"said {hz:.0f} Hz for {seconds} s"

    async def _listen(self, place: str, seconds: str = "3") -> str:
        self._recordings += 1
        place = _place(place)
        name = f"{f'telephone-{place}' if place.isdigit() else place}-{self._recordings}"
        heard = await self.stand.listen(place, _seconds(seconds), name)
        if not heard.samples:
            return f"nothing was sent there, written to {heard.path}"
        return f"heard {heard.level_dbm0:.1f} dBm0, written to {heard.path}"

    async def _station(self, name: str, what: str, number: str = "") -> str:
        station = self.stand.station(name)
        act = {
            "answer": station.answer, "press": station.press, "release": station.release,
            "hangup": station.hang_up,
        }.get(what)  # fmt: skip
        if what == "call":
            station.call(number)
        elif act is not None and not number:
            act()
        else:
            raise TypeError
        return f"{name}: {what} {number}".strip()

    async def _radio(self, what: str, value: str = "") -> str:
        radio = self.stand.radio
        if what == "carrier" and value in ("on", "off"):
            radio.carrier(value == "on")
            return f"the carrier is {value}"
        if what != "overs" or value:
            raise TypeError
        found = [
            f"{time.strftime('%H:%M:%S', time.localtime(over.at))} {over.seconds:.1f} s"
            for over in radio.overs
        ]
        if radio.keyed:
            found.append("keyed now")
        return ", ".join(found) or "nothing was transmitted yet"

    async def _contact(self, name: str, what: str) -> str:
        if what not in ("open", "close"):
            raise TypeError
        await self.stand.cabinet.close(name, what == "close")
        return f"{name}: {what}"

    async def _relay(self, name: str = "") -> str:
        return await self._relays((name,) if name else tuple(RELAYS))

    async def _relays(self, names: tuple[str, ...]) -> str:
        on = {name: await self.stand.cabinet.relay(name) for name in names}
        return ", ".join(f"{name} {'on' if each else 'off'}" for name, each in on.items())

    async def _bell(self, what: str) -> str:
        if what == "next":
            return ", ".join(await self.stand.bells())
        if what != "ring":
            raise TypeError
        await self.stand.ring_bell()
        return "the shift bell rings in the hall"

    async def _anna(self, what: str, value: str = "") -> str:
        at = f"127.0.0.1:{self.stand.sip_port}"
        return await self._softphone("anna", self.stand.softphone, at, what, value)

    async def _dora(self, what: str, value: str = "") -> str:
        pbx = self.stand.pbx
        if pbx is None:
            raise DeviceError(f"there is no other PBX: {self.stand.no_pbx}")
        return await self._softphone("dora", pbx.dora, f"127.0.0.1:{pbx.port}", what, value)

    async def _softphone(self, name: str, phone: Softphone, at: str, what: str, value: str) -> str:
        if what == "dial" and value:
            await phone.dial(f"sip:{value}@{at}")
        elif what == "answer":
            await phone.accept()
        elif what == "hangup":
            await phone.hang_up()
        elif what == "press" and value:
            await phone.press(value)
        else:
            raise TypeError
        return f"{name}: {what} {value}".strip()

    async def _line(self, what: str, number: str = "") -> str:
        line = self.stand.line
        if what == "ring":
            await self.stand.call_in(number)
        elif what == "stop":
            await line.stop_ring()
        elif what == "drop":
            await line.drop()
        else:
            raise TypeError
        return f"outside line: {what}"

    async def _mobile(self, what: str, number: str = "", *words: str) -> str:
        stand = self.stand
        if what == "ring" and not words:
            stand.mobile_calls(number)
        elif what == "text" and words:
            stand.mobile_writes(number, " ".join(words))
        elif number:
            raise TypeError
        elif what == "answer":
            stand.mobile_answers()
        elif what == "hangup":
            stand.mobile_hangs_up()
        elif what == "texts":
            texts = (f"to {to}: {' '.join(text.split())}" for to, text in stand.module.texts())
            return "; ".join(texts) or "nothing was written yet"
        else:
            raise TypeError
        return f"mobile: {what} {number}".strip()

    async def _alarm(self) -> str:
        await self.stand.raise_alarm()
        return "the panel reports: triggered"

    async def _calm(self) -> str:
        await self.stand.calm()
        return "the panel reports: disarmed"

    async def _state(self) -> str:
        stand = self.stand
        contacts = [
            f"{name} {'closed' if await stand.cabinet.closed(name) else 'open'}"
            for name in CONTACTS
        ]
        return "; ".join((
            ", ".join(f"telephone {n} {'off' if n in self._lifted else 'on'} hook" for n in PHONES),
            ", ".join(f"{name} {station.state}" for name, station in stand.stations.items()),
            f"mobile {stand.mobile_state}",
            f"radio {'keyed' if stand.radio.keyed else 'not keyed'}",
            f"contacts: {', '.join(contacts)}",
            f"relays: {await self._relays(tuple(RELAYS))}",
            f"panel {stand.panel.state}",
        ))  # fmt: skip


def spoken_number(text: str) -> int:
    """``1`` of ``1`` or ``phone1``. Raises `DeviceError`."""
    found = re.fullmatch(r"(?:phone)?(\d)", text)
    if not found:
        raise DeviceError(f"{text!r} is not a telephone: write 1 or 2")
    return int(found[1])


def _place(text: str) -> str:
    return text.removeprefix("phone")


def _seconds(text: str) -> float:
    return min(max(float(text), 0.0), 60.0)


def send(line: str) -> str:
    """Give a line to the running lab; its answer. Raises `DeviceError` when none runs."""
    path = socket_path()
    try:
        with sockets.socket(sockets.AF_UNIX) as connection:
            connection.settimeout(90.0)
            connection.connect(str(path))
            connection.sendall(line.encode() + b"\n")
            answer = connection.makefile().readline()
    except OSError:
        raise DeviceError("no lab is running: start one with `make run`") from None
    word, _, rest = answer.strip().partition(" ")
    if word != "ok":
        raise DeviceError(rest or "the lab broke off")
    return rest
