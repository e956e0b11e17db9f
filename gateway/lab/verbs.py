"""The lab's verbs: what `gateway lab VERB` does, line by line over a socket of the lab.

One line in, one line out: ``ok`` or ``error`` and the words to show.
"""

from __future__ import annotations

import asyncio
import shlex
import socket as sockets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from gateway.errors import DeviceError
from gateway.lab.stand import Stand, directory, spoken_number

_MAXIMUM: Final = 4096

HELP: Final = {
    "lift": ("PHONE", "lift the handset of telephone 1 or 2"),
    "hangup": ("PHONE", "put it down"),
    "dial": ("PHONE DIGITS", "lift it if need be and dial, by tone"),
    "pulse": ("PHONE DIGITS", "the same with a rotary dial"),
    "press": ("PHONE DIGITS", "press keys during a call"),
    "flash": ("PHONE", "press the recall key"),
    "talk": ("PHONE [SECONDS]", "say 440 Hz into the handset"),
    "listen": ("PHONE [SECONDS]", "record what it hears, with level, into a WAV file"),
    "anna": ("dial NUMBER|answer|hangup|press DIGITS", "the softphone"),
    "line": ("ring [NUMBER]|stop|drop", "the exchange on the outside line"),
    "alarm": ("", "the panel reports a fire"),
    "calm": ("", "the panel is reset"),
    "state": ("", "hooks, panel and addresses"),
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
        except (DeviceError, TimeoutError, ValueError) as error:
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

    async def _press(self, phone: str, digits: str) -> str:
        await self.stand.phone(spoken_number(phone)).dial_dtmf(digits)
        return f"pressed {digits}"

    async def _flash(self, phone: str) -> str:
        await self.stand.phone(spoken_number(phone)).flash()
        return "flashed"

    async def _talk(self, phone: str, seconds: str = "3") -> str:
        telephone = self.stand.phone(spoken_number(phone))
        await telephone.tone("440")
        await asyncio.sleep(min(float(seconds), 60.0))
        await telephone.stop()
        return f"said 440 Hz for {seconds} s"

    async def _listen(self, phone: str, seconds: str = "3") -> str:
        self._recordings += 1
        name = f"telephone-{spoken_number(phone)}-{self._recordings}"
        heard = await self.stand.listen(spoken_number(phone), min(float(seconds), 60.0), name)
        return f"heard {heard.level_dbm0:.1f} dBm0, written to {heard.path}"

    async def _anna(self, what: str, value: str = "") -> str:
        softphone = self.stand.softphone
        if what == "dial" and value:
            await softphone.dial(f"sip:{value}@127.0.0.1:{self.stand.sip_port}")
        elif what == "answer":
            await softphone.accept()
        elif what == "hangup":
            await softphone.hang_up()
        elif what == "press" and value:
            await softphone.press(value)
        else:
            raise TypeError
        return f"anna: {what} {value}".strip()

    async def _line(self, what: str, number: str = "") -> str:
        line = self.stand.line
        if what == "ring":
            await line.ring(count=0)
            if number:
                await line.wait_for("rung", since=len(self.stand.card.facts), within=8.0)
                await line.send_caller_id(number)
        elif what == "stop":
            await line.stop_ring()
        elif what == "drop":
            await line.drop()
        else:
            raise TypeError
        return f"outside line: {what}"

    async def _alarm(self) -> str:
        await self.stand.raise_alarm()
        return "the panel reports: triggered"

    async def _calm(self) -> str:
        await self.stand.calm()
        return "the panel reports: disarmed"

    async def _state(self) -> str:
        hooks = ", ".join(
            f"telephone {n} {'off' if n in self._lifted else 'on'} hook" for n in (1, 2)
        )
        return f"{hooks}; panel {self.stand.panel.state}"


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
