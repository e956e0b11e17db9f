"""``python -m gateway.guard FD``: started by the radio adapter, never by hand.

FD is one end of a SOCK_SEQPACKET pair; its messages are JSON. The first one configures the guard.

Towards the guard: ``{"key": true, "over": n, "at": t, "release": hex}`` begins an over or renews
its lease, ``{"key": false, "why": text}`` ends it, ``{"wire": 1}`` comes with the descriptor that a
network radio is keyed by. An over that has ended, by whosever doing, is not keyed again.
From the guard, in ``is``: ``ready``, ``keyed``, ``unkeyed``, ``carrier``, ``alive``, ``fault``.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from datetime import UTC, datetime
from typing import Any, Final

from gateway.errors import DeviceError, PeerError
from gateway.guard.wiring import Wiring

ALIVE_S: Final = 0.25
POLL_S: Final = 0.01
RETRY_S: Final = 0.1
REOPEN_S: Final = 1.0
LOOK_S: Final = 0.25
"""How often a keyed line is read back."""
ORPHAN_S: Final = 60.0
"""How long it tries to release a line after the gateway is gone."""
PROOF_BYTES: Final = 1 << 20
_TROUBLE: Final = (OSError, DeviceError, PeerError, ValueError)


class Guard:
    """Holds one line. Driven by the messages of its parent and by the time."""

    def __init__(self, control: socket.socket, config: dict[str, Any]) -> None:
        self._control = control
        self._lease_s = config["lease_ms"] / 1000
        self._proof = config["proof"]
        self._name = config["name"]
        self._wiring = Wiring(config.get("key"), config.get("carrier"))
        self._keyed = False
        self._over = self._ended = 0
        self._until = 0.0
        self._why = "start"
        self._loose = True
        """The line must be released and has not been seen to be."""
        self._proven = False
        self._retry_at = self._alive_at = self._look_at = 0.0
        self._since = time.monotonic()
        self._carrier: bool | None = None
        self._fault = ""
        self._ready = False
        self._orphan = False

    def serve(self) -> None:
        """Until the parent is gone and the line is off."""
        while not (self._orphan and self._proven):
            now = time.monotonic()
            if self._orphan and now - self._since > ORPHAN_S:
                return
            wait = min(
                [self._alive_at - now]
                + ([self._until - now] if self._keyed else [])
                + ([self._retry_at - now] if self._loose else [])
                + ([POLL_S] if self._wiring.senses else [])
            )
            watched = [] if self._orphan else [self._control]
            if select.select(watched, [], [], max(0.0, wait))[0]:
                self._listen()
            self._tick(time.monotonic())

    def _listen(self) -> None:
        for _ in range(64):
            try:
                data, fds, _, _ = socket.recv_fds(self._control, 65536, 1)
            except BlockingIOError:
                return
            except OSError:
                data, fds = b"", []
            if not data:
                self._orphan = True
                self._drop("the gateway is gone")
                return
            message = json.loads(data)
            if "wire" in message:
                if fds:
                    self._wiring.wire(fds[0])
            elif message["key"]:
                self._renew(message)
            elif self._keyed:
                self._wiring.release = b""  # the gateway ends the over itself
                self._drop(message.get("why", "released"))

    def _renew(self, message: dict[str, Any]) -> None:
        # The parent's clock is ours: what waited here for long does not renew anything.
        until = float(message["at"]) + self._lease_s
        if until <= time.monotonic() or not self._ready:
            return
        # Renewals that were under way when we released must not key again: whoever sent them does
        # not know yet, and may already have been told that the transmitter is off.
        if message["over"] <= self._ended:
            return
        self._until = until
        self._wiring.release = bytes.fromhex(message.get("release", ""))
        if self._keyed or self._loose:
            return
        begin = time.monotonic()
        # Before the line: if setting it fails half way it must be released too.
        self._keyed, self._over = True, message["over"]
        try:
            self._wiring.set(True)
            if self._wiring.get() is False:
                raise DeviceError("the line does not say that it is keyed")
        except _TROUBLE as error:
            self._trouble(error)
            self._drop(f"it could not be keyed: {error}")
            return
        self._look_at = time.monotonic() + LOOK_S
        self._say("keyed", took_ms=_ms(begin))

    def _drop(self, why: str) -> None:
        if self._keyed:
            self._lose(why)
        self._release(time.monotonic())

    def _lose(self, why: str) -> None:
        self._keyed, self._loose, self._proven, self._why = False, True, False, why
        self._ended = self._over
        self._since = time.monotonic()
        self._retry_at = 0.0

    def _release(self, now: float) -> None:
        if not self._loose or now < self._retry_at:
            return
        try:
            self._wiring.open_key()
            self._wiring.set(False)
            read_back = self._wiring.get()
            if read_back:
                raise DeviceError("it was released, but the line says that it is still keyed")
        except _TROUBLE as error:
            self._retry_at = time.monotonic() + (RETRY_S if self._ready else REOPEN_S)
            self._trouble(error)
            self._wiring.close()
            return
        text = "none" if read_back is None else "off"
        if not self._proven:
            self._proven = True
            self._prove(read_back=text)
        try:
            self._wiring.open_carrier()
        except _TROUBLE as error:
            # The key line stays open: opening a serial port moves its outputs.
            self._retry_at = time.monotonic() + REOPEN_S
            self._trouble(error)
            return
        self._loose = False
        self._fault = ""
        what = "unkeyed" if self._ready else "ready"
        self._say(what, why=self._why, read_back=text, took_ms=_ms(self._since))
        self._ready = True

    def _tick(self, now: float) -> None:
        if self._keyed and now >= self._until:
            self._drop("the lease was not renewed")
        elif self._keyed and now >= self._look_at:
            self._look(now)
        self._release(now)
        if self._wiring.senses and self._ready and not self._loose:
            try:
                carrier = self._wiring.carrier()
            except _TROUBLE as error:
                self._trouble(error)
                self._wiring.close()
                self._lose(f"the line broke: {error}")
                carrier = False
            if carrier is not self._carrier:
                self._carrier = carrier
                self._say("carrier", on=carrier)
        if now >= self._alive_at:
            self._alive_at = now + ALIVE_S
            self._say("alive")

    def _look(self, now: float) -> None:
        """A line that somebody else has released, or a rig that is gone, ends the over."""
        self._look_at = now + LOOK_S
        try:
            if self._wiring.get() is not False:
                return
            why = "the line was released by somebody else"
        except _TROUBLE as error:
            self._trouble(error)
            self._wiring.close()
            why = f"the line broke: {error}"
        self._drop(why)

    def _trouble(self, error: Exception) -> None:
        text = str(error) or type(error).__name__
        if text != self._fault:
            self._fault = text
            self._prove(fault=text)
            self._say("fault", why=text)

    def _say(self, what: str, **facts: Any) -> None:
        # A parent that does not read is as good as none: the lease will tell.
        with contextlib.suppress(OSError):
            self._control.send(json.dumps({"is": what, **facts}).encode())

    def _prove(self, **facts: Any) -> None:
        line = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "radio": self._name,
            "what": "fault" if "fault" in facts else "unkeyed",
            "why": self._why,
            "took_ms": _ms(self._since),
            **facts,
        }
        with contextlib.suppress(OSError):
            with contextlib.suppress(FileNotFoundError):
                if os.stat(self._proof).st_size > PROOF_BYTES:
                    os.replace(self._proof, self._proof + ".1")
            fd = os.open(self._proof, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                os.write(fd, json.dumps(line).encode() + b"\n")
            finally:
                os.close(fd)


def _ms(since: float) -> float:
    return round((time.monotonic() - since) * 1000, 1)


def main() -> None:
    """Serve the socket whose descriptor is the first argument."""
    # Only the end of the socket ends it: a service manager's SIGTERM to the whole group, or a
    # terminal's Ctrl-C, must not take the guard away while the gateway still transmits.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1,
                   signal.SIGUSR2, signal.SIGPIPE, signal.SIGALRM, signal.SIGTSTP):  # fmt: skip
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(5))
    with socket.socket(fileno=int(sys.argv[1])) as control:
        first = control.recv(65536)
        # recv_fds of Python 3.11 ignores its flags: only the socket itself can say not to wait.
        control.setblocking(False)
        if first:
            Guard(control, json.loads(first)).serve()


main()
