"""Pump: carries frames between the engine's descriptor and a radio, in a thread of its own.

It mutes, delays and buffers; it never decides who may speak. The event loop sets `squelch` and
`transmit`; the thread reports back through the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

from gateway.adapters.radio.links import Link
from gateway.errors import GatewayError
from gateway.protocols.radio.speech import FRAME_S, FromAir, ToAir, frame_bytes, level_dbm0

LATE_S: Final = 0.2
"""After a longer stop, what was missed is not made up for."""


class Pump:
    """Owns a link and a thread. `connect` gives the descriptor for a leg's stream."""

    def __init__(
        self,
        link: Link,
        *,
        tail_s: float,
        look_back_s: float,
        vox: tuple[float, float] | None,
        courtesy: bytes,
        carrier: Callable[[bool], None],
        drained: Callable[[], None],
        failed: Callable[[str], None],
        count: Callable[[str, int], None],
    ) -> None:
        """vox: level in dBm0 and hang in seconds. The callbacks are called on the event loop."""
        self.link = link
        self.squelch = False
        self.listening = False
        """Keep what the engine says for the air."""
        self.speaking = False
        """Send it."""
        self.ending = False
        """Nothing more will come: send what is kept, then the courtesy tone, then report."""
        self._frame = frame_bytes(link.rate)
        self._from_air = FromAir(link.rate, tail_s=tail_s, look_back_s=look_back_s)
        self._to_air = ToAir(link.rate)
        self._vox, self._courtesy = vox, courtesy
        self._carrier, self._drained, self._failed, self._count = carrier, drained, failed, count
        self._loop = asyncio.get_running_loop()
        self._stopped = threading.Event()
        self._beep = b""
        self._tail = b""
        self._on_air = self._told = False
        self._was: bool | None = None
        self._loud_until = 0.0
        self._refused = 0
        self._far: socket.socket | None = None
        self._next: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="radio", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; takes one frame's time at most."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        self.link.close()
        for end in (self._far, self._next):
            if end is not None:
                end.close()
        self._far = self._next = None

    def connect(self) -> socket.socket:
        """A new wire for a leg: the end for the engine, which the caller closes."""
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        far.setblocking(False)
        self._next = far
        return near

    def go_ahead(self, tone: bytes) -> None:
        """Let the leg hear a tone."""
        self._beep = tone

    def _run(self) -> None:
        due = time.monotonic()
        try:
            while not self._stopped.is_set():
                self._tick()
                due += FRAME_S
                left = due - time.monotonic()
                if left < -LATE_S:
                    self._say(self._count, "frames_skipped", int(-left / FRAME_S))
                    due = time.monotonic()
                self._stopped.wait(max(0.0, left))
        except (OSError, GatewayError) as error:
            self._say(self._failed, str(error))

    def _tick(self) -> None:
        self._hear_engine()
        if self.speaking:
            self._transmit()
        else:
            if self._on_air:
                self._on_air = False
                self.link.over()
            if not self.listening:
                self._to_air.clear()
            self._told = False
            self._tail = b""
            self.link.idle()
        heard = self.link.read()
        if heard:
            self._from_air.push(heard)
        self._watch(heard)
        self._from_air.squelch(self.squelch)
        frame = self._from_air.take()
        if self._beep:
            frame, self._beep = self._beep[: self._frame], self._beep[self._frame :]
        if self._far is not None:
            with contextlib.suppress(OSError):  # the leg is over, or the engine behind: lost
                self._far.send(frame)

    def _hear_engine(self) -> None:
        # Only this thread closes what it uses: a number of a closed descriptor is soon another's.
        if self._next is not self._far:
            if self._far is not None:
                self._far.close()
            self._far = self._next
        for _ in range(16 if self._far else 0):
            try:
                block = self._far.recv(65536) if self._far else b""
            except OSError:
                return
            if not block:
                return
            if self.listening:
                self._to_air.push(block)

    def _transmit(self) -> None:
        self._on_air = True
        if self._to_air or not self.ending:
            self.link.write(self._to_air.take(last=self.ending))
        elif self._tail:
            self.link.write(self._tail[: self._frame].ljust(self._frame, b"\0"))
            self._tail = self._tail[self._frame :]
        else:
            self.link.write(bytes(self._frame))
            if not self._told:
                self._told = True
                self._say(self._drained)
        if not self.ending:
            self._tail = self._courtesy

    def _watch(self, heard: bytes) -> None:
        carrier = self.link.carrier
        if self._vox is not None:
            now = time.monotonic()
            if heard and level_dbm0(heard) > self._vox[0]:
                self._loud_until = now + self._vox[1]
            carrier = now < self._loud_until
        if carrier is not None and carrier != self._was:
            self._was = carrier
            self._say(self._carrier, carrier)
        if self.link.refused != self._refused:
            self._say(self._count, "audio_refused", self.link.refused - self._refused)
            self._refused = self.link.refused

    def _say(self, what: Callable[..., None], *facts: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
            self._loop.call_soon_threadsafe(what, *facts)
