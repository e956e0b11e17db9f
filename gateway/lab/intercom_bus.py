"""The lab's call-point bus: stations with a button, a talk key, a loudspeaker and two relays.

Written from ``docs/intercom-bus.md`` alone, so that what drives the bus is not checked by itself.
"""

from __future__ import annotations

import asyncio
import binascii
import contextlib
import math
import os
import pty
import tempfile
import tty
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway._codecs import g711

_SYNC: Final = b"\xaa\x55"
_HEADER: Final = 6
_LONGEST: Final = 200
WATCHDOG_S: Final = 0.15
"""So long without a frame of the gateway, and a station lets go of everything."""
BLOCK: Final = 160
GROUPS: Final = range(240, 255)
ALL: Final = 255
HEARD_OCTETS: Final = 8000 * 60


def sealed(body: bytes) -> bytes:
    """A frame around address, kind, sequence, length and payload."""
    return _SYNC + body + binascii.crc_hqx(body, 0).to_bytes(2)


def tone(hz: float, *, peak: int = 8000) -> Callable[[], bytes]:
    """A microphone that hears a tone: a function that gives the next 20 ms in mu-law."""
    n = 0

    def block() -> bytes:
        nonlocal n
        samples = [round(peak * math.sin(math.tau * hz * (n + k) / 8000)) for k in range(BLOCK)]
        n += BLOCK
        return bytes(g711.encode_ulaw(b"".join(s.to_bytes(2, "little", signed=True)
                                               for s in samples)))  # fmt: skip

    return block


@dataclass(eq=False)
class CallPoint:
    """One station; what a person could do at it is a method."""

    address: int
    full_duplex: bool = False
    groups: frozenset[int] = frozenset()
    microphone: Callable[[], bytes] | None = None
    state: str = "idle"
    """``idle``, ``calling``, ``ringing``, ``talking``."""
    pressed: bool = False
    contacts: int = 0
    outputs: dict[int, int] = field(default_factory=dict)
    heard: bytearray = field(default_factory=bytearray)
    """What came out of the loudspeaker, in mu-law; the last minute."""
    refuses: bool = False
    mute: bool = False
    """Answers nothing: cut off, or without power."""
    released: int = 0
    """How often the watchdog made it let go."""
    released_at: float = 0.0
    frames: int = 0
    _events: deque[bytes] = field(default_factory=lambda: deque(maxlen=16))
    _sequence: int = 0
    _done: tuple[int, int] = (-1, 0)

    # A person here

    def call(self, number: str = "") -> None:
        """Press the call button."""
        self.state = "calling"
        self._event(0x83, number.encode())

    def answer(self) -> None:
        """Press the button while it rings."""
        self._event(0x84)

    def hang_up(self) -> None:
        """End the call."""
        self.state = "idle"
        self._event(0x85)

    def digit(self, digit: str) -> None:
        """Press a key of the keypad."""
        self._event(0x86, digit.encode())

    def press(self) -> None:
        """Push to talk."""
        self.pressed = True

    def release(self) -> None:
        """Let go of the talk key."""
        self.pressed = False

    # The station's program

    def _event(self, kind: int, data: bytes = b"") -> None:
        self._sequence = self._sequence % 255 + 1
        self._events.append(bytes((kind, self._sequence)) + data)

    @property
    def status(self) -> int:
        """The octet that every frame carries."""
        lifted = self.state == "talking"
        return int(self.pressed) | lifted << 1 | (self.contacts & 3) << 4

    def receive(self, kind: int, sequence: int, data: bytes) -> bytes | None:
        """The reply to a frame that is addressed to us."""
        if kind == 0x07:
            if self._events and self._events[0][1] == sequence:
                self._events.popleft()
            return None
        if kind in (0x01, 0x02):
            if kind == 0x02:
                self.play(data)
            return self._report(sequence)
        known, reply = self._done
        if known != sequence:
            self._done = (sequence, reply := 0x88 if self.refuses else 0x87)
            if reply == 0x87:
                self._obey(kind, data)
        return self._frame(reply, sequence)

    def _obey(self, kind: int, data: bytes) -> None:
        match kind:
            case 0x03:
                self.state = "ringing"
            case 0x04:
                self.state = "talking"
            case 0x05:
                self.state = "idle"
            case 0x06 if len(data) >= 2:
                self.outputs[data[0]] = data[1]

    def _report(self, sequence: int) -> bytes:
        if self._events:
            event = self._events[0]
            return self._frame(event[0], event[1], event[2:])
        if self.state == "talking" and self.microphone and (self.pressed or self.full_duplex):
            return self._frame(0x82, sequence, self.microphone())
        return self._frame(0x81, sequence)

    def _frame(self, kind: int, sequence: int, data: bytes = b"") -> bytes:
        payload = bytes((self.status,)) + data
        return sealed(bytes((self.address, kind, sequence, len(payload))) + payload)

    def play(self, audio: bytes) -> None:
        """Loudspeaker."""
        self.heard += audio[:BLOCK]
        del self.heard[:-HEARD_OCTETS]

    def let_go(self, now: float) -> None:
        """The gateway is gone."""
        if self.state != "idle" or any(self.outputs.values()):
            self.released += 1
            self.released_at = now
        self._done = (-1, 0)
        self.state = "idle"
        self.outputs = dict.fromkeys(self.outputs, 0)


class CallPointBus:
    """Stations on a pseudo-terminal; an asynchronous context manager.

    `path` is what the gateway opens. With `device` the stations sit on a line that exists.
    """

    def __init__(
        self, *stations: CallPoint, device: str = "", watchdog_s: float | None = None
    ) -> None:
        self.stations = {station.address: station for station in stations}
        self.device = device
        self._watchdog_s = WATCHDOG_S if watchdog_s is None else watchdog_s
        self.path = ""
        self.spoiled = 0
        """Octets of the gateway that were in no frame."""
        self.frames = 0
        self.echo = False
        """Return the gateway's own octets, as some lines do."""
        self._fds: list[int] = []
        self._buffer = bytearray()
        self._heard_at = 0.0
        self._watchdog: asyncio.TimerHandle | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    async def __aenter__(self) -> CallPointBus:
        self._directory = tempfile.TemporaryDirectory(prefix="callpoint-")
        self.path = self.device or str(Path(self._directory.name) / "line")
        self.plug()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.unplug()
        self.stop_watching()
        if self._directory is not None:
            self._directory.cleanup()

    def plug(self) -> None:
        """Connect the line."""
        if self.device:
            self._fds = [os.open(self.device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)]
            tty.setraw(self._fds[0])
        else:
            ours, theirs = pty.openpty()
            tty.setraw(theirs)
            os.set_blocking(ours, False)
            self._fds = [ours, theirs]
            os.symlink(os.ttyname(theirs), self.path)
        self._buffer.clear()
        loop = asyncio.get_running_loop()
        self._heard_at = loop.time()
        loop.add_reader(self._fds[0], self._readable)
        self._watch()

    def forgive(self, seconds: float) -> None:
        """Time in which this program stood still, and with it the stations' clock and the gateway
        beside them: it counts as no silence of the gateway."""
        self._heard_at += seconds

    def unplug(self) -> None:
        """Pull the connector; the stations notice as they would."""
        if not self._fds:
            return
        asyncio.get_running_loop().remove_reader(self._fds[0])
        for fd in self._fds:
            os.close(fd)
        self._fds = []
        if not self.device:
            os.unlink(self.path)

    def stop_watching(self) -> None:
        """End the stations' clock."""
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def write(self, data: bytes) -> None:
        """Put octets on the line, whoever they are from."""
        if self._fds:
            with contextlib.suppress(OSError):
                os.write(self._fds[0], data)

    def _watch(self) -> None:
        self.stop_watching()
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now - self._heard_at >= self._watchdog_s:
            for station in self.stations.values():
                station.let_go(now)
            if not self._fds:
                return
            wait = self._watchdog_s
        else:
            wait = self._heard_at + self._watchdog_s - now
        self._watchdog = loop.call_later(wait, self._watch)

    def _readable(self) -> None:
        try:
            data = os.read(self._fds[0], 65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            # Nobody has the other end open, or the line is gone: no reason to spin.
            asyncio.get_running_loop().remove_reader(self._fds[0])
            return
        if self.echo:
            self.write(data)
        self._buffer += data
        while self._step():
            pass

    def _step(self) -> bool:
        buffer = self._buffer
        at = buffer.find(_SYNC)
        if at < 0:
            keep = 1 if buffer.endswith(b"\xaa") else 0
            self.spoiled += len(buffer) - keep
            del buffer[: len(buffer) - keep]
            return False
        self.spoiled += at
        del buffer[:at]
        if len(buffer) < _HEADER:
            return False
        n_octets = _HEADER + buffer[5] + 2
        if buffer[5] > _LONGEST:
            self.spoiled += 1
            del buffer[:1]
            return True
        if len(buffer) < n_octets:
            return False
        body, total = bytes(buffer[2 : n_octets - 2]), buffer[n_octets - 2 : n_octets]
        if binascii.crc_hqx(body, 0).to_bytes(2) != total:
            self.spoiled += 1
            del buffer[:1]
            return True
        del buffer[:n_octets]
        if not body[1] & 0x80:
            self._dispatch(body)
        return True

    def _dispatch(self, body: bytes) -> None:
        self.frames += 1
        now = asyncio.get_running_loop().time()
        self._heard_at = now
        address, kind, sequence, data = body[0], body[1], body[2], body[4:]
        if address == ALL or address in GROUPS:
            for station in self.stations.values():
                wanted = address == ALL or address in station.groups
                if kind == 0x02 and wanted and station.state == "idle" and not station.mute:
                    station.play(data)
            return
        addressed = self.stations.get(address)
        if addressed is not None and not addressed.mute:
            addressed.frames += 1
            reply = addressed.receive(kind, sequence, data)
            if reply is not None:
                self.write(reply)
