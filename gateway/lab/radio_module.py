"""A simulated radio module: AT commands on one pseudo-terminal, PCM on another.

It is ours as the adapter is, written from the makers' command forms: it shows that both agree, not
that a module in the field does.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import pty
import struct
import termios
import tty
from collections import deque
from types import TracebackType

from gateway.protocols.modem.pdu import received

_SIZE = 320
_KEPT_OCTETS = 8000 * 2 * 60
_TAKEN = frozenset(
    ("", "+CMEE=1", "+COPS=3,0", "+CREG=2", "+CREG=0", "+CLIP=1", '+QGPSCFG="outport","none"',
     '+CSCS="GSM"', "+CFUN=1", "+CFUN=1,1", "+CRESET",
     "+CGREG=2", "+CGATT=1", "+CMGF=0", "+CNMI=2,1,0,0,0",
     "+QTONEDET=1", "+DDET=1", "^DSCI=1")
)  # fmt: skip


def delivered(submitted: str) -> str:
    """What the network makes of it for the receiver: the same text under another head."""
    octets = bytes.fromhex(submitted)
    octets = octets[1 + octets[0] :]
    at = 4 + (octets[2] + 1) // 2
    head = bytes((octets[0] & 0x40 | 0x04,)) + octets[2 : at + 2]
    stamp = bytes.fromhex("62112251000040")
    return (b"\0" + head + stamp + octets[at + 3 :]).hex()


class Brain:
    """What a module answers. Sans-IO: `feed` gives what it says."""

    def __init__(self, maker: str = "quectel") -> None:
        self.maker = maker
        self.commands: deque[str] = deque(maxlen=1000)
        self.call: tuple[int, int, str] | None = None
        """Direction (1: to the module), state of ``+CLCC``, number."""
        self.audio = False
        self.creg = '2,1,"00C3","0012",7'
        self.csq = 17
        self.sim = "READY"
        self.dial_result = "OK"
        self.refuse_audio = 0
        self.keeps_call = False
        self.alerts = False
        """The called telephone rings at once."""
        self.deaf = False
        self.digits = ""
        self.echo = True
        self.stored: dict[int, str] = {}
        """Short messages that came, by place."""
        self.sent: list[str] = []
        self.knows_texts = True
        self.refuses_text = ""
        self.refuses_from = 0
        """So many are taken before."""
        self.finds_keys = True
        self._asks = 0
        """Octets of the short message that it waits for."""
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        self._rest += data
        out = b""
        while self._rest and not self.deaf:
            if self._asks:
                end = next((n for n, sign in enumerate(self._rest) if sign in b"\x1a\x1b"), -1)
                if end < 0:
                    break
                given_up = self._rest[end : end + 1] == b"\x1b"
                text, self._rest = self._rest[:end].decode(), self._rest[end + 1 :]
                lines = ["OK"] if given_up else self._submit(text, self._asks)
                self._asks = 0
            else:
                # An escape gives up a prompt for text, and is nothing when there is none.
                line, ended, rest = self._rest.partition(b"\r")
                if not ended:
                    break
                line, self._rest = line.replace(b"\x1b", b""), rest
                if self.echo:
                    out += line + b"\r"
                lines = self._do(line.decode())
            out += b"".join(b"\r\n" + each.encode() + b"\r\n" for each in lines)
            if self._asks:
                out += b"\r\n> "
        return out

    def texts(self) -> list[tuple[str, str]]:
        """Number and text of the short messages that were sent, as the network passes them on."""
        found = [received(delivered(each)) for each in self.sent]
        return [(each.sender, each.text) for each in found]

    def deliver(self, *pdus: str) -> bytes:
        """Short messages come from the network."""
        out = b""
        for pdu in pdus:
            place = next(n for n in range(256) if n not in self.stored)
            self.stored[place] = pdu
            out += b'\r\n+CMTI: "ME",%d\r\n' % place
        return out

    def _submit(self, pdu: str, n_octets: int) -> list[str]:
        if self.refuses_text and len(self.sent) >= self.refuses_from:
            return [self.refuses_text]
        try:
            octets = bytes.fromhex(pdu)
        except ValueError:
            octets = b"\0"
        if len(octets) - 1 - octets[0] != n_octets:
            return ["+CMS ERROR: 304"]
        self.sent.append(pdu)
        return [f"+CMGS: {len(self.sent)}", "OK"]

    def ring(self, number: str) -> bytes:
        self.call = (1, 4, number)
        return b"\r\nRING\r\n" + (f'\r\n+CLIP: "{number}",129\r\n'.encode() if number else b"")

    def state(self, state: int) -> bytes:
        assert self.call is not None
        self.call = (self.call[0], state, self.call[2])
        if self.maker == "simcom" and state == 0:
            return b"\r\nVOICE CALL: BEGIN\r\n"
        return b"\r\n^DSCI: 1,0,3,0,1,129\r\n"

    def _do(self, line: str) -> list[str]:
        if not line:
            return []
        if not line.startswith("AT"):
            return ["ERROR"]
        self.commands.append(line[2:])
        match line[2:]:
            case "E0" | "E1" as what:
                self.echo = what == "E1"
            case "+CGMI" | "+CGMM" | "+CGMR" as what:
                return [{"I": "Simulated", "M": "SM1", "R": "1.0"}[what[-1]], "OK"]
            case "+CGSN":
                return ["490154203237518", "OK"]
            case "+CSCS?":
                return ['+CSCS: "GSM"', "OK"]
            case "+CSCS=?":
                return ['+CSCS: ("GSM")', "OK"]
            case "+CPIN?":
                return [f"+CPIN: {self.sim}", "OK"] if self.sim else ["+CME ERROR: 10"]
            case "+CREG?":
                return [f"+CREG: {self.creg}", "OK"]
            case "+CGATT?":
                return ["+CGATT: 1", "OK"]
            case "+CGREG?":
                return [f"+CGREG: {self.creg}", "OK"]
            case "+CSQ":
                return [f"+CSQ: {self.csq},99", "OK"]
            case "+COPS?":
                return ['+COPS: 0,0,"Simulated Net",7', "OK"]
            case "+QPCMV?" | "+QPCMV=0" | "+QPCMV=1,0" as what:
                if self.maker != "quectel":
                    return ["ERROR"]
                self.audio = what.endswith("1,0")
            case "+CPCMREG?" | "+CPCMREG=0" as what:
                if self.maker != "simcom":
                    return ["ERROR"]
                self.audio = False
            case "+CPCMREG=1":
                if self.refuse_audio:
                    self.refuse_audio -= 1
                    return ["ERROR"]
                self.audio = True
            case "+CLCC":
                if self.call is None:
                    return ["OK"]
                way, state, number = self.call
                return [f'+CLCC: 1,{way},{state},0,0,"{number}",129', "OK"]
            case "+CHUP" | "H":
                if not self.keeps_call:
                    self.call = None
            case "A":
                if self.call is None:
                    return ["NO CARRIER"]
                self.call = (1, 0, self.call[2])
            case dial if dial.startswith("D"):
                if self.dial_result != "OK":
                    return [self.dial_result]
                self.call = (0, 2, dial[1:].lstrip("T").rstrip(";I"))
                if self.alerts:
                    self.call = (0, 3, self.call[2])
                    return ["OK", "^DSCI: 1,0,7,0,1,129"]
            case digit if digit.startswith("+VTS="):
                self.digits += digit[5:]
            case "+QTONEDET=1" | "+DDET=1" if not self.finds_keys:
                return ["ERROR"]
            case "+CMGF=0" if not self.knows_texts:
                return ["ERROR"]
            case "+CMGL=4":
                texts = [
                    (f"+CMGL: {place},1,,{len(pdu) // 2 - 1 - int(pdu[:2], 16)}", pdu)
                    for place, pdu in self.stored.items()
                ]
                return [*(line for text in texts for line in text), "OK"]
            case "+CPMS=?":
                return ['+CPMS: ("ME"),("ME"),("ME")', "OK"]
            case what if what.startswith('+CPMS="ME"'):
                n = len(self.stored)
                return [f"+CPMS: {n},255,{n},255,{n},255", "OK"]
            case what if what.startswith("+CMGR="):
                pdu = self.stored.get(int(what[6:]))
                if pdu is None:
                    return ["+CMS ERROR: 321"]
                return [f"+CMGR: 1,,{len(pdu) // 2 - 1 - int(pdu[:2], 16)}", pdu, "OK"]
            case what if what.startswith("+CMGD="):
                self.stored.pop(int(what[6:]), None)
            case what if what.startswith("+CMGS="):
                self._asks = int(what[6:])
                return []
            case other if other not in _TAKEN:
                return ["ERROR"]
        return ["OK"]


class RadioModule(Brain):
    """The same on pseudo-terminals: `path` takes commands, `pcm_path` is its audio.

    It says `hz` as loud as a peak of 8000, 20 ms at a time by its own clock, and keeps what it
    hears in `heard`. A context manager.
    """

    def __init__(self, maker: str = "quectel", *, hz: float = 1000.0) -> None:
        super().__init__(maker)
        self.hz = hz
        self.alerts = True
        self.silent = False
        self.heard = bytearray()
        self.path = self.pcm_path = ""
        self._fds: list[int] = []

    async def __aenter__(self) -> RadioModule:
        for _ in range(2):
            master, slave = pty.openpty()
            tty.setraw(slave, termios.TCSANOW)
            os.set_blocking(master, False)
            self._fds += (master, slave)
        self.path, self.pcm_path = os.ttyname(self._fds[1]), os.ttyname(self._fds[3])
        asyncio.get_running_loop().add_reader(self._fds[0], self._readable)
        self._speaking = asyncio.create_task(self._speak())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.unplug()
        self._speaking.cancel()
        await asyncio.wait({self._speaking})

    def unplug(self) -> None:
        """It vanishes from the bus."""
        if self._fds:
            asyncio.get_running_loop().remove_reader(self._fds[0])
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()

    def say(self, data: bytes) -> None:
        if self._fds:
            os.write(self._fds[0], data)

    def _readable(self) -> None:
        self.say(self.feed(os.read(self._fds[0], 4096)))

    async def _speak(self) -> None:
        n, due = 0, asyncio.get_running_loop().time()
        while self._fds:
            if self.audio and self.call and self.call[1] == 0 and not self.silent:
                turns = (self.hz * (n + k) / 8000 for k in range(_SIZE // 2))
                block = struct.pack(
                    f"<{_SIZE // 2}h", *(round(8000 * math.sin(math.tau * t)) for t in turns)
                )
                with contextlib.suppress(BlockingIOError):
                    os.write(self._fds[2], block)
                n += _SIZE // 2
                with contextlib.suppress(BlockingIOError):
                    self.heard += os.read(self._fds[2], 4096)
                    del self.heard[:-_KEPT_OCTETS]
            due += 0.02
            await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
