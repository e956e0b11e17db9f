"""What a guard's line is made of, by its configuration."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any, Final

from gateway.drivers.lines import (
    CarrierLine,
    Cm108,
    Cm108Carrier,
    Cm108Key,
    Gpio,
    KeyLine,
    PtyCarrier,
    PtyKey,
    SerialCarrier,
    SerialKey,
    SerialPort,
)
from gateway.errors import DeviceError, PeerError
from gateway.protocols.radio import rigctld

RIG_S: Final = 0.5
"""How long the rig may take for each command."""
RELEASES: Final = 3
"""How often a network radio is told that the over is over: datagrams get lost."""


class RigKey:
    """Push-to-talk through hamlib's rigctld.

    rigctld keeps the rig keyed when its client goes: if this process is killed together with the
    gateway, only the rig's own time-out is left.
    """

    def __init__(self, host: str, port: int) -> None:
        self.owes = False
        """It has not said yet whether it keyed: it may still do so."""
        self._reader = rigctld.Reader()
        self._socket = socket.create_connection((host, port), timeout=RIG_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def set(self, on: bool) -> None:
        # A command that keys may be carried out after its time-out.
        self.owes = self.owes or on
        answer = self._ask("set_ptt", int(on))
        self.owes = False
        answer.check()

    def get(self) -> bool:
        return self._ask("get_ptt").number("ptt") != 0

    def settle(self) -> None:
        """Wait until it has keyed or cannot any more. Raises `DeviceError`.

        rigctld serves each connection by itself: a command of this one may come after the release
        on the next.
        """
        if self.owes:
            with contextlib.suppress(OSError, PeerError):
                self._answer("set_ptt")
            self.owes = False

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()

    def _ask(self, name: str, *arguments: object) -> rigctld.Answer:
        self._socket.sendall(rigctld.command(name, *arguments))
        if answer := self._answer(name):
            return answer
        self.owes = False
        raise DeviceError("rigctld closed the connection")

    def _answer(self, name: str) -> rigctld.Answer | None:
        """The next answer to a command; None at the end of the connection."""
        try:
            while data := self._socket.recv(4096):
                for answer in self._reader.feed(data):
                    if answer.command == name:
                        return answer
        except TimeoutError:
            raise DeviceError(f"rigctld did not answer {name} within {RIG_S:g} s") from None
        return None


class Wiring:
    """The key line and the carrier line of one radio; both may be pins of one device."""

    def __init__(self, key: dict[str, Any] | None, carrier: dict[str, Any] | None) -> None:
        self.senses = carrier is not None
        self.release = b""
        """Datagram that ends an over of a network radio."""
        self._key_config, self._carrier_config = key, carrier
        self._key: KeyLine | None = None
        self._carrier: CarrierLine | None = None
        self._devices: dict[str, SerialPort | Cm108] = {}
        self._wire = -1
        self._owing: RigKey | None = None

    def open_key(self) -> None:
        """Open the key line, if it is not open; it is off then."""
        if self._owing is not None:
            self._owing.settle()
            self._owing.close()
            self._owing = None
        if self._key is None and self._key_config is not None:
            self._key = self._make_key(dict(self._key_config))

    def open_carrier(self) -> None:
        """Open the carrier line, if it is not open."""
        if self._carrier is None and self._carrier_config is not None:
            self._carrier = self._make_carrier(dict(self._carrier_config))

    def wire(self, fd: int) -> None:
        """The socket of a network radio, in place of the former one."""
        if self._wire >= 0:
            os.close(self._wire)
        self._wire = fd

    def set(self, on: bool) -> None:
        """Key or release."""
        if self._key is not None:
            self._key.set(on)
        elif self._wire >= 0 and self.release and not on:
            for _ in range(RELEASES):
                with contextlib.suppress(OSError):  # a peer that is gone hears nobody
                    os.write(self._wire, self.release)
            self.release = b""

    def get(self) -> bool | None:
        """Read back."""
        return None if self._key is None else self._key.get()

    def carrier(self) -> bool:
        """Whether there is a carrier."""
        return self._carrier is not None and self._carrier.get()

    def close(self) -> None:
        """Let go of the lines; the key line off."""
        if isinstance(self._key, RigKey) and self._key.owes:
            self._owing, self._key = self._key, None
        for line in (self._key, self._carrier):
            if line is not None:
                with contextlib.suppress(OSError):
                    line.close()
        self._key = self._carrier = None
        self._devices.clear()

    def _make_key(self, config: dict[str, Any]) -> KeyLine:
        inverted = bool(config.get("inverted"))
        match config["by"]:
            case "serial":
                port = self._device(config["device"], SerialPort)
                return SerialKey(port, config["line"], inverted=inverted)
            case "gpio":
                return Gpio(config["chip"], config["line"], output=True, inverted=inverted)
            case "cm108":
                chip = self._device(config["device"], Cm108)
                return Cm108Key(chip, config["pin"], inverted=inverted)
            case "rigctld":
                return RigKey(config["host"], config["port"])
            case "pty":
                return PtyKey(config["path"])
        raise DeviceError(f"there is no key line {config['by']!r}")

    def _make_carrier(self, config: dict[str, Any]) -> CarrierLine:
        inverted = bool(config.get("inverted"))
        match config["by"]:
            case "serial":
                port = self._device(config["device"], SerialPort)
                return SerialCarrier(port, config["line"], inverted=inverted)
            case "gpio":
                return Gpio(config["chip"], config["line"], output=False, inverted=inverted)
            case "cm108":
                chip = self._device(config["device"], Cm108)
                return Cm108Carrier(chip, config["source"], inverted=inverted)
            case "pty":
                return PtyCarrier(config["path"])
        raise DeviceError(f"there is no carrier line {config['by']!r}")

    def _device(self, path: str, kind: Any) -> Any:
        device = self._devices.get(path)
        if device is None or device.fd < 0:
            device = self._devices[path] = kind(path)
        return device
